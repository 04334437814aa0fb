"""What every plug-in of a kind owes the rest of isolora, asked of any of them by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import life
import numpy as np
import pytest
import studies
import test_backends
import test_laws
import tiny
import torch
from torch.nn import functional

from isolora import data, laws, registry
from isolora.config import DataConfig, RunConfig, StudyConfig, parse
from isolora.cost.estimate import cost
from isolora.data.sources import split_files
from isolora.data_cards import packaged_data, read_card
from isolora.errors import ConfigError, MissingExtra, TableError
from isolora.evaluation import evaluate
from isolora.imports import import_runs
from isolora.report import report
from isolora.runs.batches import collate
from isolora.runs.prepared import PreparedRun
from isolora.runs.preview import preview
from isolora.store import DONE, Store
from isolora.study.running import run_study
from isolora.table import from_columns
from isolora.training import train
from isolora.training.trackers.base import TrackedRun

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
BASE = "nano-55k"
"""A packaged decoder: transformers gives it every kind of head that a task here asks for."""


def available(kind: str, name: str) -> Any:
    """The plug-in; the test is skipped where it needs a package that is not installed."""
    try:
        return registry.ready(kind, name) if kind in ("trainer", "tracker", "executor") else registry.load_plug_in(kind, name)
    except MissingExtra as missing:
        pytest.skip(str(missing))


def knows_its_name(kind: str, name: str) -> None:
    assert NAME.fullmatch(name), name
    if kind != "data_card":
        assert available(kind, name).name == name


def settings_are_described(kind: str, name: str) -> None:
    """Help texts and the reference are made of the descriptions; names alone must do in a configuration."""
    fields = available(kind, name).Settings.model_fields
    assert not [field for field, of in fields.items() if not of.description]
    assert not [field for field, of in fields.items() if of.is_required()], "every field has a default"


def source_for(task: Any) -> str:
    """The first installed data set that the task can read."""
    cards = {name: read_card(folder) for name, folder in packaged_data().items()}
    named = [name for name, card in cards.items() if task.name in card.columns or (card.text and not task.columns)]
    if named:
        return named[0]
    needed = {column for column, required in task.columns.items() if required}
    for name in cards:
        if needed and needed <= columns_of(name):
            return name
    raise AssertionError(f"no installed data set has the columns {sorted(needed)}; bring one as a data card")


@cache
def columns_of(source: str) -> set[str]:
    return set(data.load_documents(DataConfig(source=source, eval_examples=1), None).train.table.column_names)


@cache
def usable_rows(source: str, task: str | None, settings: str = "{}") -> int:
    """How many rows of a source train; settings: the task's, as JSON."""
    bound = None
    if task is not None:
        plain = registry.load_plug_in("task", task)
        bound = plain.bound(parse(plain.Settings, json.loads(settings)))
    return len(data.load_documents(DataConfig(source=source, eval_examples=1, on_error="skip"), bound).train)


def a_task(name: str, folder: Path) -> None:
    """Prepared, scored, trained for two steps, priced and measured again on the first data set that it can read."""
    task = available("task", name)
    name_of_data = source_for(task)
    rows = min(200, usable_rows(name_of_data, name))
    source = {"source": name_of_data, "train_examples": rows, "eval_examples": 6, "max_length": 128, "on_error": "skip"}
    training = {"steps": 2, "batch_tokens": 600, "evaluate_from": 1e9}
    config = parse(RunConfig, {"model": BASE, "task": name, "data": source, "training": training})
    with PreparedRun.load(config) as run:
        _examples_and_loss(run)
    shown = preview(config, count=1)
    assert shown.rows[0]["text"]
    assert shown.rows[0]["labelled_text"]
    assert str(shown)
    ended = train(config, folder / "out", quiet=True)
    assert ended["state"] == "complete"
    assert np.isfinite(ended["loss"])
    assert ended["flops"] == pytest.approx(cost(config).flops.total, rel=0.2), "the ledger knows the shape of its batches"
    again = evaluate(folder / "out", repeats=2)
    assert again["loss"] == pytest.approx(ended["loss"], rel=1e-5)
    assert all(np.isfinite(value) for value in again["metrics"].values())


def _examples_and_loss(run: PreparedRun) -> None:
    task, examples = run.task, run.examples.train
    assert (examples.label_counts > 0).all()
    assert examples.lengths.max() <= 128
    assert len(task.units(examples)) == len(examples)
    assert task.labels_per_row in (None, *set(examples.label_counts.tolist()))
    given = None if examples.values is None or task.uses_reference else examples.values.shape[1]
    assert task.uses_reference or not task.value_columns or given == task.value_columns
    if task.uses_reference:
        return  # its loss asks for scores of the bare base, which the evaluator takes
    rows = np.arange(min(3, len(examples)))
    batch = collate(examples, rows, np.full(len(rows), 1 / len(rows), np.float32), run.base.pad_id)
    attached = run.attach([run.config])
    with attached.rows([(0, 0, -1)]):
        loss = task.loss(attached.model, batch)
        loss.objective.backward()
    assert loss.objective.shape == ()
    assert loss.row_losses.shape == (len(rows),)
    assert not loss.row_losses.requires_grad
    assert (loss.row_losses >= 0).all()
    assert any(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in attached.tensors(0))


