"""What tests of studies and searches stand on: a tiny base, a search, and rows that come out the same every time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import tiny

from isolora.config import StudyConfig, parse
from isolora.store import Store
from isolora.study.search import identity

RATE, RANK = "training.learning_rate", "method.rank"
SPACE = {RATE: {"low": 1e-3, "high": 1.0, "log": True}, RANK: [2, 4]}
MEASURED_ANEW = {"seconds", "peak_memory_bytes", "changed", "environment"}


def base(folder: Path, **training: Any) -> dict[str, Any]:
    """A tiny model and a text file, as a study's base."""
    run = tiny.from_files(folder, steps=1)
    data = {"source": run.data.source, "eval_examples": 5, "train_examples": 20}
    return {"model": run.model, "data": data, "training": {"warmup_steps": 1, **training}}


def search_base(folder: Path) -> dict[str, Any]:
    """Five evaluations in a run."""
    return base(folder, tokens=800, batch_tokens=50, evaluate_from=50)


def a_search(base: dict[str, Any], stack: int = 3, final: dict[str, Any] | None = None, **search: Any) -> StudyConfig:
    given = {"space": SPACE, "trials": 8, "startup": 4, "reduction_factor": 2, **search}
    return parse(StudyConfig, {"base": base, "search": given, "stack": stack, "final": final or {}})


def trials(study: StudyConfig, folder: Path) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in Store(folder).trials(identity(study))]


def points(store: Store) -> list[dict[str, Any]]:
    """All that was measured, without what clocks and the process decide."""
    rows = sorted(store.points(), key=lambda point: (point["run"], point["tokens"]))
    return [{key: value for key, value in row.items() if key not in MEASURED_ANEW} for row in rows]
