"""The verb verify: any study, any target, any method; what it says before it starts, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import studies
import tiny
import torch

from isolora import cli
from isolora.config import StudyConfig, parse
from isolora.errors import TableError
from isolora.fit import value_of
from isolora.plan import Recommendation
from isolora.plan.limits import Limits
from isolora.report.headline import _measured_words, verdict
from isolora.report.source import RecordedVerification as Recorded
from isolora.report.source import verification_of
from isolora.runs.document_loader import DocumentLoader
from isolora.store import Store
from isolora.study import study_recommendation
from isolora.study.running import run_study
from isolora.study.verify import Verification, examples_held, recommended_run, verify
from isolora.table import read

torch.set_num_threads(1)
PROMISED = {
    "predicted",
    "interval",
    "measured",
    "relative_error",
    "inside_interval",
    "flops_over_largest_fitted",
    "target",
    "law",
}


def run_cli(monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["isolora", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def bottlenecks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a method without a rank."""
    folder = tmp_path_factory.mktemp("bottlenecks")
    base = studies.base(folder, tokens=2000, batch_tokens=60, evaluate_from=200, evaluate_ratio=1.5, learning_rate=3e-3)
    data = {"source": str(tiny.texts(folder / "many.txt", 400)), "eval_examples": 20}  # too few texts, and the loss rises
    study = {"base": {**base, "data": data, "method": "bottleneck"}, "grid": {"seed": [0, 1]}}
    run_study(parse(StudyConfig, study), folder / "study", quiet=True)
    return folder / "study"


def test_a_method_without_a_rank_is_verified(
    bottlenecks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "verify", bottlenecks, "--bootstrap", 20, "--price-per-hour", 2, "--json") == 0
    shown = capsys.readouterr()
    proof = json.loads(shown.out)
    assert proof.keys() >= PROMISED
    assert proof["target"] == "loss"
    assert 3 < proof["flops_over_largest_fitted"] < 5, "four times the largest fitted run, where no budget is given"
    assert proof["inside_interval"] == (proof["interval"][0] <= proof["measured"] <= proof["interval"][1])
    assert "no budget was given" in shown.err
    assert "this takes" in shown.err
    assert "in money" in shown.err
    assert "rank" not in shown.err
    run = next(run for run in Store(bottlenecks).runs() if run["stage"] == "verify")
    assert (run["method"], run["rank"]) == ("bottleneck", None)
    assert run["run"] == proof["run"]


