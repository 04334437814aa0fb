"""A fit as JSON and back: what each key must hold is checked before a prediction is made of it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from isolora import laws
from isolora.errors import TableError, in_brief
from isolora.fit.averaging import AveragedLaw
from isolora.fit.best_rates import RateEffect
from isolora.fit.continuation import Continuation, End
from isolora.json_types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from isolora.fit.result import Fit

VERSION = 6

Finite = Annotated[float, Field(strict=True), AllowInfNan(False)]
Open = Finite | None
"""A number that JSON may have no word for."""
Positive = Annotated[float, Field(strict=True, gt=0), AllowInfNan(False)]


class _WrittenMember(BaseModel):
    law: StrictStr
    weight: Annotated[float, Field(strict=True, ge=0, le=1.001), AllowInfNan(False)]
    theta: list[Finite]


class _WrittenRates(BaseModel):
    slope: Finite
    curvature: Finite
    spread: Finite
    compared: tuple[Finite, Finite]
    sizes: list[Positive]
    rates: Annotated[list[Positive], Field(min_length=1)]


class _WrittenHoldOut(BaseModel):
    count: StrictInt
    factor: Finite
    mean: Finite
    max: Finite


class _WrittenEnd(BaseModel):
    place: dict[str, Finite]
    tokens: Positive
    slope: Finite
    own: Annotated[Finite, Field(ge=0)] = 0.0


class _WrittenContinuation(BaseModel):
    ends: Annotated[list[_WrittenEnd], Field(min_length=1)]
    decay: Finite
    covariance: tuple[Finite, Finite, Finite]
    together: Positive = 1.0


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: StrictInt
    law: StrictStr
    parameters: dict[str, Finite]
    intervals: dict[str, tuple[Open, Open]]
    objective: Open
    points: StrictInt
    holdout: _WrittenHoldOut | dict[str, None]
    candidates: list[JsonObject]
    cut: Finite
    runs: StrictInt
    noise: Finite
    drift: Finite
    ranges: dict[str, tuple[Positive, Positive]]
    draws: list[list[Finite]]
    stretch: Positive = 1.0
    members: list[_WrittenMember]
    shift: Finite
    price: Finite
    rates: _WrittenRates | None
    target: StrictStr
    ceiling: Open
    level: Finite
    continuation: _WrittenContinuation | None
    families: dict[str, StrictStr] = {}
    left_out: dict[str, StrictInt]
    pinned: list[StrictStr]
    edges: dict[str, list[Finite]]
    remarks: list[StrictStr]
    known: dict[str, list[StrictInt | Open | StrictStr]] = {}


def to_state(fit: Fit) -> JsonObject:
    """Every field of a fit as JSON has it, under its own name."""
    plain = {
        "intervals": {name: list(ends) for name, ends in fit.intervals.items()},
        "ranges": {name: list(ends) for name, ends in fit.ranges.items()},
        "candidates": [dict(row) for row in fit.candidates],
        "draws": fit.draws.tolist(),
        "members": [{"law": m.law, "weight": m.weight, "theta": list(m.theta)} for m in fit.members],
        "rates": vars(fit.rates) if fit.rates else None,
        "ceiling": fit.ceiling if np.isfinite(fit.ceiling) else None,
        "pinned": list(fit.pinned),
        "continuation": continuation_state(fit.continuation),
        "edges": {name: list(theta) for name, theta in fit.edges.items()},
        "families": dict(fit.families),
        "remarks": list(fit.remarks),
    }
    return {"version": VERSION, **{each.name: getattr(fit, each.name) for each in fields(fit)}, **plain}


def from_state(state: JsonMapping) -> dict[str, Any]:
    """The fields of the fit that `to_state` wrote. Raises TableError when the object is no fit of this version."""
    kept = {name: value for name, value in _checked(state).items() if name != "version"}
    pairs = {
        name: {key: tuple(np.array(ends, dtype=float).tolist()) for key, ends in kept[name].items()}
        for name in ("intervals", "ranges")
    }
    again = {
        "candidates": tuple(kept["candidates"]),
        "draws": np.array(kept["draws"], dtype=float).reshape(-1, len(kept["parameters"])),
        "members": tuple(AveragedLaw(m["law"], m["weight"], tuple(m["theta"])) for m in kept["members"]),
        "rates": _rates(kept["rates"]),
        "ceiling": np.inf if kept["ceiling"] is None else kept["ceiling"],
        "pinned": tuple(kept["pinned"]),
        "continuation": _continuation(kept["continuation"]),
        "edges": {name: tuple(theta) for name, theta in kept["edges"].items()},
        "remarks": tuple(kept["remarks"]),
    }
    return {**kept, **pairs, **again}


def continuation_state(found: Continuation | None) -> JsonObject | None:
    """A continuation as JSON has it."""
    if found is None:
        return None
    ends = [{"place": dict(end.place), "tokens": end.tokens, "slope": end.slope, "own": end.own} for end in found.ends]
    return {"ends": ends, "decay": found.decay, "covariance": list(found.covariance), "together": found.together}


def _continuation(state: JsonMapping | None) -> Continuation | None:
    if state is None:
        return None
    ends = tuple(End(**end) for end in state["ends"])
    return Continuation(ends, state["decay"], tuple(state["covariance"]), state.get("together", 1.0))


def _rates(state: JsonMapping | None) -> RateEffect | None:
    if state is None:
        return None
    sequences = {name: tuple(state[name]) for name in ("compared", "sizes", "rates")}
    return RateEffect(**{**state, **sequences})


def _checked(state: JsonMapping) -> JsonMapping:
    """The same object. Raises TableError where it is no fit of this version, or one whose numbers do not belong together."""
    if state.get("version") != VERSION:
        raise TableError(f"not a fit written by this version of isolora (format {VERSION})")
    try:
        _Written.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TableError(f"not a fit as isolora writes it: {where}: {in_brief(first['msg'])}") from None
    _demand_widths(state)
    return state


def _demand_widths(state: JsonMapping) -> None:
    """Every list of parameters is as long as its law's."""
    names = laws.resolve(state["law"]).parameters
    rows = [("parameters", names, state["parameters"]), *(("draws", names, row) for row in state["draws"])]
    rows += [("edges", names, row) for row in state["edges"].values()]
    rows += [("members", laws.resolve(member["law"]).parameters, member["theta"]) for member in state["members"]]
    for field, wanted, given in rows:
        if len(given) != len(wanted):
            raise TableError(f"not a fit as isolora writes it: {field}: {len(given)} numbers for {', '.join(wanted)}")
    if tuple(state["parameters"]) != names or set(state["intervals"]) != set(names):
        raise TableError(f"not a fit as isolora writes it: parameters: expected {', '.join(names)}")
