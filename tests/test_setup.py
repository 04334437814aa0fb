"""The first hour: init, preview, doctor, and the price of a study before it starts."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from person import run as person

from isolora.cli.runs import trained_too_long
from isolora.cli.studies import next_steps, study_summary
from isolora.config import load_study, parse
from isolora.config.study_config import StudyConfig
from isolora.cost.accelerators import Place
from isolora.cost.estimate import cost
from isolora.doctor import doctor
from isolora.errors import ConfigError
from isolora.fit import fit
from isolora.plan import NoRecommendation, plan
from isolora.runs.preview import preview
from isolora.store import Point, Run, Store
from isolora.study import design, study_price
from isolora.study.study_price import price_study
from isolora.table import read
from isolora.training import train
from isolora.training.recorder import better_before

TICKETS = "text,label\n" + "".join(f"w{3 + row % 9} w{4 + row % 7} w{5 + row % 5},{'ab'[row % 2]}\n" for row in range(60))


def test_preview_shows_what_carries_loss(tmp_path: Path) -> None:
    rows = [{"prompt": f"w{3 + row} w6", "completion": "w7 w8"} for row in range(40)]
    shown = preview(tiny.from_rows(tmp_path, "llama", "instruction", rows), count=1)
    assert shown.splits["train"] == shown.train_examples
    assert shown.rows[0]["text"].split()[1:] == ["w6", "w7", "w8", "w60"]
    assert shown.rows[0]["labelled_text"].split() == ["w7", "w8", "w60"]
    assert shown.labelled_share == pytest.approx(3 / 5)


def test_preview_counts_classes_and_what_was_left_out(tmp_path: Path) -> None:
    rows = [{"text": f"w{3 + row % 9}", "label": "ab"[row % 2]} for row in range(60)] + [{"text": "", "label": "a"}]
    config = tiny.from_rows(tmp_path, "llama", "sequence-classification", rows)
    data = config.data.model_copy(update={"on_error": "skip"})
    shown = preview(config.model_copy(update={"data": data}))
    assert sum(shown.classes.values()) == shown.train_examples
    assert set(shown.classes) == {"a", "b"}
    assert {row["labelled_text"] for row in shown.rows} <= {"a", "b"}


def test_preview_answers_in_json(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "tickets.csv").write_text(TICKETS)
    words = ["model=nano-55k", f"data.source={tmp_path / 'tickets.csv'}", "task=sequence-classification"]
    _, out, _ = person(monkeypatch, capsys, "preview", *words, "data.eval_examples=5", "--json")
    found = json.loads(out)
    assert {"splits", "left_out", "rows"} <= found.keys()
    assert all({"text", "labelled_text"} <= row.keys() for row in found["rows"])


def test_preview_says_once_that_labels_are_taken_for_numbers(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "marks.csv").write_text("text,label\n" + "".join(f"w{3 + row % 9},{row / 7:.2f}\n" for row in range(60)))
    words = ["model=nano-55k", f"data.source={tmp_path / 'marks.csv'}", "task=sequence-classification"]
    _, out, err = person(monkeypatch, capsys, "preview", *words)
    assert (out + err).count("make this a regression") == 1


@pytest.mark.parametrize("task", ["sequence-classification", "causal-lm"])
def test_held_out_documents_that_are_trained_on_are_said(task: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A folder's own splits are taken as they are, so that a loss on them may be no proof of anything."""
    rows = [f"w{3 + row % 9} w{row % 50},{'ab'[row % 2]}\n" for row in range(60)]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
    (tmp_path / "validation.csv").write_text("text,label\n" + "".join(rows[:7]) + "w40 w41 w42,a\n")
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"w50 w{row},a\n" for row in range(8)))
    words = ["model=nano-55k", f"data.source={tmp_path}", f"task={task}", "data.eval_examples=8"]
    _, out, _ = person(monkeypatch, capsys, "preview", *words, "--json")
    assert json.loads(out)["remark"] == "data: 7 of 8 documents of validation are in training too, word for word"
    _, out, _ = person(monkeypatch, capsys, "preview", *words, "data.eval_split=test", "--json")
    assert "in training too" not in json.loads(out)["remark"]


