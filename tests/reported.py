"""A study of four base models and three ranks as the report's tests see it, and a page as a browser would read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np

from isolora import report
from isolora.fit import fit
from isolora.plan import Budget, plan
from isolora.table import from_columns

SIZES = {"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3, "nano-1m": 1.05e6}
EVIL = "<script>alert(1)</script>"
NAMES = ("run", "model", "method", "stage", "rank", "learning_rate", "body_parameters", "trainable_parameters")
NAMES += ("tokens", "unique_tokens", "unique_examples", "flops", "flops_by_group", "seconds", "loss")


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
                rows.append((*known, tokens, tokens, tokens / 88, flops, work(flops), flops / 4e10, loss))
    return {name: list(values) for name, values in zip(NAMES, zip(*rows, strict=True), strict=True)}


def work(flops):
    """70 % in the feed-forward layers and the rest in the adapter, as a store holds it."""
    parts = {"feed-forward": {"forward": 0.4, "backward_inputs": 0.3}, "adapter": {"forward": 0.2, "backward_weights": 0.1}}
    return json.dumps({group: {phase: flops * share for phase, share in part.items()} for group, part in parts.items()})


def store_rows(rows):
    """What `Store.runs()` would say of them, with one run that diverged."""
    keys = NAMES[:6]
    known = {row[0]: dict(zip(keys, row, strict=True)) for row in zip(*(rows[key] for key in keys), strict=True)}
    place = json.dumps(
        {"versions": {"isolora": "0.1.0", "torch": "2.13.0"}, "commit": "0f3a91c", "device": "a CPU", "threads": 2}
    )
    runs = [{**run, "seed": 0, "state": "DONE", "reason": "", "environment": place} for run in known.values()]
    lost = {
        "run": "nano-1m/32/0.3",
        "rank": 32,
        "learning_rate": 0.3,
        "state": "DIVERGED",
        "reason": "loss not finite at step 41",
    }
    return [*runs, {**runs[-1], **lost}]


def with_proof(rows, advice, size=1.05e6):
    """The same columns and the run that verified the advice."""
    rank = advice.method["rank"]
    trained = rank * 30 * size**0.5
    known = {"run": "proof", "model": advice.model, "method": "lora", "stage": "verify", "rank": rank, "learning_rate": 1e-2}
    known |= {"body_parameters": size, "trainable_parameters": trained}
    points = []
    for tokens in advice.tokens / 2.0 ** np.arange(8, -1, -1):
        flops = tokens * advice.flops / advice.tokens
        spent = {
            "tokens": tokens,
            "unique_tokens": tokens,
            "unique_examples": tokens / 88,
            "flops": flops,
            "flops_by_group": work(flops),
            "seconds": flops / 4e10,
        }
        points.append({**known, **spent, "loss": true_loss(size, tokens, trained)})
    return {name: [*values, *(point[name] for point in points)] for name, values in rows.items()}


def make_study(rows=None, **more):
    rows = rows or columns()
    table = from_columns(rows, {})
    fitted = fit(table, bootstrap=100)
    advice = plan(fitted, table, Budget(4.2 * float(table["flops"].max()), "flops"))
    rows = with_proof(rows, advice)
    rows["loss"][-1] = (advice.predicted_loss + advice.interval[1]) / 2  # a proof that held
    proof = Proof(advice.predicted_loss, advice.interval, rows["loss"][-1], advice.flops, 4.2)
    return replace(report.StudyReport("demo", from_columns(rows, {}), fitted, advice, proof, store_rows(rows)), **more)


class Page(HTMLParser):
    """Scripts, attributes and visible text of a page, as a browser would read them."""

    def __init__(self, html):
        super().__init__()
        self.scripts, self.attributes, self.texts, self.inside = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag in ("script", "style"):
            self.inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data):
        if not self.inside:
            self.texts.append(data)
        elif self.inside[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def data(self):
        """Names of the JSON in the page."""
        return {attributes["id"] for attributes, _ in self.scripts if "id" in attributes}

    def figure(self, key):
        return next(json.loads(body) for attributes, body in self.scripts if attributes.get("id") == f"figure-{key}")
