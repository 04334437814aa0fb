"""Run a study: its run_search, or its grid in stacks after tuning on small budgets; everything goes into its store."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from isolora import registry
from isolora.config import RunConfig, StudyConfig, content_hash
from isolora.errors import ConfigError
from isolora.runs.document_loader import RunDocuments
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study import design
from isolora.study.balance import balanced
from isolora.study.design import Job
from isolora.study.executors.base import Executor, Failure, PrunerOf, StudyFailed, Train, Trained, no_pruner
from isolora.study.search import check_search, run_search
from isolora.training.folder import locked_store
from isolora.training.interruption import handled
from isolora.training.ranks import refuse_ranks
from isolora.training.recorder import environment, run_row

STUDY_FILE = "study.json"


def run_study(
    study: StudyConfig,
    folder: Path | str,
    executor: str = "local",
    workers: int = 1,
    quiet: bool = False,
    address: str | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> Store:
    """Train what is missing of the study; a second call on the same folder finds nothing to do.

    address: of a cluster that runs already, for executors that have one. meanwhile: called beside the training, where other
    processes do that: this one would only wait for them. Raises StudyFailed, when all that can be trained has
    been, where stacks failed; Interrupted, with checkpoints kept, on INT and TERM; ConfigError where somebody has the folder.
    """
    place, folder, workspace = registry.ready("executor", executor), Path(folder), Workspace()
    if address is not None and not place.takes_address:
        raise ConfigError(f"--address: executor {executor} has none; --executor ray does")
    given = {"address": address} if place.takes_address else {}
    with handled():
        _check_start(study, workspace)
        refuse_ranks("study")
        with locked_store(folder, workers) as store, _opened(place, folder, workers, quiet, workspace, **given) as train:
            write_description(study, folder)
            others = None if executor == "local" and workers == 1 else workers  # processes that train, where this one does not
            queued = partial(_train_queued, store, workspace, train)
            if meanwhile is not None and workers > 1:
                Thread(target=meanwhile, daemon=True).start()
            if study.search:
                run_search(study, store, queued, workspace, others)
            else:
                _raise_failed(store, _grid(study, store, queued, workspace, others))
    return store


@contextmanager
def _opened(place: Executor, *given: Any, **more: Any) -> Iterator[Train]:
    """An executor's function, what it gives being held against its contract."""
    opened = place.opened(*given, **more)
    line = f"opened() gave {type(opened).__name__}; expected a context manager"
    registry.owed("executor", place.name, isinstance(opened, AbstractContextManager), line)
    with opened as train:
        line = f"opened() entered as {type(train).__name__}; expected a function `Train`"
        registry.owed("executor", place.name, callable(train), line)
        yield _checked(place.name, train)


def _checked(executor: str, train: Train) -> Train:

    def checked(jobs: Sequence[Job], stage: str, pruner_of: PrunerOf) -> list[Failure] | None:
        found = train(jobs, stage, pruner_of)
        listed = found is None or (isinstance(found, list) and all(isinstance(each, Failure) for each in found))
        line = f"training gave {type(found).__name__}; expected None, or a list of Failure"
        registry.owed("executor", executor, listed, line)
        return found

    return checked


def _check_start(study: StudyConfig, workspace: Workspace) -> None:
    """A wrong field and missing data show before anything is written; what differs from what was asked for is said once."""
    runs = check_search(study) if study.search else design.grid_runs(study)
    remarks: dict[str, None] = {}
    for run in {content_hash([run.model, run.data.model_dump(), run.task.model_dump()]): run for run in runs}.values():
        workspace.identity(run)
        remarks[RunDocuments.load(run, workspace.documents).remark] = None
    for remark in filter(None, remarks):
        print(f"isolora: {remark}", file=sys.stderr)


def _train_queued(
    store: Store, workspace: Workspace, train: Train, jobs: Sequence[Job], stage: str, pruner_of: PrunerOf
) -> list[Failure]:
    """Enter all runs of a stage as queued, then train the stacks in which something is missing."""
    where, missing = environment(), []
    for job in jobs:
        documents = RunDocuments.load(job[0], workspace.documents)
        rows = [run_row(config, documents.identity(config), stage) for config in job]
        store.add(rows, where)
        if not store.ended() >= {row.run for row in rows}:
            missing.append(job)
    return (train(missing, stage, pruner_of) if missing else None) or []


def _grid(study: StudyConfig, store: Store, train: Trained, workspace: Workspace, others: int | None) -> list[Failure]:
    """Tune, then train the grid. others: processes that train; None: this one does."""
    workers = others or 1
    runs, failures, remarks = design.grid_runs(study), list[Failure](), list[str]()
    if study.tune:
        trials = design.trial_runs(study)
        failures = train(balanced(design.stacks(trials, study.stack), workers), "tune", no_pruner)
        losses = final_losses(store, trials, workspace)
        failed = {run for failure in failures for run in failure.job} - losses.keys()
        runs, remarks = design.tuned_runs(study, losses, failed)
        for remark in remarks:
            print(remark, file=sys.stderr)
        write_description(study, store.folder, remarks)
    refilled = others is None and study.stop_early
    jobs = design.stacks(runs, len(runs) if refilled else study.stack)
    width = study.stack if refilled else None
    pruner_of = _grid_pruner(store, runs, workspace, width) if study.stop_early and runs else no_pruner
    return failures + train(balanced(jobs, workers), "grid", pruner_of)


def _grid_pruner(store: Store, runs: Sequence[RunConfig], workspace: Workspace, width: int | None = None) -> PrunerOf:
    from isolora.study.early_exit import GridPruner  # fits laws, with half a second of imports that other studies begin without
    from isolora.study.study_price import largest_planned_flops

    return GridPruner(store, largest_planned_flops(runs, workspace), width)


def _raise_failed(store: Store, failures: Sequence[Failure]) -> None:
    """Raises StudyFailed; or a person's mistake as it was, where nothing at all could be trained for it."""
    if failures and all(failure.is_mistake for failure in failures) and not store.has_points():
        raise failures[0].error
    if failures:
        raise StudyFailed(store, failures)


def write_description(study: StudyConfig, folder: Path, remarks: Sequence[str] = ()) -> None:
    """Write down what the study is, for those who come to its folder later."""
    text = json.dumps({"study": study.model_dump(), "remarks": list(remarks)}, indent=1)
    aside = folder / f".{STUDY_FILE}"
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(folder / STUDY_FILE)


def final_losses(store: Store, runs: Sequence[RunConfig], workspace: Workspace) -> dict[RunConfig, float]:
    """Held-out loss at the end of each run that ended well."""
    last = {point["run"]: point["loss"] for point in store.points() if point["state"] == "DONE"}
    named = {run: workspace.identity(run) for run in runs}
    return {run: last[name] for run, name in named.items() if name in last}
