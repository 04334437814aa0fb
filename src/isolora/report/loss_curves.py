"""Loss against tokens: every run measured, the law through them, and the recommendation where no run had been."""

from __future__ import annotations

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonObject
from isolora.laws import Columns
from isolora.report import axes, palette
from isolora.report import wording as words
from isolora.report.axes import label, legend_row
from isolora.report.marks import extent, loss_frame, measured_trace, prediction_trace, proof_trace
from isolora.report.palette import ACCENT, DASHES, PAPER, SOFT, Figure, faded
from isolora.report.rate_cells import MOST_NAMES
from isolora.report.study_report import StudyReport
from isolora.report.trajectories import Choice, Trajectory

_SAMPLES = 60
_MOST_FAINT = 150
"""Thin lines: of more trials every second, third ... is drawn."""


def figure(study: StudyReport) -> Figure | None:
    """None where no run was evaluated twice: there is no curve then."""
    if not any(len(run.tokens) > 1 for run in study.curves):
        return None
    traces = [*_keys(study), *_faint_runs(study), *_law_lines(study), *_measured(study), *_beyond(study)]
    return {"data": traces, "layout": _layout(study, traces)}


def _keys(study: StudyReport) -> list[JsonObject]:
    """Rows of the legend: models by colour (a click hides one), methods or ranks by symbol."""
    by_model = [
        legend_row(label(model), legendgroup=model, marker={"color": study.colours[model], "size": 9})
        for model in study.models
        if (len(study.models) > 1 or len(study.families) < 2) and len(study.models) <= MOST_NAMES
    ]
    by_symbol = [
        legend_row(
            name,
            legend="legend2",
            mode="lines+markers" if study.fit else "markers",
            marker={"color": colour, "symbol": symbol, "size": 7},
            line={"color": colour, "width": 1.5, "dash": dash},
        )
        for name, symbol, dash, colour in _symbols(study)
    ]
    return by_model + by_symbol


def _symbols(study: StudyReport) -> list[tuple[str, str, str, str]]:
    """Name, symbol, dash and colour of each method where there are several, else of each rank."""
    if len(study.families) > MOST_NAMES:
        return []
    if len(study.families) > 1:
        firsts = {run.family: run for run in study.fitted}
        looks = {family: study.look(firsts[family]) for family in study.families}
        several = len(study.models) > 1
        return [(label(name), symbol, DASHES[0], SOFT if several else colour) for name, (colour, symbol) in looks.items()]
    ranks = [rank for rank in study.ranks if rank is not None]
    return [(f"rank {rank}", palette.marker_symbol(study.ranks.index(rank)), _dash(study, rank), SOFT) for rank in ranks]


def _faint_runs(study: StudyReport) -> list[JsonObject]:
    """Tuning trials and worse learning rates, as thin lines: the law is not about them."""
    chosen = {run.run for run in study.fitted}
    faint = [run for run in study.curves if run.run not in chosen and len(run.tokens) > 1]
    return [
        {
            **_trace(study, run),
            "mode": "lines",
            "name": f"{label(study.called(run))}, learning rate {run.learning_rate:g}",
            "line": {"color": faded(study.look(run)[0], 0.28), "width": 1},
        }
        for run in faint[:: max(1, len(faint) // _MOST_FAINT)]
    ]


def _measured(study: StudyReport) -> list[JsonObject]:
    """The points that stand for each choice; hollow below the law's lower cut."""
    traces = []
    for run in study.fitted:
        colour = study.look(run)[0]
        fills = [colour if tokens >= study.cut else PAPER for tokens in run.tokens]
        marker = {"symbol": _symbol(study, run), "size": 6, "color": fills, "line": {"color": colour, "width": 1.2}}
        traces.append({**_trace(study, run), "mode": "markers", "marker": marker})
    return traces


def _law_lines(study: StudyReport) -> list[JsonObject]:
    traces: list[JsonObject] = []
    if study.fit is None:
        return traces
    looks = {run.key: study.look(run)[0] for run in study.fitted}
    for choice in study.choices:
        tokens_M = np.geomspace(*_fitted_range(study, choice), _SAMPLES)
        line = {"color": looks.get(choice.key, study.colours[choice.model]), "width": 1.6, "dash": _dash(study, choice.rank)}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": tokens_M.tolist(),
                "y": study.fit.predict(choice.columns(tokens_M)).tolist(),
                "name": f"law: {label(choice.name)}",
                "legendgroup": choice.model,
                "showlegend": False,
                "line": line,
                "hovertemplate": _hover(study),
            }
        )
    return traces


