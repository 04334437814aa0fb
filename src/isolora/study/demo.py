"""The whole story on packaged models and data: study, law, recommendation, verification, report."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from isolora.config import StudyConfig, load_study, with_value
from isolora.fit import Fit, fit, studied
from isolora.json_types import JsonObject
from isolora.plan import Budget, Recommendation, plan
from isolora.report import report
from isolora.study.running import run_study
from isolora.study.verify import Verification, verify
from isolora.table import read

BUDGET_OVER_LARGEST = 4.2
"""The recommendation's budget over the largest fitted one: far enough to be a prediction, near enough for a laptop."""


@dataclass(frozen=True)
class Story:
    """What the demo did and saw."""

    seconds: float
    points: int
    fitted: Fit
    recommendation: Recommendation
    verification: Verification
    report: Path

    def to_json(self) -> JsonObject:
        return {
            "seconds": self.seconds,
            "points": self.points,
            "law": self.fitted.to_json(),
            "recommendation": self.recommendation.to_json(),
            "verification": self.verification.to_json(),
            "report": str(self.report),
            "adapter": str(self.verification.adapter),
        }

    def __str__(self) -> str:
        return "\n".join(
            [
                str(self.fitted),
                "",
                str(self.recommendation),
                "",
                str(self.verification),
                f"report     {self.report}",
                f"try it     isolora generate {self.report.parent} --prompt 'Python library for'",
                f"took       {self.seconds:.0f} s",
            ]
        )


def demo_study(seed: int) -> StudyConfig:
    """The packaged study, with its adapters, data order and drawn texts decided by the seed."""
    packaged = load_study(Path(str(resources.files("isolora") / "assets" / "demo.yaml")))
    base = with_value(with_value(packaged.base, "seed", seed), "data.seed", seed)
    return packaged.model_copy(update={"base": base})


def demo(folder: Path | str, seed: int = 0, quiet: bool = False, workers: int | None = None) -> Story:
    """Run or finish the demo in `folder`; what an earlier call finished there is kept.

    workers: processes for the study; by default one a core, since on small models two processes of one thread train a third
    more tokens a second than one of two.
    """
    folder, started = Path(folder), time.perf_counter()
    study = demo_study(seed)
    say = Narrator(started, quiet)
    say(f"study   {' x '.join(study.grid)}, each finished run is kept in {folder}")
    run_study(study, folder, workers=workers or min(4, os.cpu_count() or 1), quiet=quiet)
    table = studied(read(folder))
    say(f"fit     {len(table)} points of {len(set(table['run']))} runs")
    fitted = fit(table)
    largest = float(table["flops"].max())
    budget = Budget(BUDGET_OVER_LARGEST * largest, "flops")
    recommendation = plan(fitted, table, budget)
    rank = recommendation.method["rank"]  # its grid is of ranks
    say(f"verify  {recommendation.model}, rank {rank}, on {recommendation.tokens:,.0f} tokens")
    proof = verify(folder, recommendation, largest, seed, quiet, fitted.law)
    say("report")
    page = report(folder, read(folder), fitted, folder / "report.html", recommendation, proof, budget=budget)
    story = Story(time.perf_counter() - started, len(table), fitted, recommendation, proof, page)
    (folder / "demo.json").write_text(json.dumps(story.to_json(), indent=1, default=str) + "\n", encoding="utf-8")
    return story


@dataclass(frozen=True)
class Narrator:
    """Says on standard error which chapter begins, and when."""

    started: float
    quiet: bool

    def __call__(self, line: str) -> None:
        if not self.quiet:
            print(f"{time.perf_counter() - self.started:4.0f} s  {line}", file=sys.stderr, flush=True)
