"""What a plug-in gives back is held against its kind's contract: one line names the plug-in and what was expected."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import contracts
import numpy as np
import pytest
import studies
import tiny
import torch

from isolora import laws, registry
from isolora.config import StudyConfig, parse
from isolora.errors import ConfigError, PlugInError
from isolora.imports import import_runs
from isolora.methods.base import ParameterGroup
from isolora.study.running import run_study
from isolora.tasks.base import Examples, Loss
from isolora.training import train

Change = Callable[[Any], Any]


def broken(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, what: str, change: Change) -> None:
    """The plug-in gives `change` of what it would."""
    owner = type(registry.load_plug_in(kind, name))
    right = getattr(owner, what)
    monkeypatch.setattr(owner, what, lambda self, *given, **more: change(right(self, *given, **more)))


def refused(folder: Path, **changes: Any) -> str:
    config = tiny.from_files(folder, steps=1, **changes)
    with pytest.raises(PlugInError) as caught:
        train(config, folder / "out", quiet=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one_less(examples: Examples) -> Examples:
    return replace(examples, labels=examples.labels[:-1])


EXAMPLES: dict[str, tuple[Change, str]] = {
    "a list": (lambda found: [found], "examples() gave list; expected Examples"),
    "a label too few": (one_less, "expected one label a token"),
    "starts beyond": (lambda found: replace(found, starts=found.starts + 1), "starts that do not lead from 0 to the"),
    "one example too few": (lambda found: found.subset(np.arange(len(found) - 1)), "expected one for each of"),
    "a token below 0": (lambda found: replace(found, ids=found.ids - 100), "a token id below 0"),
    "documents beyond": (lambda found: replace(found, documents=np.full(len(found), 10**6)), "numbers of documents below"),
}


@pytest.mark.parametrize("how", EXAMPLES)
def test_examples(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, line = EXAMPLES[how]
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    broken(monkeypatch, "task", "causal-lm", "examples", change)
    said = refused(tmp_path)
    assert said.startswith("task causal-lm: examples() gave")
    assert line in said


def test_labels_beyond_the_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that the head has no score for: an index error on the CPU, anything at all on a GPU."""
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    broken(monkeypatch, "task", "sequence-classification", "examples", lambda found: replace(found, labels=found.labels + 2))
    rows = [{"text": f"w{2 + number}", "label": "ab"[number % 2]} for number in range(20)]
    config = tiny.from_rows(tmp_path, "bert_classifier", "sequence-classification", rows, steps=1)
    with pytest.raises(PlugInError, match=r"^task sequence-classification: examples\(\) gave label 3; expected 0 to 1"):
        train(config, tmp_path / "out", quiet=True)


LOSSES: dict[str, tuple[Change, str]] = {
    "a tensor": (lambda loss: loss.objective, "loss() gave Tensor; expected Loss"),
    "one for all rows": (lambda loss: Loss(loss.objective, loss.row_losses.sum()), "row_losses of shape (); expected ("),
    "a row too many": (lambda loss: Loss(loss.objective, torch.cat([loss.row_losses, loss.row_losses[:1]])), "one for each row"),
    "an objective for each row": (lambda loss: Loss(loss.row_losses, loss.row_losses), "expected a scalar tensor, a mean"),
    "a number": (lambda loss: Loss(0.0, loss.row_losses), "an objective of float"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("how", LOSSES)
def test_losses(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, line = LOSSES[how]
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))  # where the right one has not been priced
    broken(monkeypatch, "task", "causal-lm", "loss", change)
    said = refused(tmp_path)
    assert said.startswith("task causal-lm: loss() gave")
    assert line in said


def test_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "task", "causal-lm", "predictions", lambda found: {"accuracy": 1.0})
    assert refused(tmp_path) == "task causal-lm: predictions() gave dict; expected Predictions"


GROUPS: dict[str, tuple[Change, str]] = {
    "nothing": (lambda groups: [], "gave no parameter; expected what the optimiser updates"),
    "tensors": (lambda groups: [p for group in groups for p in group.parameters], "gave list; expected a list of ParameterGroup"),
    "frozen": (lambda groups: [ParameterGroup([p.detach() for p in group.parameters]) for group in groups], "requires_grad"),
}


@pytest.mark.parametrize("how", GROUPS)
def test_parameters_of_a_method(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, line = GROUPS[how]
    monkeypatch.setattr("isolora.methods.lora.LoraAdapters.groups", wrapped("isolora.methods.lora", "LoraAdapters", change))
    said = refused(tmp_path)
    assert said.startswith("method lora: groups(0) gave")
    assert line in said


def wrapped(module: str, owner: str, change: Change) -> Any:
    import importlib

    right = getattr(importlib.import_module(module), owner).groups
    return lambda self, member: change(right(self, member))


def test_what_a_method_attaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, "method", "lora", "attach", lambda attached: attached.model)
    assert refused(tmp_path) == "method lora: attach() gave LlamaForCausalLM; expected an Attached"