def test_init_writes_a_study_that_loads(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "tickets.csv").write_text(TICKETS)
    file = tmp_path / "study.yaml"
    words = ["init", file, "--data", tmp_path / "tickets.csv", "--model", "nano-55k", "--json"]
    found = json.loads(person(monkeypatch, capsys, *words)[1])
    assert found["task"] == "sequence-classification", "its columns say so"
    assert (found["rows"], found["columns"]) == (60, ["text", "label"])
    study = load_study(file)
    assert study.base["data"]["eval_examples"] == found["held_out"] == 6, "a tenth is held out, and no more is asked for"
    assert "# data.train_examples: [12, 24]" in file.read_text()
    assert {run.model for run in design.grid_runs(study)} == {"nano-55k"}
    assert study.base["training"]["batch_tokens"] == 2048, "one label an example: larger batches"
    assert price_study(study).runs == 3 * 2 + 2


@pytest.mark.parametrize("label", ["", ",yes"])
def test_init_measures_between_on_some_of_the_held_out(label: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Losses, and scores of classes too."""

    def between(rows: int) -> object:
        texts = "".join(f"w{row} w{row % 7} w{row % 5}{label and ',' + 'ab'[row % 2]}\n" for row in range(rows))
        (tmp_path / "own.csv").write_text(f"text{label and ',label'}\n{texts}")
        words = ["init", tmp_path / f"{rows}.yaml", "--data", tmp_path / "own.csv", "--model", "nano-55k"]
        assert person(monkeypatch, capsys, *words)[0] == 0
        return load_study(words[1]).base["training"].get("evaluate_between")

    assert [between(rows) for rows in (150, 600, 8000)] == [None, 27, 125]


def test_two_answers_to_a_prompt_are_two_texts(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    rows = [{"prompt": "w1 " * 60, "chosen": f"w2 w{row}", "rejected": "w3"} for row in range(3000)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    words = ["init", tmp_path / "pairs.yaml", "--data", tmp_path / "pairs.jsonl", "--model", "nano-55k", "--task", "preference"]
    found = json.loads(person(monkeypatch, capsys, *words, "--tokens", 500_000, "--json")[1])
    assert 150 < found["held_out"] < 250, "300, all that there are, would take more than its share"
    training = load_study(tmp_path / "pairs.yaml").base["training"]
    assert (training["tokens"], training["batch_tokens"]) == (500_000, 2048), "a pair is 200 tokens and more"


def test_init_maps_columns_and_compares_numbers_of_examples(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "own.csv").write_text(TICKETS.replace("text,label", "body,topic"))
    words = ["--data", tmp_path / "own.csv", "--model", "nano-55k", "--train-examples", 10, "--train-examples", 40, "--json"]
    both = ["--columns", "text=body", "--columns", "label=topic"]
    found = json.loads(person(monkeypatch, capsys, "init", tmp_path / "a.yaml", *words, *both)[1])
    assert found["task"] == "sequence-classification"
    study = load_study(tmp_path / "a.yaml")
    assert study.base["data"]["columns"] == {"text": "body", "label": "topic"}
    assert {run.data.train_examples for run in design.grid_runs(study)} == {10, 40}
    person(monkeypatch, capsys, "init", tmp_path / "b.yaml", *words, "--columns", "text=body")
    data = load_study(tmp_path / "b.yaml").base["data"]
    assert (data["text_field"], "columns" in data) == ("body", False), "plain text has one column"


def test_init_finds_the_tokens_that_a_time_buys(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Here the study as it would be without a time trains for 50 s, and measures for a part of that; four fifths of a study are
    either."""
    timed: list[str] = []
    monkeypatch.setattr(study_price, "calibrate", lambda config: timed.append(config.model))
    monkeypatch.setattr(study_price.StudyPrice, "seconds", property(lambda price: 50.0))
    (tmp_path / "tickets.csv").write_text(TICKETS * 60)
    words = ["--data", tmp_path / "tickets.csv", "--model", "nano-55k"]

    def tokens(*more: Any) -> tuple[int, str]:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        status, _, said = person(monkeypatch, capsys, "init", file, *words, *more)
        return (load_study(file).base["training"]["tokens"], said) if status == 0 else (status, said)

    usual, _ = tokens()
    price = price_study(load_study(tmp_path / "1.yaml"))
    assert 0.05 < (measured := price.evaluation_flops / price.flops) < 0.3
    bought, said = tokens("--time", "1min")
    assert bought == int(float(f"{usual * 0.8 * 60 / (50 * (1 + measured)):.2g}"))
    assert f"1min for the study: {bought:,} tokens a run at most\n" in said
    assert set(timed) == {"nano-55k"}
    most, said = tokens("--time", "100h")
    assert most == 2 * usual, "four passes, and two without a time"
    assert "no more than 4 passes are worth it" in said
    assert tokens("--time", "1s")[0] == 8192
    assert "--time: 1e9flops is no time" in tokens("--time", "1e9flops")[1]
    assert "name one of the two" in tokens("--time", "1h", "--tokens", 9000)[1]


def test_fewer_held_out_rows_than_asked_for_are_said(tmp_path: Path, capsys: Any) -> None:
    rows = [{"text": f"w{3 + row % 9}", "label": "ab"[row % 2]} for row in range(40)]
    config = tiny.from_rows(tmp_path, "llama", "sequence-classification", rows)
    config = config.model_copy(update={"data": config.data.model_copy(update={"eval_examples": 500})})
    held_out = preview(config).held_out_examples
    line = f"data.eval_examples: 500 asked for, validation has {held_out}; all of them are used"
    assert line in str(preview(config))
    train(config, tmp_path / "run", quiet=True)
    assert capsys.readouterr().err.count(line) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_was_trained_for_too_long_says_so(kept: bool, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "stack" / "step-000000007").mkdir(parents=True)
    points = [{"step": 7, "tokens": 100, "passes": 1.0, "loss": 2.0}, {"step": 9, "tokens": 120, "passes": 1.2, "loss": 2.5}]
    assert better_before(points[:1]) == {}
    found = better_before(points)["best"]
    [said] = trained_too_long({"best": found, "folder": str(tmp_path if kept else tmp_path / "other")})
    assert "lowest at step 7 (100 tokens): 2, not at the end" in said
    assert ("--checkpoint 7" in said) == kept
    assert ("training.tokens=100" in said) != kept
    assert trained_too_long({}) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--columns", "text=bdy"], "--columns: unknown column of"),
        (["--columns", "text"], "--columns: expected text=COLUMN, got 'text'"),
        (["--train-examples", "500"], "data.train_examples: 500 asked for"),
        (["--task", "question-answering"], "--task: unknown task for these columns 'question-answering'"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_init_says_what_does_not_fit(words: list[str], line: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "tickets.csv").write_text(TICKETS)
    given = ["init", tmp_path / "study.yaml", "--data", tmp_path / "tickets.csv", *words]
    status, _, said = person(monkeypatch, capsys, *given)
    assert status == 2
    assert line in said
    assert not (tmp_path / "study.yaml").exists()


def test_init_guesses_no_task_where_no_column_is_known(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A study of plain text that could not be read would be the alternative."""
    rows = (f"{row},w{3 + row % 9} w{4 + row % 7} w5,{'ab'[row % 2]}\n" for row in range(60))
    own = tmp_path / "own.csv"
    own.write_text("id,body,topic\n" + "".join(rows))
    status, _, said = person(monkeypatch, capsys, "init", tmp_path / "study.yaml", "--data", own)
    assert status == 2
    assert "(id, body, topic)" in said
    assert "--columns text=body --columns label=COLUMN" in said, "the wordiest column is the text"
    words = ["task=causal-lm", f"data.source={own}", "data.on_error=skip"]
    status, _, said = person(monkeypatch, capsys, "preview", *words)
    assert status == 2
    assert said.count("data.text_field: say which column holds the text") == 1, "once, not once a row"


TURNS = [{"role": "user", "content": "w55"}, {"role": "assistant", "content": "w6"}]
SHARED = [{"from": "human", "value": "w55"}, {"from": "gpt", "value": "w6"}]


@pytest.mark.parametrize(
    ("row", "words", "task"),
    [
        ({"id": "x", "messages": TURNS}, [], "conversation"),
        ({"id": "x", "talk": SHARED}, ["--columns", "messages=talk"], "conversation"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, [], "conversation"),
        ({"prompt": "w55", "completion": "w6"}, [], "instruction"),
        ({"prompt": "w55", "chosen": "w6", "rejected": "w7"}, [], "preference"),
    ],
)
def test_init_knows_trls_columns_by_what_they_hold(
    row: dict[str, Any], words: list[str], task: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Tasks that read several forms have no column that all need; they were never proposed, and refused when named."""
    rows = [json.loads(json.dumps(row).replace("w55", f"w{number}")) for number in range(60)]
    source = tiny.json_lines(tmp_path / "rows.jsonl", rows)
    status, _, said = person(monkeypatch, capsys, "init", tmp_path / "s.yaml", "--data", source, *words, "--model", "nano-55k")
    assert (status, load_study(tmp_path / "s.yaml").base["task"]) == (0, task)
    assert f"valid: {task}, " in said


def test_init_says_which_column_holds_turns(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    source = tiny.json_lines(tmp_path / "rows.jsonl", [{"id": "a long text of an id", "talk": SHARED}] * 9)
    status, _, said = person(monkeypatch, capsys, "init", tmp_path / "s.yaml", "--data", source)
    assert status == 2
    assert "say which one holds the turns: --columns messages=talk" in said


def test_init_writes_letters_as_they_are(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "t.csv").write_text(TICKETS.replace("text,label", "Text,Zuständig"), encoding="utf-8")
    words = ["--data", str(tmp_path / "t.csv"), "--columns", "text=Text", "--columns", "label=Zuständig", "--model", "nano-55k"]
    assert person(monkeypatch, capsys, "init", tmp_path / "s.yaml", *words)[0] == 0
    assert '"label": "Zuständig"' in (tmp_path / "s.yaml").read_text(encoding="utf-8")
    assert load_study(tmp_path / "s.yaml").base["data"]["columns"]["label"] == "Zuständig"


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    from isolora.cli.setup import init

    (tmp_path / "study.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        init(tmp_path / "study.yaml", "debian-descriptions")
    assert (tmp_path / "study.yaml").read_text() == "mine"


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isolora.doctor._version", lambda package: None if package == "trl" else "1.0")
    found = doctor()
    assert found.extras["trl"] == ["trl"]
    assert any("pip install 'isolora[trl]'" in problem for problem in found.problems)
    assert found.gflops_per_second["float32"] > 0
    assert any("hub" in problem for problem in found.problems), "HF_HUB_OFFLINE is set in tests"
    json.dumps(found.to_json())


def test_a_studys_price_is_what_its_runs_consume(tmp_path: Path) -> None:
    run = tiny.from_files(tmp_path, steps=4)
    base = {"model": run.model, "data": run.data.model_dump(), "training": {"steps": 4, "batch_tokens": 60}}
    grid = {"method.rank": [2, 4], "training.learning_rate": [1e-3, 1e-2]}
    study = parse(StudyConfig, {"base": base, "grid": grid, "own_seeds": False})
    price = price_study(study, Place("H100", 0.4, price_per_hour=2.5))
    assert price.runs == 4
    consumed = [train(config, tmp_path / str(k), quiet=True) for k, config in enumerate(design.grid_runs(study))]
    assert price.flops == pytest.approx(sum(ended["flops"] for ended in consumed), rel=1e-12)
    assert price.peak_memory_bytes == max(ended["peak_memory_bytes"] for ended in consumed)
    assert price.price == pytest.approx(price.seconds / 3600 * 2.5)
    assert price.evaluation_flops == sum(cost(config).evaluation_flops for config in design.grid_runs(study))
    assert str(price).endswith("of held-out losses, 7% of all")
    often = base | {"training": {"steps": 4, "batch_tokens": 60, "evaluate_from": 60, "evaluate_ratio": 1.1}}
    words = str(price_study(parse(StudyConfig, {"base": often, "grid": grid})))
    assert words.endswith("19% of all; fewer data.eval_examples would make it less, or training.evaluate_between")


def test_memory_is_of_the_configuration_not_of_the_process(tmp_path: Path) -> None:
    """After a large run a small one needs no more than before."""
    config = tiny.from_files(tmp_path, steps=2)
    before = train(config, tmp_path / "before", quiet=True)["peak_memory_bytes"]
    large = [bytearray(200_000_000)]
    large.clear()
    after = train(config.model_copy(update={"seed": 1}), tmp_path / "after", quiet=True)["peak_memory_bytes"]
    assert after == pytest.approx(before, rel=0.2)
    assert after < 5_000_000


def a_point(run: str, loss: float) -> Point:
    numbers = {field.name: 1 for field in fields(Point) if field.default is MISSING}
    return Point(**{**numbers, "run": run, "tokens": 4096, "loss": loss})


def test_status_lists_runs_by_what_they_are(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    store = Store(tmp_path)
    for name, rank in (("aa", 4), ("bb", 16), ("cc", None)):
        store.add([Run(name, "grid", "nano-55k", "causal-lm", "lora" if rank else "full", rank, 5e-3, 0, "{}")], {})
    store.write([a_point("aa", 3.25), a_point("bb", 3.125)])
    store.set_state(["aa", "bb"], "DONE")
    (tmp_path / "adapters" / "bb").mkdir(parents=True)
    _, out, _ = person(monkeypatch, capsys, "status", tmp_path, "--runs")
    assert [line.split() for line in out.splitlines()[-4:]] == [
        ["base", "adapter", "rate", "stage", "state", "tokens", "loss", "folder", "or", "run"],
        ["nano-55k", "lora,", "rank", "16", "0.005", "grid", "complete", "4,096", "3.1250", f"{tmp_path}/adapters/bb"],
        ["nano-55k", "lora,", "rank", "4", "0.005", "grid", "complete", "4,096", "3.2500", "aa"],
        ["nano-55k", "full", "0.005", "grid", "queued", "0", "cc"],
    ]
    found = json.loads(person(monkeypatch, capsys, "status", tmp_path, "--runs", "--json")[1])
    assert [(line["run"], line["rank"], line["loss"]) for line in found["each"]] == [
        ("aa", 4, 3.25), ("bb", 16, 3.125), ("cc", None, None)
    ]  # fmt: skip
    assert study_summary(store)[1].endswith(f"lowest loss: 3.1250, nano-55k with lora of rank 16: {tmp_path}/adapters/bb")
    assert next_steps(store) == f"\nnext: isolora report {tmp_path}\n      isolora plan {tmp_path} --budget 2flops", (
        "twice the largest run"
    )


def test_the_next_plan_that_a_study_suggests_has_an_answer(tmp_path: Path) -> None:
    """One of the largest runs was lucky: twice its FLOPs are expected to do worse than it, a few times more to do better."""
    store = Store(tmp_path)
    for n, seed, luck in ((1e5, 0, 1.0), (3e5, 0, 1.0), (1e6, 0, 1.0), (1e6, 1, 0.9)):
        name, tokens = f"n{n:.0f}-{seed}", [4096 * 2**k for k in range(7)]
        store.add([Run(name, "grid", f"n{n:.0f}", "causal-lm", "lora", 8, 5e-3, seed, "{}")], {})
        losses = [luck * (1.5 + 40 * n**-0.3 + 20 * d**-0.3) for d in tokens]
        sizes = {"body_parameters": int(n), "model_parameters": int(n), "trainable_parameters": int(8 * n**0.5)}
        store.write(
            [
                replace(a_point(name, loss), tokens=d, unique_tokens=d, flops=int(4 * n * d), **sizes)
                for d, loss in zip(tokens, losses, strict=True)
            ]
        )
        store.set_state([name], "DONE")
    suggested = next_steps(store).rpartition(" ")[2]
    table = read(tmp_path)
    law = fit(table, bootstrap=200)
    with pytest.raises(NoRecommendation, match="already beats"):
        plan(law, table, f"{2 * table['flops'].max():g}flops")
    assert suggested != f"{2 * table['flops'].max():.2g}flops".replace("e+", "e")
    assert plan(law, table, suggested).model == "n1000000"
