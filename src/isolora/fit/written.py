"""A fit as JSON: what each key must hold, checked before a prediction is made of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from isolora import laws
from isolora.errors import TableError, in_brief
from isolora.json_types import JsonMapping, JsonObject

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
    members: list[_WrittenMember]
    shift: Finite
    price: Finite
    rates: _WrittenRates | None
    target: StrictStr
    ceiling: Open
    level: Finite
    left_out: dict[str, StrictInt]
    pinned: list[StrictStr]
    edges: dict[str, list[Finite]]
    remarks: list[StrictStr]


def checked(state: JsonMapping, version: int) -> JsonMapping:
    """The same object. Raises TableError where it is no fit of this version, or one whose numbers do not belong together."""
    if state.get("version") != version:
        raise TableError(f"not a fit written by this version of isolora (format {version})")
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