def test_a_trainer_that_stops_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(registry.load_plug_in("trainer", "native")), "drive", lambda self, loop: None)
    assert refused(tmp_path) == "trainer native: drive() ended while 1 of 1 members were still running"


def test_a_tracker_that_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told and given up; the training goes on."""
    pytest.importorskip("tensorboard")
    broken(monkeypatch, "tracker", "tensorboard", "start", lambda opened: None)
    ended = train(tiny.from_files(tmp_path, steps=1, trackers=["tensorboard"]), tmp_path / "out", quiet=True)
    assert ended["state"] == "complete"
    said = capsys.readouterr().err
    assert (
        "tracker tensorboard is given up, training goes on: start() gave NoneType; expected an object with log and finish" in said
    )


EXECUTORS: dict[str, tuple[Change, str]] = {
    "a list": (lambda opened: [], "opened() gave list; expected a context manager"),
    "nothing inside": (lambda opened: nullcontext(), "opened() entered as NoneType; expected a function `Train`"),
    "words": (
        lambda opened: nullcontext(lambda jobs, stage, pruner_of: ["broken"]),
        "training gave list; expected None, or a list of",
    ),
}


@pytest.mark.parametrize("how", EXECUTORS)
def test_executors(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, line = EXECUTORS[how]
    broken(monkeypatch, "executor", "local", "opened", change)
    study = parse(StudyConfig, {"base": studies.base(tmp_path, tokens=50, batch_tokens=50), "grid": {"method.rank": [2]}})
    with pytest.raises(PlugInError) as caught:
        run_study(study, tmp_path / "out", quiet=True)
    assert str(caught.value).startswith(f"executor local: {line}")


def test_an_importer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text('[{"_step": 1, "eval/loss": 2}]')
    for wrong in ([], {"runs": 1}):
        broken(monkeypatch, "importer", "wandb", "read", lambda found, wrong=wrong: wrong)
        with pytest.raises(PlugInError, match=r"^importer wandb: read\(\) gave (list|dict); expected Read with a LoggedRun"):
            import_runs(tmp_path / "a.json", "wandb", tmp_path / "out.csv")


LAW = """
import numpy as np
from isolora.extend import Law, Shape, stack
law = Law(name="odd", citation="none", formula="E + B d^-b", coefficients=("E", "B"), shapes={shapes}, demands={{"d": 3}},
    log_terms=lambda shapes, logs: {terms})
"""


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    """A law `odd` of a package `theirs`."""
    (folder / "theirs_odd.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    point = EntryPoint("odd", "theirs_odd:law", "isolora.laws")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "isolora.laws" else [])
    sys.modules.pop("theirs_odd", None)
    with contracts.forgotten():
        yield
    sys.modules.pop("theirs_odd", None)


def test_terms_of_a_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[K, M, C], points in the middle, was summed over the wrong axis as soon as the counts agreed."""
    text = LAW.format(shapes='(Shape("b"),)', terms="np.moveaxis(stack(0.0, -shapes[:, :1] * logs['d']), 1, 2)")
    line = r"^law odd \(package theirs_odd\): log_terms\(\) gave shape \(2, 3, 2\); expected \(2, 2, 3\): parameter vectors"
    with installed(tmp_path, monkeypatch, text), pytest.raises(PlugInError, match=line):
        laws.resolve("odd")


def test_an_entry_point_that_names_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "law odd of package theirs_odd: its entry point names the class law; name an object of it"
    with installed(tmp_path, monkeypatch, "class law:\n    name = 'odd'\n"), pytest.raises(ConfigError, match=line):
        laws.resolve("odd")


def test_a_law_without_shapes_is_fitted_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exponents are fixed: the page has no slider for them, and stands all the same."""
    from isolora.fit import fit
    from isolora.report import report
    from isolora.table import from_columns

    text = LAW.format(shapes="()", terms="stack(np.zeros((len(shapes), 1)), -0.3 * logs['d'])")
    rows = [(n, 10 ** (4 + k / 3), 2 + 40 / 10 ** (0.3 * (4 + k / 3))) for n in (1e5, 1e6) for k in range(8)]
    columns = dict(zip(("n", "d", "loss"), map(list, zip(*rows, strict=True)), strict=True))
    with installed(tmp_path, monkeypatch, text):
        table = from_columns({**columns, "run": [str(n) for n, _, _ in rows]}, {})
        fitted = fit(table, law="odd", bootstrap=8)
        assert fitted.parameters == pytest.approx({"E": 2.0, "B": 40.0}, rel=1e-4)
        assert "odd" in report(tmp_path / "table.csv", table, out=tmp_path / "page.html", law="odd", bootstrap=8).read_text()