def a_method(name: str, folder: Path) -> None:
    """Attached, trained, saved, loaded, merged or not, and taken off again, on a tiny base."""
    method = available("method", name)
    make = architecture_for(method)
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attached = method.attach(model, [method.settings({})], [0])
    assert all(tensor.requires_grad for tensor in attached.tensors(0))
    assert attached.trainable_parameters(0) == sum(tensor.numel() for tensor in attached.tensors(0)) > 0
    losses = _fit(attached)
    assert losses[-1] < losses[0]
    attached.train(False)
    attached.save(0, folder)
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".md"}
    with attached.rows([(0, 0, -1)]):
        trained = life.logits(attached.model)
    loaded = method.load(make(), folder)
    loaded.train(False)
    with loaded.rows([(0, 0, -1)]):
        torch.testing.assert_close(life.logits(loaded.model), trained)
    if method.mergeable:
        torch.testing.assert_close(life.logits(loaded.merge(0)), trained, atol=1e-4, rtol=1e-4)
    else:
        with pytest.raises(ConfigError):
            loaded.merge(0)
    attached.detach()
    assert life.same_state(model, before)


def architecture_for(method: Any) -> Callable[[], Any]:
    """The first tiny base for which the method is defined with its defaults."""
    for make in tiny.ARCHITECTURES.values():
        try:
            method.attach(make(), [method.settings({})], [0])
        except ConfigError:
            continue
        return make
    raise AssertionError(f"method {method.name} is not defined for any of {', '.join(tiny.ARCHITECTURES)}")


def _fit(attached: Any, steps: int = 6) -> list[float]:
    """Losses of steps that pull every position towards one word; `after_step` is called as the loop does."""
    optimizer = torch.optim.AdamW(attached.tensors(0), lr=1e-2)
    losses = []
    attached.train(True)
    for step in range(steps):
        optimizer.zero_grad()
        with attached.rows([(0, 0, -1)]):
            found = life.answers(attached.model).flatten(0, -2)
            loss, extra = functional.cross_entropy(found, torch.full((len(found),), 7)), attached.extra_loss()
            (loss if extra is None else loss + extra).backward()
        attached.after_step(0, (step + 1) / steps)
        optimizer.step()
        losses.append(loss.item())
    return losses


def a_stackable_method(name: str) -> None:
    """Each of two members trains as it does alone."""
    method = available("method", name)
    alone = []
    for seed in (0, 1):
        attached = method.attach(tiny.llama(), [method.settings({})], [seed])
        with attached.rows([(0, 0, -1)]):
            alone.append(life.logits(attached.model))
    pair = method.attach(tiny.llama(), [method.settings({})] * 2, [0, 1])
    pair.train(False)
    for member in (0, 1):
        with pair.rows([(member, 0, -1)]):
            torch.testing.assert_close(life.logits(pair.model), alone[member])
    for row, member in ((1, 0), (2, 1)):
        with pair.rows([(0, 0, row), (1, row, 3)]):
            torch.testing.assert_close(life.logits(pair.model)[[0, 2]], torch.stack([alone[0][0], alone[1][2]])), member


def a_law(name: str) -> None:
    """Finite and positive on a grid of points; with more tokens falling, or rising where it says so."""
    law, points = laws.resolve(name), test_laws.columns(unique=1e9)
    scarce, plenty = (test_laws.columns((3e4, 6e4, 2.5e5, 1e6), unique=unique) for unique in (1e4, 3e4))
    law.demand({name: np.concatenate([scarce[name], plenty[name]]) for name in scarce})
    assert law.citation
    assert law.formula
    assert law.parameters == (*law.coefficients, *(shape.name for shape in law.shapes))
    problem, z = test_laws.middle(law, points)
    theta = problem.theta(z)
    losses = law.predict(theta, points)
    assert losses.shape == (1, len(points["d"]))
    assert (np.isfinite(losses) & (losses > 0)).all()
    np.testing.assert_allclose(law.predict(theta[0], points), losses[0])
    test_laws.test_more_tokens_never_hurt_and_more_of_anything_lowers_the_loss(name)


