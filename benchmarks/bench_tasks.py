"""Laws of a task's own measure over small, medium and large data: MiniLM's token F1 on personal data, SmolLM2's ROUGE-L.

Each study trains three trajectories, which share everything but how many examples there are (1, 10 and 100 %); the law is fitted
to 1 - score and judged on the largest budgets, which it has not seen. Needs `make models`; at most 30 minutes on two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import record

from isolora.config import load_study
from isolora.fit import fit
from isolora.study.running import run_study
from isolora.table import read

HERE, FOLDER = Path(__file__).resolve().parent, Path("runs/task-laws")


@dataclass(frozen=True)
class Law:
    """A study's file beside this one, and the measure that its law is of."""

    study: str
    measure: str


LAWS = (Law("token-f1.yaml", "token_f1"), Law("rouge.yaml", "rougeL"))


def measured(law: Law) -> dict[str, Any]:
    """Train what the study's folder lacks, and fit."""
    study, folder = load_study(HERE / law.study), FOLDER / Path(law.study).stem
    run_study(study, folder, workers=2, quiet=True)
    table = read(folder)
    seconds = sum(float(table["seconds"][table["run"] == run].max()) for run in set(table["run"]))
    fitted = fit(table, target=law.measure)
    names = ("unique_examples", "tokens", "passes", law.measure, "loss", "seconds")
    points = [dict(zip(names, map(float, row), strict=True)) for row in zip(*(table[name] for name in names), strict=True)]
    print(f"{law.study}: {seconds:.0f} s of training, evaluations left out")
    for point in points:
        print("  " + "  ".join(f"{name} {value:.4g}" for name, value in point.items()))
    print(fitted, flush=True)
    return {"study": law.study, "seconds": seconds, "fit": fitted.to_json(), "points": points}


def main(chosen: Sequence[str]) -> None:
    """chosen: measures; all when empty, and only then recorded."""
    found = [measured(law) for law in LAWS if not chosen or law.measure in chosen]
    if not chosen:
        record("tasks", {"laws": found})


if __name__ == "__main__":
    main(sys.argv[1:])
