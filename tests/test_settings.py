"""What a study varies besides base, method, rank and rate: nothing is pooled unsaid, and what is chosen is trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from typer.testing import CliRunner

from isolora.cli import app
from isolora.cli.studies import study_summary
from isolora.config import StudyConfig, parse
from isolora.errors import TableError
from isolora.fit import best_learning_rates, fit
from isolora.plan import plan
from isolora.plan.next_study import next_study
from isolora.store import Store
from isolora.study.running import run_study
from isolora.study.verify import measured_base
from isolora.table import SETTINGS, Table, differences, read

torch.set_num_threads(1)


def run(name: str, stage: str = "grid", model: str = "base", rank: int = 4, **config: Any) -> dict[str, Any]:
    return {"run": name, "stage": stage, "model": model, "method": "lora", "rank": rank, "config": json.dumps(config)}


def test_what_runs_differ_in() -> None:
    runs = [
        run("a", seed=1, training={"batch_tokens": 64, "tokens": 100}, data={"max_length": 32, "train_examples": 5}),
        run("b", seed=2, training={"batch_tokens": 128, "tokens": 200}, data={"max_length": 64, "train_examples": 9}),
    ]
    assert differences(runs) == {
        "a": {"measured_on": "data.max_length=32", "settings": "training.batch_tokens=64"},
        "b": {"measured_on": "data.max_length=64", "settings": "training.batch_tokens=128"},
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"seed": 1}, {"seed": 2}),
        ({"data": {"train_examples": 5, "seed": 1}}, {"data": {"train_examples": 9, "seed": 2}}),
        ({"training": {"tokens": 5, "evaluate_from": 1}}, {"training": {"tokens": 9, "evaluate_from": 3}}),
        ({"data": {"source": "texts.jsonl"}}, {"data": {"source": "./more/../texts.jsonl"}}),
        ({"training": {"batch_tokens": 5}}, {"training": {}}),  # an earlier version did not write the key
    ],
)
def test_what_laws_see_or_do_not_need_is_no_difference(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert differences([run("a", **one), run("b", **other)]) == {"a": {}, "b": {}}


def test_what_follows_the_base_or_the_rank_is_no_choice() -> None:
    """Alpha twice the rank, larger batches for the larger base: every run of one base and rank has the same."""
    runs = [run("a", rank=4, method={"alpha": 8}), run("b", rank=8, method={"alpha": 16})]
    assert differences(runs) == {"a": {}, "b": {}}
    runs.append(run("c", rank=8, method={"alpha": 32}))
    assert differences(runs)["b"] == {"settings": "method.alpha=16"}


def test_trials_of_rates_and_proofs_are_no_difference() -> None:
    others = [run(stage, stage=stage, data={"max_length": 64}) for stage in ("tune", "verify")]
    assert differences([run("a", data={"max_length": 32}), *others]) == {"a": {}, "tune": {}, "verify": {}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sizes with and without so much dropout that nothing is learnt."""
    folder = tmp_path_factory.mktemp("settings")
    sizes = {"hidden_size": 16, "intermediate_size": 24}, {"hidden_size": 24, "intermediate_size": 32}, {}
    models = [tiny.save(folder / f"base-{k}", tiny.llama(**size), eos_token="w60") for k, size in enumerate(sizes)]
    data = {"source": str(tiny.texts(folder / "texts.txt")), "eval_examples": 5, "max_length": 24}
    training = {"steps": 30, "batch_tokens": 64, "evaluate_from": 100, "learning_rate": 1e-2}
    base = {"data": data, "training": training, "method": {"rank": 2}}
    grid = {"model": models, "method.dropout": [0.0, 0.9]}
    run_study(parse(StudyConfig, {"base": base, "grid": grid}), folder / "study", quiet=True)
    return folder / "study"


def test_the_best_of_each_cell_is_fitted(study: Path) -> None:
    points = read(study)
    chosen = best_learning_rates(points)
    assert set(points[SETTINGS]) == {"method.dropout=0.0", "method.dropout=0.9"}
    for model in set(points["model"]):
        [kept] = set(chosen[SETTINGS][chosen["model"] == model])
        last = {
            words: points["loss"][(points["model"] == model) & (points[SETTINGS] == words)][-1] for words in set(points[SETTINGS])
        }
        assert last[kept] == min(last.values())
    found = fit(points, law="power", holdout="none", bootstrap=0)
    assert "runs differ in method.dropout: of each base, method and rank the best of what was tried is fitted" in found.remarks
    assert found.left_out["other learning rates or settings than the best"] == len(points) - len(chosen)


def test_a_proof_is_trained_with_what_the_plan_chose(study: Path) -> None:
    points = read(study)
    points = points.where(points["tokens"] > 0)
    loss = 2 + 5 * points["body_parameters"] ** -0.2 + 30 * points["tokens"] ** -0.5
    measured = {name: column for name, column in points.columns.items() if name not in ("bits_per_byte", "perplexity")}
    points = Table({**measured, "loss": loss}).having("method.dropout", "0.0")
    advice = plan(fit(points, law="additive", bootstrap=10), points, f"{2 * points['flops'].max()}flops")
    assert advice.settings == "method.dropout=0.0"
    assert "\n  with method.dropout=0.0\n" in str(advice)
    base = measured_base(Store(study), advice)
    assert base is not None
    assert base["method"]["dropout"] == 0.0
    written = yaml.safe_load(next_study(study / "next.yaml", study, [{**advice.measure_next[0]}]))
    assert written["runs"][0]["method.dropout"] == 0.0


def test_losses_of_other_texts_do_not_compare(study: Path) -> None:
    points = read(study)
    lengths = np.where(points[SETTINGS] == "method.dropout=0.0", "data.max_length=24", "data.max_length=48").astype(object)
    mixed = Table({**points.columns, "measured_on": lengths})
    line = r"^the runs were measured with different data.max_length \(24, 48\), so that their losses do not compare; choose some"
    with pytest.raises(TableError, match=line):
        fit(mixed)
    kept = mixed.having("data.max_length", "48")
    assert set(kept[SETTINGS]) == {"method.dropout=0.9"}
    assert fit(kept, law="power", holdout="none", bootstrap=0).law == "power"
    with pytest.raises(TableError, match=r"^unknown value of data.max_length '32' \(valid: 24, 48\)$"):
        mixed.having("data.max_length", "32")


def test_points_are_chosen_by_any_column_or_setting(study: Path) -> None:
    asked = ["fit", str(study), "--law", "power", "--holdout", "none", "--bootstrap", "0", "--json", "--where"]
    one = read(study)["model"][0]
    for word, runs in (("method.dropout=0.9", 3), (f"model={one}", 1), ("rank=2", 3)):
        answer = CliRunner().invoke(app, [*asked, word])
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["runs"] == runs
    for word, line in (
        ("dropout=0.9", "unknown column 'dropout'; did you mean 'method.dropout'"),
        ("rank", "expected KEY=VALUE"),
    ):
        assert line in str(CliRunner().invoke(app, [*asked, word]).exception)


def test_a_summary_names_no_best_where_losses_do_not_compare(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\nlowest loss: " in study_summary(Store(study))[1]
    plain = read(study)
    mixed = Table({**plain.columns, "measured_on": np.where(plain["rank"] > 0, plain["model"], "").astype(object)})
    monkeypatch.setattr("isolora.table.read", lambda folder: mixed)
    assert "lowest" not in study_summary(Store(study))[1]