def a_reported_law(name: str, folder: Path) -> None:
    """Points that lie on it are fitted, and make a page with its formula, whatever it declares."""
    law, points = laws.resolve(name), test_laws.columns((6e4, 2e5, 7e5, 2e6), (8e3, 2.7e4, 9e4, 3e5, 1e6))
    problem, z = test_laws.middle(law, points)
    losses = law.predict(problem.theta(z)[0], points)
    rows = {"n": points["n"], "d": points["d"], "p": points["p"], "u": points["u"], "c": points["c"], "loss": losses}
    runs = [f"{n:g}/{p:g}" for n, p in zip(points["n"], points["p"], strict=True)]
    read = from_columns({**{key: list(values) for key, values in rows.items()}, "run": runs}, {})
    page = report(folder / "table.csv", read, out=folder / "page.html", law=name, bootstrap=2).read_text(encoding="utf-8")
    assert name in page
    assert "no law" not in page.lower()


def an_importer(name: str, folder: Path) -> None:
    """Says what it reads, and refuses a folder and a file that are none of its tool's."""
    importer = available("importer", name)
    assert importer.reads
    (folder / "empty").mkdir()
    (folder / "note.txt").write_text("a note")
    for source in (folder / "empty", folder / "note.txt"):
        with pytest.raises(TableError, match=r"^SOURCE: ") as caught:
            import_runs(source, name, folder / "out.csv")
        assert "\n" not in str(caught.value)


TRAINED: tuple[Callable[[Path], RunConfig], ...] = (test_backends.texts, test_backends.pairs, test_backends.entities)
"""Runs, of which a trainer has to suit one."""


def a_trainer(name: str, folder: Path) -> None:
    """Step by step the losses of the native loop."""
    trainer = available("trainer", name)
    for number, make in enumerate(TRAINED):
        (folder / str(number)).mkdir(parents=True)
        config = make(folder / str(number))
        with PreparedRun.load(config) as run:
            if not _suits(trainer, config, run):
                continue
        own = test_backends.native_path(make)
        other = test_backends.path(config, name, folder / f"{number}-other")
        np.testing.assert_allclose(other, own, rtol=1e-4)
        return
    raise AssertionError(f"trainer {name} suits none of the tests' runs")


def _suits(trainer: Any, config: RunConfig, run: PreparedRun) -> bool:
    try:
        trainer.check(config, run.task)
    except ConfigError:
        return False
    return True


def a_tracker(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Started once for a run, told all its points in their order, finished; nothing goes wrong, and a second start goes on."""
    tracker = available("tracker", name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    told: list[tuple[str, Any]] = []
    start = tracker.start

    def watched(run: TrackedRun) -> Any:
        opened = start(run)
        told.append(("start", run.name))
        log, finish = opened.log, opened.finish
        monkeypatch.setattr(opened, "log", lambda values, step: (told.append(("log", step)), log(values, step=step))[1])
        monkeypatch.setattr(opened, "finish", lambda: (told.append(("finish", None)), finish())[1])
        return opened

    monkeypatch.setattr(tracker, "start", watched, raising=False)
    ended = train(tiny.from_files(folder, trackers=[name], steps=6), folder / "out", quiet=True)
    points = [point["tokens"] for point in Store(folder / "out").points()]
    assert told == [("start", ended["run"]), *(("log", tokens) for tokens in points), ("finish", None)]
    again = start(TrackedRun(ended["run"], "out", folder / "out" / "trackers", {"seed": 0}))
    again.log({"loss": 1.0}, step=points[-1] + 1)
    again.finish()
    assert "given up" not in capsys.readouterr().err


def an_executor(name: str, folder: Path) -> None:
    """Two stacks give what they give in this process, and a second call trains nothing."""
    available("executor", name)
    base = studies.base(folder, tokens=200, batch_tokens=60, evaluate_from=100)
    study = parse(StudyConfig, {"base": base, "grid": {"method.rank": [2, 4]}, "stack": 1})
    here = run_study(study, folder / "here", quiet=True)
    there = run_study(study, folder / "there", executor=name, workers=2, quiet=True)
    assert set(there.states().values()) == {DONE}
    for one, other in zip(studies.points(here), studies.points(there), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert (other["run"], other["tokens"]) == (one["run"], one["tokens"])
    changed = {run["run"]: run["changed"] for run in there.runs()}
    run_study(study, folder / "there", executor=name, workers=2, quiet=True)
    assert {run["run"]: run["changed"] for run in Store(folder / "there").runs()} == changed


def a_data_card(name: str) -> None:
    """A readable card with a description, a file for the training split, rows for each task that it names."""
    folder = available("data_card", name)
    card = read_card(folder)
    assert card.description
    assert "train" in split_files(folder)
    for task in [*card.columns, *card.task] or [None]:
        assert usable_rows(name, task, json.dumps(card.task.get(task, {}))) > 1


@contextmanager
def forgotten() -> Iterator[None]:
    """What is registered within the context is not remembered."""
    caches = (registry._foreign, registry.load_plug_in, registry.usable, packaged_data, laws._checked)
    for kept in caches:
        kept.cache_clear()
    try:
        yield
    finally:
        for kept in caches:
            kept.cache_clear()
