"""Adapter methods on equal terms: examples/compare-methods.yaml, its table, its picture, and what it says.

Every method tries the same learning rates on the same small budget and is then trained with each seed at its best one.
python benchmarks/bench_methods.py [--small]: a tenth of the tokens, to see that it runs; nothing is recorded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from record import record
from scipy import stats

from isolora.config import StudyConfig, load_study
from isolora.report.palette import ACCENT, FAINT, HAIRLINE, INK, PAPER, SOFT
from isolora.study.running import run_study

STUDY = Path("examples/compare-methods.yaml")
PICTURE = Path("docs/pictures/methods.svg")
MEASURES = ("loss", "forgetting", "trainable_parameters", "flops", "seconds", "peak_memory_bytes")
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 520, 70, 40, 84, 56


@dataclass(frozen=True)
class Outcome:
    """One method: its learning rate and its final points, one a seed."""

    label: str
    learning_rate: float
    points: Sequence[Mapping[str, Any]]

    def values(self, measure: str) -> list[float]:
        return [point[measure] for point in self.points]

    def mean(self, measure: str) -> float:
        return fmean(self.values(measure))

    def half_width(self, measure: str) -> float:
        """Of the 95 % interval of the mean over seeds (Student's t)."""
        values = self.values(measure)
        return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def label(method: Mapping[str, Any]) -> str:
    """The method's name and what the study says about it beyond that."""
    said = (f"{value}" if isinstance(value, str) else f"{key} {value}" for key, value in method.items() if key != "name")
    return " ".join([str(method["name"]), *said])


def outcomes(study: StudyConfig, points: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    """The grid's last points by method, best loss first."""
    last = {point["run"]: point for point in points if point["stage"] == "grid" and point["state"] == "DONE"}
    found = []
    for method in study.grid["method"]:
        own = [point for point in last.values() if _is(json.loads(point["config"])["method"], method)]
        if own:
            found.append(Outcome(label(method), own[0]["learning_rate"], own))
        else:
            print(f"{label(method)}: every run diverged")
    return sorted(found, key=lambda outcome: outcome.mean("loss"))


def _is(full: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    return all(full.get(key) == value for key, value in said.items())


def rows(found: Sequence[Outcome]) -> list[str]:
    head = f"{'method':<28}{'rate':>8}{'loss':>18}{'forgotten':>18}{'trained':>12}{'FLOPs':>10}{'seconds':>9}{'MiB':>7}"
    lines = [head]
    for one in found:
        both = (f"{one.mean(m):.4f} ±{one.half_width(m):.4f}" for m in ("loss", "forgetting"))
        sizes = f"{one.mean('trainable_parameters'):>12,.0f}{one.mean('flops'):>10.2e}{one.mean('seconds'):>9.1f}"
        lines.append(
            f"{one.label:<28}{one.learning_rate:>8g}" + "".join(f"{text:>18}" for text in both) + sizes
            + f"{one.mean('peak_memory_bytes') / 2**20:>7,.0f}"
        )  # fmt: skip
    return lines


def findings(found: Sequence[Outcome]) -> list[str]:
    """Is rank free? What forgets least? In words that follow from the figures."""
    by_label = {one.label: one for one in found}
    ranks = sorted((one for one in found if one.label.startswith("lora ")), key=lambda one: int(one.label.split()[-1]))
    said = [
        f"best: {found[0].label}; full fine-tuning is at place {[o.label for o in found].index('full') + 1}"
        if "full" in by_label
        else f"best: {found[0].label}"
    ]
    if len(ranks) > 1:
        low, high = ranks[0], ranks[-1]
        flops = high.mean("flops") / low.mean("flops") - 1
        said.append(
            f"rank: from {low.label} to {high.label} loss changes by {high.mean('loss') - low.mean('loss'):+.4f}, FLOPs by "
            f"{flops:+.1%}, seconds by {high.mean('seconds') / low.mean('seconds') - 1:+.0%}, forgetting by "
            f"{high.mean('forgetting') - low.mean('forgetting'):+.4f}"
        )
    least = min(found, key=lambda one: one.mean("forgetting"))
    said.append(
        f"forgets least: {least.label} ({least.mean('forgetting'):+.4f} nats a token), with loss {least.mean('loss'):.4f}"
    )
    slope = np.polyfit([one.mean("loss") for one in found], [one.mean("forgetting") for one in found], 1)[0]
    said.append(f"over all methods a nat learnt goes with {-slope:.2f} nats forgotten")
    return said


def draw(found: Sequence[Outcome]) -> str:
    """Learned against forgotten, one point a method with its interval; those that nothing beats in both are joined."""
    xs, ys = [o.mean("loss") for o in found], [o.mean("forgetting") for o in found]
    x_ends, y_ends = _ends(xs), _ends(ys)

    def x(value: float) -> float:
        return LEFT + (value - x_ends[0]) / (x_ends[1] - x_ends[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_ends[0]) / (y_ends[1] - y_ends[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        _text(LEFT, 34, "What each method learns, and what it forgets", 19, INK, 600),
    ]
    parts.append(
        _text(
            LEFT,
            58,
            "held-out loss against loss added on other English, nats a token; lower left is better; bars: 95 % over seeds",
            13,
            SOFT,
        )
    )
    for value in np.linspace(*x_ends, 6):
        parts.append(f'<path d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{HAIRLINE}"/>')
        parts.append(_text(x(value), HEIGHT - BOTTOM + 20, f"{value:.2f}", 12, SOFT, anchor="middle"))
    for value in np.linspace(*y_ends, 6):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="{HAIRLINE}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, f"{value:.2f}", 12, SOFT, anchor="end"))
    front = _front(found)
    path = " L".join(f"{x(o.mean('loss')):.1f} {y(o.mean('forgetting')):.1f}" for o in front)
    parts.append(f'<path d="M{path}" fill="none" stroke="{ACCENT}" stroke-width="1.5"/>')
    placed: list[tuple[float, float]] = []
    for one in found:
        a, b = one.mean("loss"), one.mean("forgetting")
        da, db = one.half_width("loss"), one.half_width("forgetting")
        parts.append(
            f'<path d="M{x(a - da):.1f} {y(b):.1f}H{x(a + da):.1f}M{x(a):.1f} {y(b - db):.1f}V{y(b + db):.1f}" stroke="{FAINT}"/>'
        )
        colour = ACCENT if one in front else INK
        parts.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(x(a) + 8, y(b) + _room(placed, x(a), y(b)), one.label, 12, colour))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}">{"".join(parts)}</svg>\n'


def _room(placed: list[tuple[float, float]], x: float, y: float) -> float:
    """How far above or below its mark a label goes, so that it does not lie on another."""
    free = (shift for shift in (-6, 15, -20, 29) if all(abs(x - a) > 110 or abs(y + shift - b) > 13 for a, b in placed))
    shift = next(free, -6)
    placed.append((x, y + shift))
    return shift


def _front(found: Sequence[Outcome]) -> list[Outcome]:
    """Methods that no other beats in loss and in forgetting at once."""
    front: list[Outcome] = []
    for one in sorted(found, key=lambda o: o.mean("loss")):
        if not front or one.mean("forgetting") < front[-1].mean("forgetting"):
            front.append(one)
    return front


def _ends(values: Sequence[float]) -> tuple[float, float]:
    margin = 0.12 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _text(x: float, y: float, text: str, size: int, colour: str, weight: int = 400, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def main() -> None:
    small = "--small" in sys.argv
    words = ["base.training.tokens=8192", "base.training.evaluate_from=8192", "tune.tokens=2048", "seed=[0]"] if small else []
    study = load_study(STUDY, words[:3])
    points = run_study(study, Path("runs/compare-methods-small" if small else "runs/compare-methods"), workers=2).points()
    found = outcomes(study, points)
    said = findings(found)
    print("\n".join([*rows(found), "", *said]))
    if not small:
        PICTURE.write_text(draw(found), encoding="utf-8")
        table = [
            {"method": o.label, "learning_rate": o.learning_rate, "seeds": len(o.points)}
            | {m: {"mean": o.mean(m), "half_width": o.half_width(m)} for m in MEASURES}
            for o in found
        ]
        record("methods", {"study": study.model_dump(), "table": table, "findings": said})


if __name__ == "__main__":
    main()
