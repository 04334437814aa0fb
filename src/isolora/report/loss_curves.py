"""Loss against tokens: every run measured, the law through them, and the recommendation where no run had been."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.laws import Columns
from isolora.report import formats as words
from isolora.report import palette
from isolora.report.marks import extent, measured_trace, prediction_trace, proof_trace
from isolora.report.palette import ACCENT, DASHES, PAPER, SOFT, SYMBOLS, Figure, faded, label
from isolora.report.study import StudyReport
from isolora.report.trajectories import Choice, Trajectory

_SAMPLES = 60
_HOVER = "%{fullData.name}<br>%{x:.3s} tokens, loss %{y:.3f}<extra></extra>"


def figure(study: StudyReport) -> Figure:
    traces = [*_keys(study), *_faint_runs(study), *_law_lines(study), *_measured(study), *_beyond(study)]
    return {"data": traces, "layout": _layout(study, traces)}


def _keys(study: StudyReport) -> list[dict[str, Any]]:
    """Rows of the legend: models by colour (a click hides one), ranks by symbol."""
    by_model = [
        _key(label(model), legendgroup=model, marker={"color": study.colours[model], "size": 9}) for model in study.models
    ]
    by_rank = [
        _key(
            f"rank {rank}",
            legend="legend2",
            mode="lines+markers",
            marker={"color": SOFT, "symbol": _symbol(study, rank), "size": 7},
            line={"color": SOFT, "width": 1.5, "dash": _dash(study, rank)},
        )
        for rank in study.ranks
        if rank is not None
    ]
    return by_model + by_rank


def _key(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": name, **more}


def _faint_runs(study: StudyReport) -> list[dict[str, Any]]:
    """Tuning trials and worse learning rates, as thin lines: the law is not about them."""
    chosen = {run.run for run in study.fitted}
    return [
        {
            **_trace(study, run),
            "mode": "lines",
            "name": f"{label(run.name)}, learning rate {run.learning_rate:g}",
            "line": {"color": faded(study.colours[run.model], 0.28), "width": 1},
        }
        for run in study.curves
        if run.run not in chosen
    ]


def _measured(study: StudyReport) -> list[dict[str, Any]]:
    """The points that stand for each choice; hollow below the law's lower cut."""
    traces = []
    for run in study.fitted:
        colour = study.colours[run.model]
        fills = [colour if tokens >= study.fit.cut else PAPER for tokens in run.tokens]
        marker = {"symbol": _symbol(study, run.rank), "size": 6, "color": fills, "line": {"color": colour, "width": 1.2}}
        traces.append({**_trace(study, run), "mode": "markers", "marker": marker})
    return traces


def _law_lines(study: StudyReport) -> list[dict[str, Any]]:
    traces = []
    for choice in study.choices:
        tokens_M = np.geomspace(*_fitted_range(study, choice), _SAMPLES)
        line = {"color": study.colours[choice.model], "width": 1.6, "dash": _dash(study, choice.rank)}
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
                "hovertemplate": _HOVER,
            }
        )
    return traces


def _beyond(study: StudyReport) -> list[dict[str, Any]]:
    """The recommendation's curve from the last measurement on, its end, and the proof."""
    traces = [proof_trace(run.tokens, run.loss) for run in study.proof]
    plan, choice = study.recommendation, study.recommended
    if plan is None:
        return traces
    if choice is not None:
        start = min(_fitted_range(study, choice)[1], 0.99 * plan.tokens)
        traces = [*_extrapolation(study, choice.columns(np.geomspace(start, plan.tokens, _SAMPLES))), *traces]
    traces.append(prediction_trace(plan.tokens, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        traces.append(measured_trace(plan.tokens, study.verification.measured))
    return traces


def _extrapolation(study: StudyReport, columns: Columns) -> list[dict[str, Any]]:
    """The law with its 95 % interval where nothing was measured yet."""
    tokens, (low_M, high_M) = columns["d"].tolist(), study.fit.interval(columns)
    line = {"type": "scatter", "mode": "lines", "x": tokens, "y": study.fit.predict(columns).tolist()}
    dashed = {"line": {"color": ACCENT, "width": 2, "dash": "6px,4px"}, "showlegend": False, "hoverinfo": "skip"}
    return [palette.band(tokens, low_M.tolist(), high_M.tolist(), faded(ACCENT, 0.18), showlegend=False), {**line, **dashed}]


def _trace(study: StudyReport, run: Trajectory) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": run.tokens.tolist(),
        "y": run.loss.tolist(),
        "name": label(run.name),
        "legendgroup": run.model,
        "showlegend": False,
        "hovertemplate": _HOVER,
    }


def _fitted_range(study: StudyReport, choice: Choice) -> tuple[float, float]:
    """Tokens from the law's lower cut to the end of the choice's longest run."""
    ends = [run.tokens[-1] for run in study.curves if run.key == choice.key]
    last = float(max(ends))
    return min(max(study.fit.cut, 1.0), last * 0.99), last


def _symbol(study: StudyReport, rank: int | None) -> str:
    return SYMBOLS[study.ranks.index(rank) % len(SYMBOLS)]


def _dash(study: StudyReport, rank: int | None) -> str:
    """Solid for the largest rank."""
    return DASHES[(len(study.ranks) - 1 - study.ranks.index(rank)) % len(DASHES)]


def _layout(study: StudyReport, traces: list[dict[str, Any]]) -> dict[str, Any]:
    tokens, losses = extent(traces, "x"), extent(traces, "y")
    layout = palette.layout(
        palette.log_axis("tokens processed", *tokens, palette.count_ticks(*tokens)),
        palette.log_axis("held-out loss, nats per token", *losses, palette.loss_ticks(*losses), margin=0.05),
        height=560,
        legend=palette.legend(1.06),
        legend2=palette.legend(1.0, itemclick=False, itemdoubleclick=False),
        legend3=palette.corner(),
    )
    layout["margin"]["t"] = 76
    if study.fit.cut > tokens[0]:
        layout["shapes"] = [palette.upright(study.fit.cut)]
        layout["annotations"] = [palette.note(study.fit.cut, f"fitted from {words.count(study.fit.cut)} tokens on", side="right")]
    return layout
