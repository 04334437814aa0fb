"""The adapter of a checkpoint: a run that is not at its end, with its averaged weights, kept as if it were."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from isolora.adapters.export import Export, export_adapter
from isolora.config import RunConfig, parse
from isolora.errors import DataError
from isolora.runs.workspace import Workspace
from isolora.store import FILE, Store
from isolora.training.checkpoint import Checkpointer, newest
from isolora.training.loop import Loop
from isolora.training.recorder import save_adapter
from isolora.training.stack_job import CHECKPOINTS
from isolora.training.training_run import loaded_stack

STEP = re.compile(r"step-(\d{1,18})")


def export(folder: Path | str, to: str, out: Path | str, checkpoint: int | None = None, run: str | None = None) -> Export:
    """Write a finished adapter, or the one in a run's checkpoint of that step, with its model card; see `export_adapter`."""
    if checkpoint is None:
        return export_adapter(folder, to, out)
    with tempfile.TemporaryDirectory() as aside:
        return export_adapter(rebuild(Path(folder), checkpoint, Path(aside) / "adapter", run), to, out)


def rebuild(folder: Path, step: int, out: Path, run: str | None = None) -> Path:
    """Write the adapter that a run's checkpoint holds, its held-out loss measured anew; returns its folder.

    folder: a run's or a study's; run: which one, where several were trained side by side. Raises DataError, naming the
    checkpoints or runs that exist, when there is none such.
    """
    place = _checkpoint(folder, step)
    configs = {row["run"]: row["config"] for row in Store(folder).runs()}
    with tempfile.TemporaryDirectory() as alone:  # a stack resumes from the newest checkpoint that it finds
        shutil.copytree(place, Path(alone) / place.name)
        found = newest(Path(alone))
        if found is None:
            raise DataError(f"--checkpoint: {place} is broken (its hashes do not hold)")
        names = found[1].get("names", [])
        member = _member(names, run)
        if lost := [name for name in names if name not in configs]:
            raise DataError(f"--checkpoint: {place} is of run {lost[0]}, which {folder / FILE} does not know")
        with loaded_stack([_parsed(configs[name]) for name in names], names, Workspace()) as (stack, evaluator, left_out):
            loop = Loop(stack, evaluator, Checkpointer(Path(alone), seconds=0))
            loop.checkpointer.resume(stack)
            stack.members[member].progress.last_loss = loop.evaluate([member])[member]
            save_adapter(stack, member, out, len(left_out))
    return out


def _parsed(written: str) -> RunConfig:
    """A run's configuration as the store holds it. Raises ConfigError, one line, for one of another version."""
    return parse(RunConfig, json.loads(written))


def checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> folder of every checkpoint that a run's or a study's folder holds."""
    named = ((STEP.fullmatch(place.name), place) for place in sorted(folder.glob(f"{CHECKPOINTS}/*/step-*")))
    return {int(name[1]): place for name, place in named if name and not place.is_symlink()}


def _checkpoint(folder: Path, step: int) -> Path:
    if not (folder / FILE).is_file():
        raise DataError(f"--checkpoint: {folder} is not a run's folder ({FILE} is missing)")
    found = checkpoints(folder)
    if step not in found:
        exist = f"it has those of steps {', '.join(map(str, sorted(found)))}" if found else "it has none"
        raise DataError(f"--checkpoint: {folder} has no checkpoint of step {step} ({exist})")
    return found[step]


def _member(names: list[str], run: str | None) -> int:
    if run is None and len(names) > 1:
        raise DataError(f"--run: the checkpoint holds {len(names)} runs; name one of {', '.join(names)}")
    if run is not None and run not in names:
        raise DataError(f"--run: no run {run!r} in this checkpoint (it holds {', '.join(names)})")
    return names.index(run) if run is not None else 0
