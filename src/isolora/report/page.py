"""The page itself: texts, tables and figures put into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from isolora.json_types import JsonObject
from isolora.paths import write_whole
from isolora.report import (
    agreement,
    captions,
    forgetting,
    frontier,
    headline,
    isoflop,
    loss_curves,
    method_comparison,
    page_tables,
    palette,
    rate_cells,
    search_history,
    work,
)
from isolora.report.instrument import instrument, no_instrument
from isolora.report.palette import Figure
from isolora.report.study_report import StudyReport

PLOTLY = "plotly/plotly-basic.min.js"
"""Under the package's assets, with its licence: plotly's basic bundle (scatter, bar and pie), 1.2 MB of the whole one's 4.8."""


SCRIPTS = ("evaluate.js", "plan.js", "amounts.js", "sliders.js", "reach.js", "page.js")
"""In the order in which they build on each other; the page's own data are JSON beside them."""


@dataclass(frozen=True)
class Panel:
    """A kind of figure with its words; `plot` gives None where a study has nothing to show in it."""

    key: str
    short: str
    title: str
    caption: Callable[[StudyReport], str]
    plot: Callable[[StudyReport], Figure | None]
    square: bool = False


PANELS = (
    Panel("search", "Search", "What the search tried", search_history.caption, search_history.figure),
    Panel("importance", "Importance", "Which parameter mattered", captions.importance_caption, search_history.importance_figure),
    Panel("parallel", "Trials", "Every trial across its parameters", captions.parallel_caption, search_history.parallel_figure),
    Panel("methods", "Methods", "Method by method", captions.methods_caption, method_comparison.figure),
    Panel("curves", "Curves", "Every run over its tokens", captions.loss_curves_caption, loss_curves.figure),
    Panel("isoflop", "Iso-FLOP", "One budget, every size", captions.isoflop_caption, isoflop.figure),
    Panel("frontier", "Frontier", "The compute-optimal frontier", captions.frontier_caption, frontier.figure),
    Panel("agreement", "Agreement", "Predicted against measured", captions.agreement_caption, agreement.figure, square=True),
    Panel("forgetting", "Forgetting", "Learned and forgotten", captions.forgetting_caption, forgetting.figure),
    Panel("rates", "Rates", "Learning rates, cell by cell", captions.rates_caption, rate_cells.figure),
    Panel("work", "Work", "Where the work goes", captions.work_caption, work.figure),
)
LISTINGS = (page_tables.alternatives, page_tables.method_rows, page_tables.law, page_tables.candidates, page_tables.runs)


def render_page(study: StudyReport) -> str:
    """The whole page. Text from outside is escaped by the template, and only our own scripts may run."""
    scripts = [_trusted(_own(name)) for name in SCRIPTS]
    plotly = _trusted(_asset(PLOTLY))
    data = instrument(study)
    themes = palette.themes(max(len(study.models), 1))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        study=study,
        policy=_policy(plotly, *scripts),
        style=_trusted(_own("style.css")),
        css_light=Markup(palette.css(themes["light"])),
        css_dark=Markup(palette.css(themes["dark"])),
        themes=themes,
        plotly=plotly,
        scripts=scripts,
        advice=headline.advice(study),
        measured=headline.measured_best(study),
        proof=headline.proof(study),
        instrument=data,
        no_instrument=no_instrument(data, study),
        figures=list(_figures(study)),
        tables=[table for table in (listing(study) for listing in LISTINGS) if table is not None],
        target_words=study.target,
        environment=page_tables.environment_rows(study),
    )


def _figures(study: StudyReport) -> Iterator[JsonObject]:
    for panel in PANELS:
        plot = panel.plot(study)
        if plot is not None:
            facts = {"key": panel.key, "short": panel.short, "title": panel.title, "square": panel.square}
            yield {**facts, "caption": panel.caption(study), "plot": plain(plot)}


def plain(value: object) -> Any:
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


def _asset(name: str) -> str:
    return (resources.files("isolora") / "assets" / name).read_text(encoding="utf-8")


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


def write_page(path: Path, study: StudyReport) -> Path:
    """Write the page, whole or not at all; folders on the way are made. Returns its path."""
    path = Path(path)
    write_whole(path, "--out", render_page(study))
    return path
