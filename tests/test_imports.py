"""Importers: each reads its tool's own format; what is dropped, assumed or missing is said; the table is fitted as it is."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.csv
import pytest

from isolora import cli, registry
from isolora.errors import ConfigError, TableError
from isolora.imports import import_runs
from isolora.imports.tracked_points import setting_columns
from isolora.table import read

SETTINGS = {"model_name_or_path": "acme/base", "learning_rate": 2e-4, "lora_r": 8, "peft_type": "LORA"}
CURVE = {100: 3.0, 200: 2.5, 400: 2.2}
"""Steps -> held-out loss; each step is 1,000 tokens."""


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def wandb_history(folder: Path) -> Path:
    """Runs with their history, as a script over the public API writes them; a setting is wrapped in `value`."""
    config = {name: {"value": value, "desc": None} for name, value in SETTINGS.items()}
    rows = [{"_step": step, "_runtime": step / 10, "eval/loss": loss, "eval/accuracy": 0.5} for step, loss in CURVE.items()]
    noted = [{"_step": 50, "train/loss": 4.0}, *({**row, "train/num_input_tokens_seen": row["_step"] * 1000} for row in rows)]
    put(folder / "runs.json", [{"name": "run", "config": config, "history": noted}])
    return folder / "runs.json"


def wandb_chart(folder: Path) -> Path:
    """A chart's export, and the runs table beside it."""
    lines = ['"Step","run - eval/loss","run - eval/loss__MIN","run - eval/loss__MAX"']
    lines += [f'"{step}","{loss}","{loss}","{loss}"' for step, loss in CURVE.items()]
    put(folder / "chart.csv", "\n".join(lines))
    more = {"Runtime": 40, "train/num_input_tokens_seen": 400_000, "_step": 400}
    table = {"Name": "run", "State": "finished", **SETTINGS, **more}
    put(folder / "table.csv", ",".join(f'"{name}"' for name in table) + "\n" + ",".join(map(str, table.values())))
    return folder


def tensorboard(folder: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "run"))
    writer.add_text("args", json.dumps(SETTINGS))
    for step, loss in CURVE.items():
        writer.add_scalar("eval/loss", loss, step)
        writer.add_scalar("train/num_input_tokens_seen", step * 1000, step)
        writer.add_scalar("eval/accuracy", 0.5, step)
    writer.close()
    return folder


def mlflow(folder: Path) -> Path:
    run = folder / "mlruns" / "7" / "0a1b"
    put(folder / "mlruns" / "7" / "meta.yaml", "experiment_id: '7'\nname: sweep\n")
    put(run / "meta.yaml", "run_id: 0a1b\nrun_name: run\nlifecycle_stage: active\nstatus: 3\n")
    put(folder / "mlruns" / "7" / "dead" / "meta.yaml", "run_name: old\nlifecycle_stage: deleted\n")
    (folder / "mlruns" / "7" / "dead" / "metrics").mkdir()
    put(run / "metrics" / "eval_loss", "".join(f"17000000{step} {loss} {step}\n" for step, loss in CURVE.items()))
    put(run / "metrics" / "train" / "num_input_tokens_seen", "1700 400000.0 400\n")
    put(run / "metrics" / "eval_accuracy", "".join(f"1700 0.5 {step}\n" for step in CURVE))
    for name, value in SETTINGS.items():
        put(run / "params" / name, str(value))
    return folder / "mlruns"


def optuna(folder: Path) -> Path:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=f"sqlite:///{folder / 'optuna.db'}", study_name="run", direction="minimize")
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-5, 1e-3)
    trial.suggest_categorical("lora_r", [8])
    trial.set_user_attr("model_name_or_path", "acme/base")
    trial.set_user_attr("peft_type", "LORA")
    trial.set_user_attr("tokens", 400_000)
    for step, loss in CURVE.items():
        trial.report(loss, step)
    study.tell(trial, CURVE[400])
    study.ask()
    return folder / "optuna.db"


