"""The report: one file, no network, nothing from outside unescaped, and the numbers it was given."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from isolora import fit as fitting
from isolora import report
from isolora.report import agreement, frontier, isoflop, loss_curves, palette, words
from isolora.report.page import plain
from isolora.report.trajectories import choices, models, trajectories
from isolora.table import from_columns

SIZES = {"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3, "nano-1m": 1.05e6}
EVIL = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Plan:
    """As much of a recommendation as the page reads."""

    model: str
    method: str
    rank: int
    tokens: float
    examples: int
    epochs: float
    flops: float
    seconds: float
    predicted_loss: float
    interval: tuple[float, float]
    nearest_evidence: str
    warnings: tuple[str, ...]


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
                rows.append((f"{model}/{rank}/{rate}", model, stage, rank, rate, size, trained, tokens, flops, flops / 4e10, loss))
    names = ("run", "model", "stage", "rank", "learning_rate", "body_parameters", "trainable_parameters", "tokens", "flops", "seconds", "loss")
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def store_rows(rows):
    """What `Store.runs()` would say of them, with one run that diverged."""
    keys = ("run", "model", "stage", "rank", "learning_rate")
    known = {row[0]: dict(zip(keys, row, strict=True)) for row in zip(*(rows[key] for key in keys), strict=True)}
    place = json.dumps({"versions": {"isolora": "0.1.0", "torch": "2.13.0"}, "commit": "0f3a91c", "device": "a CPU", "threads": 2})
    runs = [{**run, "method": "lora", "seed": 0, "state": "DONE", "reason": "", "environment": place} for run in known.values()]
    lost = {"run": "nano-1m/32/0.3", "rank": 32, "learning_rate": 0.3, "state": "DIVERGED", "reason": "loss not finite at step 41"}
    return [*runs, {**runs[-1], **lost}]


def proof_rows(rows, plan, size=1.05e6):
    trained = plan.rank * 30 * size**0.5
    for step in range(9):
        tokens = plan.tokens / 2 ** (8 - step)
        known = {"run": "proof", "model": plan.model, "stage": "verify", "rank": plan.rank, "learning_rate": 1e-2, "body_parameters": size}
        flops = tokens * plan.flops / plan.tokens
        known |= {"trainable_parameters": trained, "tokens": tokens, "flops": flops, "seconds": flops / 4e10}
        for name, value in {**known, "loss": true_loss(size, tokens, trained)}.items():
            rows[name].append(value)
    return rows


def make_study(**more):
    rows = columns()
    fit = fitting.fit(from_columns(rows, {}), bootstrap=100)
    choice = next(choice for choice in choices(from_columns(rows, {})) if (choice.model, choice.rank) == ("nano-1m", 32))
    tokens = 4.2 * 4096 * 2**6
    ahead = choice.columns(np.array([tokens]))
    low, high = fit.interval(ahead)
    plan = Plan(
        model="nano-1m", method="lora", rank=32, tokens=tokens, examples=12_400, epochs=1.0, flops=tokens * choice.flops_per_token,
        seconds=tokens * choice.flops_per_token / 4e10, predicted_loss=float(fit.predict(ahead)[0]), interval=(float(low[0]), float(high[0])),
        nearest_evidence="nano-1m, rank 32, at 262,144 tokens", warnings=("the budget lies 4.2 × beyond the largest run of the study",),
    )  # fmt: skip
    measured = float(true_loss(1.05e6, tokens, 32 * 30 * 1.05e6**0.5))
    proof = report.Verification(plan.predicted_loss, plan.interval, measured, tokens, plan.flops, 4.2)
    runs = store_rows(rows)
    table = from_columns(proof_rows(rows, plan), {})
    return replace(report.StudyReport("demo", table, fit, plan, proof, runs), **more)


@pytest.fixture(scope="module")
def study():
    return make_study()
