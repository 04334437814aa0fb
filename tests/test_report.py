"""The report: one file, no network, nothing from outside unescaped, and the numbers it was given."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from isolora import fit as fitting
from isolora import plan as planning
from isolora import report
from isolora.report import agreement, frontier, isoflop, loss_curves, palette, words
from isolora.report.page import plain
from isolora.report.trajectories import choices, models, trajectories
from isolora.table import from_columns

SIZES = {"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3, "nano-1m": 1.05e6}
EVIL = "<script>alert(1)</script>"
NAMES = ("run", "model", "method", "stage", "rank", "learning_rate", "body_parameters", "trainable_parameters")
NAMES += ("tokens", "unique_tokens", "unique_examples", "flops", "seconds", "loss")


@dataclass(frozen=True)
class Proof:
    """As much of a verification as the page reads."""

    predicted: float
    interval: tuple[float, float]
    measured: float
    flops: float
    flops_over_largest_fitted: float

    @property
    def relative_error(self):
        return abs(self.predicted - self.measured) / self.measured


def true_loss(size, tokens, trained):
    start = 2.2 / (1 + (tokens / 9e3) ** 1.6)
    return 2.6 + 40 * size**-0.28 + 7.5 * tokens**-0.16 + 1.5 * trained**-0.3 + start


def columns(sizes=SIZES, ranks=(2, 8, 32), noise=0.004, evaluations=7):
    """Four base models and three ranks, each run evaluated at powers of two; short trials at worse learning rates beside them."""
    rng = np.random.default_rng(7)
    rows = []
    for (model, size), rank in [(item, rank) for item in sizes.items() for rank in ranks]:
        trained = rank * 30 * size**0.5
        for rate, penalty in ((1e-2, 0.0), (3e-3, 0.16), (3e-2, 0.09)):
            stage = "tune" if penalty else "grid"
            luck = rng.normal(0, noise)
            for step in range(evaluations - (3 if penalty else 0)):
                tokens = 4096.0 * 2**step
                loss = true_loss(size, tokens, trained) * np.exp(luck + rng.normal(0, noise / 2)) + penalty
                flops = tokens * (4 * size + 6 * trained + 8e5)
                known = (f"{model}/{rank}/{rate}", model, "lora", stage, rank, rate, size, trained)
                rows.append((*known, tokens, tokens, tokens / 88, flops, flops / 4e10, loss))
    return {name: list(values) for name, values in zip(NAMES, zip(*rows, strict=True), strict=True)}


def store_rows(rows):
    """What `Store.runs()` would say of them, with one run that diverged."""
    keys = NAMES[:6]
    known = {row[0]: dict(zip(keys, row, strict=True)) for row in zip(*(rows[key] for key in keys), strict=True)}
    place = json.dumps({"versions": {"isolora": "0.1.0", "torch": "2.13.0"}, "commit": "0f3a91c", "device": "a CPU", "threads": 2})
    runs = [{**run, "seed": 0, "state": "DONE", "reason": "", "environment": place} for run in known.values()]
    lost = {"run": "nano-1m/32/0.3", "rank": 32, "learning_rate": 0.3, "state": "DIVERGED", "reason": "loss not finite at step 41"}
    return [*runs, {**runs[-1], **lost}]


def with_proof(rows, plan, size=1.05e6):
    """The same columns and the run that verified the plan."""
    rank = plan.method["rank"]
    trained = rank * 30 * size**0.5
    known = {"run": "proof", "model": plan.model, "method": "lora", "stage": "verify", "rank": rank, "learning_rate": 1e-2}
    known |= {"body_parameters": size, "trainable_parameters": trained}
    points = []
    for tokens in plan.tokens / 2.0 ** np.arange(8, -1, -1):
        flops = tokens * plan.flops / plan.tokens
        spent = {"tokens": tokens, "unique_tokens": tokens, "unique_examples": tokens / 88, "flops": flops, "seconds": flops / 4e10}
        points.append({**known, **spent, "loss": true_loss(size, tokens, trained)})
    return {name: [*values, *(point[name] for point in points)] for name, values in rows.items()}


def make_study(rows=None, **more):
    rows = rows or columns()
    table = from_columns(rows, {})
    fit = fitting.fit(table, bootstrap=100)
    advice = planning.plan(fit, table, planning.Budget(4.2 * float(table["flops"].max()), "flops"))
    rows = with_proof(rows, advice)
    proof = Proof(advice.predicted_loss, advice.interval, rows["loss"][-1], advice.flops, 4.2)
    return replace(report.StudyReport("demo", from_columns(rows, {}), fit, advice, proof, store_rows(rows)), **more)


@pytest.fixture(scope="module")
def study():
    return make_study()