def trackio(folder: Path) -> Path:
    path = folder / "project.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)"
        )
        connection.execute("CREATE TABLE configs (id INTEGER PRIMARY KEY, run_name TEXT, config TEXT, created_at TEXT)")
        connection.execute("INSERT INTO configs VALUES (1, 'run', ?, '')", (json.dumps({**SETTINGS, "_Username": "x"}).encode(),))
        for step, loss in CURVE.items():
            logged = json.dumps({"eval/loss": loss, "tokens": step * 1000, "eval/accuracy": 0.5})
            connection.execute(
                "INSERT INTO metrics (timestamp, run_name, step, metrics) VALUES ('', 'run', ?, ?)", (step, logged)
            )
    connection.close()
    return path


def trainer(folder: Path) -> Path:
    history: list[dict[str, Any]] = []
    for step, loss in CURVE.items():
        tokens = {"num_input_tokens_seen": step * 1000, "step": step}
        history += [{"loss": 3.3, "learning_rate": 2e-4, **tokens}, {"eval_loss": loss, "eval_accuracy": 0.5, **tokens}]
    state = {"global_step": 400, "total_flos": 4e15, "num_input_tokens_seen": 400_000, "log_history": history}
    put(folder / "run" / "checkpoint-400" / "trainer_state.json", state)
    put(folder / "run" / "checkpoint-200" / "trainer_state.json", {**state, "global_step": 200, "log_history": history[:4]})
    adapter = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "acme/base"}
    put(folder / "run" / "checkpoint-400" / "adapter_config.json", adapter)
    return folder


def test_the_trainers_rate_is_that_of_step_0(tmp_path: Path) -> None:
    """A linear schedule without warm-up, logged every 50 steps: runs of other lengths have one rate, not several."""
    for steps in (400, 800):
        at = range(50, steps + 1, 50)
        history = [{"step": step, "learning_rate": 2e-4 * (1 - step / steps), "eval_loss": 3 - step / 1e3} for step in at]
        state = {"global_step": steps, "total_flos": 1e15, "num_input_tokens_seen": steps * 1000, "log_history": history}
        put(tmp_path / f"run-{steps}" / "trainer_state.json", state)
    import_runs(tmp_path, "trainer", tmp_path / "out.csv")
    found = read(tmp_path / "out.csv")
    assert set(found["learning_rate"]) == {2e-4}
    assert set(found["schedule"]) == {"decaying"}


def test_the_kind_of_schedule_comes_with_the_settings() -> None:
    config = {"lr_scheduler_type": "SchedulerType.COSINE", "learning_rate": 1e-4}
    assert setting_columns(config) == {"learning_rate": 1e-4, "schedule": "cosine"}


