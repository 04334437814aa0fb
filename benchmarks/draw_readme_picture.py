"""Draws the README's picture from a finished demo: python benchmarks/draw_readme_picture.py [FOLDER] [OUT.svg].

Loss against tokens at the recommended rank: measured points, the law through them, the prediction with its 95 % interval
far to the right of every run, and what was measured there. Plain SVG, written by hand, so that it is sharp and small.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from isolora.fit import fit
from isolora.report import StudyReport
from isolora.report.axes import count_ticks, loss_ticks
from isolora.report.palette import ACCENT, FAINT, HAIRLINE, INK, PAPER, SOFT
from isolora.report.trajectories import Choice
from isolora.table import read

WIDTH, HEIGHT = 960, 520
LEFT, RIGHT, TOP, BOTTOM = 62, 120, 92, 52
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SAMPLES = 50


@dataclass(frozen=True)
class Frame:
    """Both axes are logarithmic; ends in tokens and in nats per token."""

    tokens: tuple[float, float]
    loss: tuple[float, float]

    def x(self, tokens: float) -> float:
        return LEFT + _share(tokens, *self.tokens) * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        return HEIGHT - BOTTOM - _share(loss, *self.loss) * (HEIGHT - TOP - BOTTOM)

    def path(self, tokens: Any, loss: Any) -> str:
        points = " L".join(f"{self.x(t):.1f} {self.y(v):.1f}" for t, v in zip(tokens, loss, strict=True))
        return f"M{points}"


def draw(folder: Path) -> str:
    """The picture of the demo in `folder`, as SVG text."""
    told = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    table = read(folder)
    study = StudyReport("demo", table, fit(table))
    plan, proof = told["recommendation"], told["verification"]
    rows = [choice for choice in study.choices if choice.rank == plan["method"]["rank"]]
    frame = _frame(study, rows, plan, proof)
    [chosen] = [choice for choice in rows if choice.model == plan["model"]]
    parts = [*_axes(frame), *_cut(frame, study.fit.cut), *_ahead(frame, study, chosen, plan)]
    for choice in rows:
        parts += _curve(frame, study, choice, ends_here=choice is not chosen)
    parts += [*_marks(frame, plan, proof), *_words(study, rows, plan, proof)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" role="img">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>', *parts, "</svg>", ""])


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _frame(study: StudyReport, rows: list[Choice], plan: dict[str, Any], proof: dict[str, Any]) -> Frame:
    runs = [run for run in study.fitted if run.key in {choice.key for choice in rows}]
    losses = [*(loss for run in runs for loss in run.loss), proof["measured"], *plan["interval"]]
    first = min(run.tokens[0] for run in runs)
    return Frame((0.85 * first, 1.12 * plan["tokens"]), (0.985 * min(losses), 1.01 * max(losses)))


def _text(x: float, y: float, words: str, colour: str = SOFT, size: float = 13, anchor: str = "start", weight: int = 400) -> str:
    style = f'font-size="{size:g}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _axes(frame: Frame) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value, name in loss_ticks(*frame.loss):
        y = frame.y(value)
        parts += [_line(LEFT, y, right, y, HAIRLINE), _text(LEFT - 10, y + 4.5, name, anchor="end")]
    for value, name in count_ticks(*frame.tokens):
        if frame.tokens[0] <= value <= frame.tokens[1]:
            x = frame.x(value)
            parts += [_line(x, bottom, x, bottom + 5, FAINT), _text(x, bottom + 21, name, anchor="middle")]
    parts.append(_line(LEFT, bottom, right, bottom, FAINT))
    return [*parts, _text(right, bottom + 42, "tokens processed (log scale)", anchor="end")]


def _cut(frame: Frame, cut: float) -> list[str]:
    if cut <= frame.tokens[0]:
        return []
    x = frame.x(cut)
    return [_line(x, TOP, x, HEIGHT - BOTTOM, FAINT, dash="2 4"), _text(x + 7, TOP + 10, "fitted from here on", size=12)]


def _curve(frame: Frame, study: StudyReport, choice: Choice, ends_here: bool) -> list[str]:
    """Measured points (hollow before the law's range), the law, and the model's name at its end."""
    colour = study.colours[choice.model]
    runs = [run for run in study.fitted if run.key == choice.key]
    last = max(run.tokens[-1] for run in runs)
    tokens = np.geomspace(min(study.fit.cut, 0.99 * last), last, SAMPLES)
    law = study.fit.predict(choice.columns(tokens))
    parts = [f'<path d="{frame.path(tokens, law)}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for run in runs:
        for t, loss in zip(run.tokens, run.loss, strict=True):
            fill = colour if t >= study.fit.cut else PAPER
            place = f'cx="{frame.x(t):.1f}" cy="{frame.y(loss):.1f}"'
            parts.append(f'<circle {place} r="3.6" fill="{fill}" stroke="{colour}" stroke-width="1.4"/>')
    x, y = frame.x(last), frame.y(float(law[-1]))
    beside = _text(x + 10, y + 4.5, choice.model, colour, 13, weight=600)
    return [*parts, beside if ends_here else _text(x, y + 24, choice.model, colour, 13, "end", weight=600)]


def _ahead(frame: Frame, study: StudyReport, choice: Choice, plan: dict[str, Any]) -> list[str]:
    start = max(run.tokens[-1] for run in study.fitted if run.key == choice.key)
    columns = choice.columns(np.geomspace(start, plan["tokens"], SAMPLES))
    low, high = study.fit.interval(columns)
    tokens = columns["d"]
    strip = frame.path([*tokens, *tokens[::-1]], [*low, *high[::-1]])
    law = frame.path(tokens, study.fit.predict(columns))
    return [
        f'<path d="{strip} Z" fill="{ACCENT}" fill-opacity="0.15"/>',
        f'<path d="{law}" fill="none" stroke="{ACCENT}" stroke-width="2" stroke-dasharray="6 5"/>',
    ]


def _marks(frame: Frame, plan: dict[str, Any], proof: dict[str, Any]) -> list[str]:
    """The interval with the prediction, the ring of the measurement, and their figures beside them."""
    x, low, high = frame.x(plan["tokens"]), *(frame.y(value) for value in plan["interval"])
    predicted, measured = frame.y(proof["predicted"]), frame.y(proof["measured"])
    apart = 9 if measured >= predicted else -9
    return [
        _line(x, low, x, high, ACCENT, 2),
        *(_line(x - 6, end, x + 6, end, ACCENT, 2) for end in (low, high)),
        f'<circle cx="{x:.1f}" cy="{predicted:.1f}" r="4.5" fill="{ACCENT}"/>',
        f'<circle cx="{x:.1f}" cy="{measured:.1f}" r="7.5" fill="none" stroke="{INK}" stroke-width="2"/>',
        _text(x + 16, predicted + 4.5 - apart, f"predicted {proof['predicted']:.3f}", ACCENT, 13, weight=600),
        _text(x + 16, measured + 4.5 + apart, f"measured {proof['measured']:.3f}", INK, 13, weight=600),
    ]


def _words(study: StudyReport, rows: list[Choice], plan: dict[str, Any], proof: dict[str, Any]) -> list[str]:
    off, factor = 100 * proof["relative_error"], proof["flops_over_largest_fitted"]
    title = f"Fitted on small runs; {off:.2g} % off at {factor:.1f} × their largest compute"
    scope = f"LoRA adapters of rank {rows[0].rank} on {len(rows)} base models"
    about = f"Held-out loss (nats per token, log scale) of {scope}. Points: measured."
    return [
        _text(LEFT - 36, 38, title, INK, 20, weight=650),
        _text(LEFT - 36, 62, f"{about} Lines: the law {study.fit.law}.", SOFT, 13),
    ]


def main(folder: str = "demo-out", out: str = "docs/pictures/demo.svg") -> None:
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw(Path(folder)), encoding="utf-8")
    print(f"written: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
