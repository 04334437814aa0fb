"""Run a study: its search, or its grid in stacks after tuning on small budgets; everything goes into its store."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from isolora import registry
from isolora.config import RunConfig, StudyConfig
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study import design
from isolora.study.executors.base import Train, no_pruner
from isolora.study.search import check, search

STUDY_FILE = "study.json"


def run_study(study: StudyConfig, folder: Path | str, executor: str = "local", workers: int = 1, quiet: bool = False) -> Store:
    """Train what is missing of the study; a second call on the same folder finds nothing to do."""
    place = registry.ready("executor", executor)
    (check if study.search else design.grid_runs)(study)  # a wrong field shows before anything is written
    folder = Path(folder)
    store, workspace = Store(folder), Workspace()
    with place.opened(folder, workers, quiet, workspace) as train:
        if study.search:
            describe(study, folder)
            search(study, store, train, workspace, workers)
        else:
            _grid(study, store, train, workspace)
    return store


def _grid(study: StudyConfig, store: Store, train: Train, workspace: Workspace) -> None:
    runs = design.grid_runs(study)
    remarks: list[str] = []
    if study.tune:
        trials = design.trial_runs(study)
        train(design.stacks(trials, study.stack), "tune", no_pruner)
        runs, remarks = design.tuned_runs(study, final_losses(store, trials, workspace))
        for remark in remarks:
            print(remark, file=sys.stderr)
    describe(study, store.folder, remarks)
    train(design.stacks(runs, study.stack), "grid", no_pruner)


def describe(study: StudyConfig, folder: Path, remarks: Sequence[str] = ()) -> None:
    """Write down what the study is, for those who come to its folder later."""
    text = json.dumps({"study": study.model_dump(), "remarks": list(remarks)}, indent=1)
    (folder / STUDY_FILE).write_text(text + "\n")


def final_losses(store: Store, runs: Sequence[RunConfig], workspace: Workspace) -> dict[RunConfig, float]:
    """Held-out loss at the end of each run that ended well."""
    last = {point["run"]: point["loss"] for point in store.points() if point["state"] == "DONE"}
    named = {run: workspace.identity(run) for run in runs}
    return {run: last[name] for run, name in named.items() if name in last}