def test_what_else_runs_differ_in_is_kept_and_said(tmp_path: Path) -> None:
    """Six runs, two of each of three batch sizes; names, folders and lengths differ for every run."""
    rows = []
    for number in range(6):
        config = {
            "per_device_train_batch_size": 8 * 2 ** (number // 2),
            "lora_dropout": 0.1,
            "output_dir": f"out/{number // 3}",
            "num_train_epochs": 1 + number % 2,
            "seed": number % 2,
            "nested": {"dataset_name": "ab"[number % 2]},
        }
        history = [{"_step": step, "eval/loss": 3 - step / 1e3, "train/num_input_tokens_seen": step * 1e3} for step in (100, 200)]
        rows.append({"name": f"r{number}", "config": config, "history": history})
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    found = import_runs(tmp_path / "runs.json", "wandb", tmp_path / "out.csv")
    said = "runs differ in dataset_name, per_device_train_batch_size as well, which no law reads"
    assert f"{said}: --where dataset_name=VALUE takes some" in found.notes
    table = read(tmp_path / "out.csv")
    assert len(table.having("dataset_name", "b")) == 6
    assert len(table.having("per_device_train_batch_size", "16")) == 4
    assert not {"lora_dropout", "output_dir", "num_train_epochs"} & table.columns.keys()


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "wandb history": ("wandb", wandb_history),
    "wandb chart": ("wandb", wandb_chart),
    "tensorboard": ("tensorboard", tensorboard),
    "mlflow": ("mlflow", mlflow),
    "optuna": ("optuna", optuna),
    "trackio": ("trackio", trackio),
    "trainer": ("trainer", trainer),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_same_run_from_every_tool(kind: str, ending: str, tmp_path: Path) -> None:
    tool, make = FORMATS[kind]
    out = tmp_path / f"out{ending}"
    found = import_runs(make(tmp_path), tool, out)
    assert (found.runs, found.points) == (1, 3)
    table = read(out)
    assert list(table["loss"]) == pytest.approx(list(CURVE.values()))  # TensorBoard keeps float32
    assert list(table["tokens"]) == [1e5, 2e5, 4e5]
    assert set(table["model"]) == {"acme/base"}
    assert set(table["method"]) == {"lora"}
    assert set(table["rank"]) == {8}
    assert (table["learning_rate"] > 0).all()
    if tool not in ("optuna", "wandb"):
        assert set(table["accuracy"]) == {0.5}


def test_what_was_dropped_and_assumed_is_counted(tmp_path: Path) -> None:
    found = import_runs(trainer(tmp_path), "trainer", tmp_path / "t.csv")
    assert found.left_out == {"earlier checkpoints of the same runs": 1}
    assert any(note.startswith("2 points have flops by the share of steps") for note in found.notes)
    assert any("as if every weight were trained" in note for note in found.notes)
    assert list(read(found.out)["flops"]) == [1e15, 2e15, 4e15]
    history = import_runs(wandb_history(tmp_path), "wandb", tmp_path / "w.csv")
    assert history.left_out == {"logged steps without a held-out loss": 1}
    chart = import_runs(wandb_chart(tmp_path / "chart"), "wandb", tmp_path / "c.csv")
    assert chart.left_out["columns of a chart's bounds (__MIN, __MAX)"] == 2
    deleted = import_runs(mlflow(tmp_path), "mlflow", tmp_path / "m.csv")
    assert deleted.left_out == {"deleted runs": 1}


def test_optuna_says_what_its_value_is(tmp_path: Path) -> None:
    found = import_runs(optuna(tmp_path), "optuna", tmp_path / "o.csv")
    assert found.left_out == {"trials that are running": 1}
    assert any("is minimised: read as the loss" in note for note in found.notes)


@pytest.mark.parametrize("tool", ["optuna", "trackio"])
def test_a_database_lies_under_any_name(tool: str, tmp_path: Path) -> None:
    odd = tmp_path / "50% of #my runs?"
    odd.mkdir()
    source = {"optuna": optuna, "trackio": trackio}[tool](tmp_path)
    source = source.rename(odd / source.name)
    assert import_runs(source, tool, tmp_path / "t.csv").runs == 1


def test_optuna_reads_and_writes_nothing(tmp_path: Path) -> None:
    """Of another program's file Optuna made a storage of its own."""
    source = optuna(tmp_path)
    held = source.read_bytes()
    assert import_runs(source, "optuna", tmp_path / "o.csv").runs == 1
    assert source.read_bytes() == held
    with closing(sqlite3.connect(other := tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    held = other.read_bytes()
    with pytest.raises(TableError, match=r"other.db is no storage of Optuna: it has no table studies, trials, version_info"):
        import_runs(other, "optuna", tmp_path / "p.csv")
    assert other.read_bytes() == held


def test_tokens_follow_from_batches_where_none_were_logged(tmp_path: Path) -> None:
    config = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_seq_length": 128}
    run = {"name": "a", "config": config, "history": [{"_step": 10, "train/loss": 2.0}, {"_step": 20, "train/loss": 1.5}]}
    found = import_runs(put(tmp_path / "runs.json", [run]), "wandb", tmp_path / "t.csv")
    assert list(read(found.out)["tokens"]) == [10240, 20480]
    assert any(note.startswith("2 points have tokens as steps x batch x length") for note in found.notes)
    assert any(note.startswith("2 points have the training loss") for note in found.notes)
    assert any("no model is named" in note for note in found.notes)


def test_a_run_without_a_held_out_loss_is_left_out_where_others_have_one(tmp_path: Path) -> None:
    """It had stood in the table with its training loss, beside the others' held-out ones."""
    runs = [
        {"name": "ended", "config": {"model": "m"}, "summary": {"_step": 9, "eval/loss": 2.5, "train/loss": 2.0}},
        {"name": "crashed", "config": {"model": "m"}, "summary": {"_step": 4, "train/loss": 2.3}},
    ]
    found = import_runs(put(tmp_path / "runs.json", runs), "wandb", tmp_path / "t.csv")
    assert found.left_out == {"runs without a held-out loss, which others have": 1}
    assert list(read(found.out)["loss"]) == [2.5]
    assert not any("training loss" in note for note in found.notes)


def test_results_of_peft(tmp_path: Path) -> None:
    result = {
        "run_info": {
            "peft_config": {"peft_type": "LORA", "r": 32},
            "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "optimizer_kwargs": {"lr": 1e-4}},
        },
        "train_info": {
            "num_trainable_params": 9_175_040,
            "accelerator_memory_max": 2**34,
            "metrics": [
                {"step": 250, "train loss": 0.9, "valid accuracy": 0.3, "elapsed time": 100.0},
                {"step": 500, "train loss": 0.7, "test accuracy": 0.5, "train time": 200.0, "train total tokens": 10_000_000},
            ],
        },
    }
    put(tmp_path / "results" / "lora--r32.json", result)
    put(tmp_path / "results" / "readme.json", {"no": "result"})
    found = import_runs(tmp_path / "results", "peft", tmp_path / "t.csv")
    table = read(found.out)
    assert (list(table["loss"]), list(table["tokens"])) == ([0.9, 0.7], [5e6, 1e7])
    assert list(table["accuracy"]) == [0.3, 0.5]
    assert set(table["rank"]) == {32}
    assert (table["body_parameters"] > 2e9).all(), "the base's size is a packaged fact"
    assert found.left_out == {"files that are no results": 1}


@pytest.mark.parametrize("tool", sorted(registry.names("importer")))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_foreign_files_are_refused_in_a_line(tool: str, tmp_path: Path) -> None:
    put(tmp_path / "folder" / "notes.txt", "hello")
    put(tmp_path / "file.json", "{no json")
    for source in (tmp_path / "folder", tmp_path / "file.json", tmp_path / "lost"):
        with pytest.raises(TableError, match="SOURCE: ") as caught:
            import_runs(source, tool, tmp_path / "t.csv")
        assert "\n" not in str(caught.value)


def test_wrong_words_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown importer 'wandbb'; did you mean 'wandb'"):
        import_runs(tmp_path, "wandbb", tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"--out: unknown kind of table '\.xls'"):
        import_runs(tmp_path, "wandb", tmp_path / "t.xls")


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["import", str(trainer(tmp_path)), "--from", "trainer", "--out", str(tmp_path / "t.csv"), "--json"]
    monkeypatch.setattr(sys, "argv", ["isolora", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["points"] == 3
    assert answer["columns"][:5] == ["run", "model", "method", "rank", "learning_rate"]
    assert pyarrow.csv.read_csv(tmp_path / "t.csv").num_rows == 3


ROWS = [
    {"Name": run, "d": 1000.0 * d, "eval_loss": 3 - d / 10 - place / 100} for place, run in enumerate("ab") for d in (1, 2, 4)
]
"""Two runs of three evaluations each, whose rows give no step."""


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.csv.write_csv(pyarrow.Table.from_pylist(rows), path)
    return path


def test_rows_without_a_step_are_evaluations_each(tmp_path: Path) -> None:
    found = import_runs(written(tmp_path / "rows.csv", [*ROWS, ROWS[0]]), "wandb", tmp_path / "t.csv")
    assert (found.points, found.runs) == (6, 2)
    assert found.left_out == {"rows that repeat another one of their run": 1}
    assert "6 points have the place of their row as step, since none was given" in found.notes
    points = read(found.out)
    assert points["tokens"].tolist() == [1000, 2000, 4000] * 2
    assert points["loss"].tolist() == pytest.approx([row["eval_loss"] for row in ROWS])


@pytest.mark.parametrize("stepped", [True, False])
@pytest.mark.parametrize("kept", [2.5, 2.2])
def test_a_summary_is_no_evaluation_more(stepped: bool, kept: float, tmp_path: Path) -> None:
    """W&B's summary has the last values, or the best, at the last step, where training alone may have been logged."""
    losses = {1: 2.2, 2: 2.5, 3: None}
    history = [{"eval/loss": loss, "train/loss": 2.0, **({"_step": step} if stepped else {})} for step, loss in losses.items()]
    summary = {"eval/loss": kept, "train/loss": 2.0, "total_flos": 3e15, **({"_step": 3} if stepped else {})}
    run = {"name": "a", "config": {}, "history": history, "summary": summary}
    found = import_runs(put(tmp_path / "runs.json", [run]), "wandb", tmp_path / "t.csv")
    assert (found.points, found.left_out) == (2, {"logged steps without a held-out loss": 1})
    assert read(found.out)["loss"].tolist() == [2.2, 2.5]
    assert read(found.out)["flops"].tolist() == [1e15, 2e15]


def test_runs_of_one_name_and_other_settings_are_several(tmp_path: Path) -> None:
    """As in an exported table of runs, where several have one name; tokens are not guessed from a batch without steps."""
    rows = [{"Name": "sweep", "lr": rate, "batch_size": 8, "max_length": 64, "eval_loss": 2.0} for rate in (1e-4, 2e-4, 4e-4)]
    found = import_runs(written(tmp_path / "runs.csv", rows), "wandb", tmp_path / "t.csv")
    table = read(found.out)
    assert table["run"].tolist() == ["sweep", "sweep (2)", "sweep (3)"]
    assert table["learning_rate"].tolist() == [1e-4, 2e-4, 4e-4]
    assert "tokens" not in table


def test_an_evaluation_that_takes_anothers_place_is_counted(tmp_path: Path) -> None:
    """MLflow without steps logs all at step 0; a resumed run of any tool logs a step twice."""
    metrics = tmp_path / "mlruns" / "0" / "run" / "metrics"
    put(metrics / "eval_loss", "1 3.0 0\n2 2.5 0\n3 2.0 0")
    put(metrics.parent / "meta.yaml", "run_name: r")
    found = import_runs(tmp_path / "mlruns", "mlflow", tmp_path / "t.csv")
    assert found.left_out == {"evaluations in whose place the same step of the run has a later one": 2}
    twice = [{"run": "a", "step": step, "eval_loss": loss} for step, loss in ((1, 3.0), (2, 2.5), (2, 2.4))]
    resumed = import_runs(written(tmp_path / "twice.csv", twice), "wandb", tmp_path / "u.csv")
    assert resumed.left_out == {"evaluations in whose place the same step of the run has a later one": 1}
    assert read(resumed.out)["loss"].tolist() == [3.0, 2.4]


def test_counts_that_a_table_of_runs_holds_are_no_settings(tmp_path: Path) -> None:
    rows = [
        {"Name": str(i), "train/total_flos": 1e15 * (i % 2 + 1), "num_input_tokens_seen": 5e3, "eval/loss": 3 - i / 9}
        for i in range(6)
    ]
    rows = [{**row, "Runtime": 10.0 + i % 2, "eval/accuracy": 0.5 + i % 3 / 10} for i, row in enumerate(rows)]
    found = import_runs(written(tmp_path / "runs.csv", rows), "wandb", tmp_path / "t.csv")
    assert not [note for note in found.notes if "differ" in note]
    assert read(found.out)["accuracy"].tolist() == pytest.approx([0.5, 0.6, 0.7] * 2)