def _hover(study: StudyReport) -> str:
    return f"%{{fullData.name}}<br>%{{x:.3s}} tokens, {label(study.target)} %{{y:.3f}}<extra></extra>"


def _beyond(study: StudyReport) -> list[JsonObject]:
    """The recommendation's curve from the last measurement on, its end, and the proof."""
    traces = [proof_trace(run.tokens, run.loss, study.target) for run in study.proof]
    plan, choice, fit = study.recommendation, study.recommended, study.fit
    if plan is None or fit is None:
        return traces
    if choice is not None:
        start = min(_fitted_range(study, choice)[1], 0.99 * plan.tokens)
        traces = [*_extrapolation(fit, choice.columns(np.geomspace(start, plan.tokens, _SAMPLES))), *traces]
    traces.append(prediction_trace(plan.tokens, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        trained = study.proof[-1].tokens[-1] if study.proof else plan.tokens
        traces.append(measured_trace(float(trained), study.verification.measured))
    return traces


def _extrapolation(fit: Fit, columns: Columns) -> list[JsonObject]:
    """The law with its 95 % interval where nothing was measured yet."""
    tokens, (low_M, high_M) = columns["d"].tolist(), fit.interval(columns)
    line = {"type": "scatter", "mode": "lines", "x": tokens, "y": fit.predict(columns).tolist()}
    dashed = {"line": {"color": ACCENT, "width": 2, "dash": "6px,4px"}, "showlegend": False, "hoverinfo": "skip"}
    return [axes.band(tokens, low_M.tolist(), high_M.tolist(), faded(ACCENT, 0.18), showlegend=False), {**line, **dashed}]


def _trace(study: StudyReport, run: Trajectory) -> JsonObject:
    return {
        "type": "scatter",
        "x": run.tokens.tolist(),
        "y": run.loss.tolist(),
        "name": label(study.called(run)),
        "legendgroup": run.model,
        "showlegend": False,
        "hovertemplate": _hover(study),
    }


def _fitted_range(study: StudyReport, choice: Choice) -> tuple[float, float]:
    """Tokens from the law's lower cut to the end of the choice's longest run."""
    ends = [run.tokens[-1] for run in study.curves if run.key == choice.key]
    last = float(max(ends))
    return min(max(study.cut, 1.0), last * 0.99), last


def _symbol(study: StudyReport, run: Trajectory) -> str:
    several = len(study.families) > 1 and run.family in study.families
    return palette.marker_symbol(study.families.index(run.family) if several else study.ranks.index(run.rank))


def _dash(study: StudyReport, rank: int | None) -> str:
    """Solid for the largest rank."""
    return DASHES[(len(study.ranks) - 1 - study.ranks.index(rank)) % len(DASHES)]


def _layout(study: StudyReport, traces: list[JsonObject]) -> JsonObject:
    tokens, (losses, above) = extent(traces, "x"), loss_frame(traces)
    layout = axes.layout(
        axes.log_axis("tokens processed", *tokens, axes.count_ticks(*tokens)),
        axes.loss_axis(study.measure, *losses),
        height=560,
        legend=axes.legend(1.06),
        legend2=axes.legend(1.0, itemclick=False, itemdoubleclick=False),
        legend3=axes.corner(),
        annotations=above,
    )
    layout["margin"]["t"] = 76
    if study.cut > tokens[0]:
        side = "right" if study.cut < (tokens[0] * tokens[1]) ** 0.5 else "left"
        words_ = f"fitted from {words.count(study.cut)} tokens on"
        layout["shapes"] = [axes.upright(study.cut)]
        layout["annotations"] = [*above, axes.side_note(study.cut, words_, side, 0.94 if above else 1.0)]
    return layout