def test_a_budget_within_the_measured_is_no_prediction(
    bottlenecks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    half = max(point["flops"] for point in Store(bottlenecks).points() if point["stage"] == "grid") / 2
    code = run_cli(monkeypatch, "verify", bottlenecks, "--bootstrap", 20, "--budget", f"{half:g}flops")
    shown = capsys.readouterr()
    if code == 2:  # a measured run may beat it, which is said
        assert "no recommendation" in shown.out
        return
    assert "expected" in shown.out
    assert "no prediction" in shown.out
    assert "predicted" not in shown.out


def test_a_table_has_nothing_to_train_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("d,loss\n1,2\n2,1\n")
    assert run_cli(monkeypatch, "verify", path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "SOURCE" in error
    assert "no configuration to train from" in error


def a_recommendation(**changes: Any) -> Recommendation:
    fields: dict[str, Any] = {
        "model": "tiny",
        "method": {"name": "lora", "rank": 4},
        "learning_rate": 2e-2,
        "tokens": 700,
        "examples": None,
        "epochs": 1.0,
        "flops": 1e7,
        "seconds": None,
        "predicted_loss": 4.0,
        "interval": (3.0, 5.0),
        "nearest_evidence": {},
        "warnings": (),
        "alternatives": (),
    }
    return Recommendation(**{**fields, **changes})


@pytest.mark.parametrize(
    ("given", "recommended", "expected"),
    [
        ("prompt", {"name": "prompt", "rank": 0}, {"name": "prompt"}),
        ("prompt", {"name": "prompt", "rank": 8}, {"name": "prompt"}),  # a table may hold a rank that the method has not
        ({"name": "lora", "alpha": 3.0, "rank": 2}, {"name": "lora", "rank": 8}, {"name": "lora", "alpha": 3.0, "rank": 8}),
        ({"name": "lora", "alpha": 3.0}, {"name": "full"}, {"name": "full"}),  # another method has other fields
    ],
)
def test_the_method_keeps_its_own_fields(given: Any, recommended: dict[str, Any], expected: dict[str, Any]) -> None:
    run = recommended_run({"method": given}, a_recommendation(method=recommended, model="nano-55k"), 0)
    assert {"name": run.method.name, **run.method.fields()}.items() >= expected.items()
    assert ("rank" in run.method.fields()) == (expected["name"] == "lora")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of sequence classification."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"text": tiny.words(6, seed), "label": "even" if seed % 2 else "odd"} for seed in range(60)]
    run = tiny.from_rows(folder, "llama", {"name": "sequence-classification"}, rows, tokens=600)
    base = {"model": run.model, "task": "sequence-classification", "data": {"source": run.data.source, "eval_examples": 20}}
    training = {"tokens": 600, "batch_tokens": 48, "evaluate_from": 100, "warmup_steps": 1}
    study = {"base": {**base, "training": training}, "grid": {"method.rank": [2], "seed": [0]}}
    run_study(parse(StudyConfig, study), folder / "study", quiet=True)
    return folder / "study"


def test_a_score_is_compared_in_its_own_unit(labelled: Path) -> None:
    model = Store(labelled).runs()[0]["model"]
    advice = a_recommendation(
        model=model, method={"name": "lora", "rank": 2}, target="1 - accuracy", predicted_loss=0.5, interval=(0.0, 1.0)
    )
    proof = verify(labelled, advice, 1.0, quiet=True, law="power")
    last = Store(labelled).points(proof.run)[-1]
    assert proof.measured == 1 - json.loads(last["metrics"])["accuracy"]
    assert proof.inside
    assert proof.measured != last["loss"]
    assert verification_of(labelled) is None, "a page about the loss shows no proof of a score"
    recorded = verification_of(labelled, "1 - accuracy")
    assert recorded is not None
    assert recorded.measured == proof.measured
    card = (labelled / "recommended" / "README.md").read_text()
    assert f"measured `1 - accuracy` | {proof.measured:.5g}, inside" in card
    assert "predicted loss" not in card
    again = verify(labelled, a_recommendation(model=model, method={"name": "lora", "rank": 2}), 1.0, quiet=True)
    assert again.run == proof.run, "the same run proves both"
    assert verification_of(labelled).measured == last["loss"]
    assert verification_of(labelled, "1 - accuracy") == recorded


def test_proofs_of_other_runs_keep_their_adapters(labelled: Path) -> None:
    model = Store(labelled).runs()[0]["model"]
    method = {"name": "lora", "rank": 2}
    one = verify(labelled, a_recommendation(model=model, method=method, tokens=650), 1.0, quiet=True)
    other = verify(labelled, a_recommendation(model=model, method=method, tokens=750), 1.0, quiet=True)
    record = json.loads((labelled / "recommended" / "isolora.json").read_text())
    assert record["run"] == other.run
    assert json.loads((labelled / "adapters" / one.run / "isolora.json").read_text())["run"] == one.run
    assert verify(labelled, a_recommendation(model=model, method=method, tokens=650), 1.0, quiet=True) == one
    assert json.loads((labelled / "recommended" / "isolora.json").read_text())["run"] == one.run


def test_what_the_law_saw_proves_nothing(labelled: Path) -> None:
    """The recommendation may be a run of the study to the last token: it is trained again on another seed."""
    fitted = Store(labelled).runs()[0]
    rate, method = json.loads(fitted["config"])["training"]["learning_rate"], {"name": "lora", "rank": 2}
    advice = a_recommendation(model=fitted["model"], method=method, tokens=600, learning_rate=rate)
    proof = verify(labelled, advice, 1.0, quiet=True)
    assert proof.run != fitted["run"]
    seeds = {json.loads(run["config"])["seed"] for run in Store(labelled).runs() if run["run"] in (fitted["run"], proof.run)}
    assert len(seeds) == 2
    assert read(labelled)["stage"].tolist().count("grid") == len(Store(labelled).points(fitted["run"]))


def test_no_more_examples_are_recommended_than_the_data_hold(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs made less than a pass, so that the table alone does not tell how many there are."""
    asked = []

    def planned(fit: Any, table: Any, budget: Any, limits: Limits) -> Recommendation:
        asked.append(limits.examples)
        model = Store(labelled).runs()[0]["model"]
        return a_recommendation(model=model, method={"name": "lora", "rank": 2}, examples=limits.examples or 10_000)

    def fitted(table: Any, budget: Any, limits: Limits, **fitting: Any) -> tuple[Any, Recommendation]:
        return None, planned(None, table, budget, limits)

    monkeypatch.setattr(study_recommendation, "fitted_plan", fitted)
    monkeypatch.setattr(study_recommendation, "plan_within", planned)
    advice = study_recommendation.advise(labelled, read(labelled), "1e9flops")
    [_, held] = asked
    assert held == advice.recommendation.examples == examples_held(advice.run, DocumentLoader()) < 60
    assert f"the study's data hold {held} training examples" in advice.recommendation.warnings[-1]


def test_words_of_a_proof() -> None:
    ahead = Verification("r", 0.2, (0.1, 0.3), 0.0, 1.0, 4.0, Path("x"), "1 - f1")
    assert math.isinf(ahead.relative_error)
    assert str(ahead).startswith("predicted  f1 0.8000, 95 % interval 0.7000 to 0.9000\nmeasured   1.0000, outside")
    assert ahead.to_json()["score"] == {"name": "f1", "predicted": 0.8, "interval": [0.7, 0.9], "measured": 1.0}
    near = Recorded(2.0, (1.9, 2.1), 2.05, 0.03, 1.0, 0.5)
    plain = SimpleNamespace(told=lambda *values: values, measured_name="loss", target="loss")
    assert "predicted" not in _measured_words(plain, near)
    assert verdict(near) == "The law held."


def test_values_of_a_target() -> None:
    point = {"loss": 2.0, "accuracy": 0.75, "perplexity": 3.0}
    assert (value_of(point, "loss"), value_of(point, "1 - accuracy"), value_of(point, "perplexity")) == (2.0, 0.25, 3.0)
    with pytest.raises(TableError, match="unknown target 'f1'"):
        value_of(point, "1 - f1")
