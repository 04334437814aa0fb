"""The page itself: texts, tables and figures put into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from isolora.report import agreement, captions, forgetting, frontier, isoflop, loss_curves, search, tables, work
from isolora.report.palette import Figure
from isolora.report.study import StudyReport


@dataclass(frozen=True)
class Panel:
    """A figure with its words."""

    key: str
    short: str
    title: str
    caption: str
    plot: Figure
    square: bool = False


def render(study: StudyReport) -> str:
    """The whole page. Text from outside is escaped by the template, and only our own two scripts may run."""
    plotly, script = _trusted(get_plotlyjs()), _trusted(_own("page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        study=study,
        policy=_policy(plotly, script),
        style=_trusted(_own("style.css")),
        plotly=plotly,
        script=script,
        scope=captions.scope(study),
        advice=captions.advice(study),
        proof=captions.proof(study),
        figures=[panel for panel in _panels(study) if panel is not None],
        law=tables.law(study),
        alternatives=tables.alternatives(study),
        candidates=tables.candidates(study),
        runs=tables.runs(study),
        environment=tables.environment(study),
    )


def _panels(study: StudyReport) -> list[Panel | None]:
    profile, best, spent = isoflop.figure(study), frontier.figure(study), work.figure(study)
    kept, tried = forgetting.figure(study), search.figure(study)
    return [
        Panel("search", "Search", "What the search tried", search.caption(study), plain(tried)) if tried else None,
        Panel("curves", "Curves", "Loss against tokens", captions.loss_curves(study), plain(loss_curves.figure(study))),
        Panel("isoflop", "Iso-FLOP", "One budget, every size", captions.isoflop(study), plain(profile)) if profile else None,
        Panel("frontier", "Frontier", "The compute-optimal frontier", captions.frontier(study), plain(best)) if best else None,
        Panel(
            "agreement",
            "Agreement",
            "Predicted against measured",
            captions.agreement(study),
            plain(agreement.figure(study)),
            square=True,
        ),
        Panel("work", "Work", "Where the work goes", captions.work(study), plain(spent)) if spent else None,
        Panel("forgetting", "Forgetting", "Learned and forgotten", captions.forgetting(study), plain(kept)) if kept else None,
    ]


def plain(value: Any) -> Any:
    """The same data as JSON can say it: a number that is not finite becomes null, which plotly leaves out."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def _own(name: str) -> str:
    """A file of this package."""
    return resources.files("isolora.report").joinpath(name).read_text(encoding="utf-8")


def _trusted(text: str) -> Markup:
    """Text of ours (or plotly's) that goes into the page as it is."""
    assert "</script" not in text
    assert "</style" not in text
    return Markup(text)


def _policy(*scripts: str) -> str:
    """What a browser lets the page do: run exactly these scripts, style itself, and fetch nothing."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"


def write(path: Path, study: StudyReport) -> Path:
    """Write the page, whole or not at all; folders on the way are made. Returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(render(study), encoding="utf-8")
    return draft.replace(path)
