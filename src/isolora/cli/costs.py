"""The verb cost: what a run takes, before it is run."""

from __future__ import annotations

from typing import Annotated

import typer

from isolora.cli.answer import Json, answer
from isolora.cli.runs import Words, split_words


def cost(
    words: Words = None,
    calibrate: Annotated[
        bool, typer.Option(help="time some steps here first (seconds for small models), and keep the rates")
    ] = False,
    on: Annotated[str | None, typer.Option(help="an accelerator to say the time for, such as H100")] = None,
    utilisation: Annotated[float | None, typer.Option(help="share of that accelerator's peak rate that such runs reach")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="price of an hour, in any currency")] = None,
    as_json: Json = False,
) -> None:
    """FLOPs, memory, parameters and time of a run, or with batch=B length=L of one step; needs no weights."""
    from isolora.config import load_run
    from isolora.cost.calibration import calibrate as measure
    from isolora.cost.estimate import cost as cost_of
    from isolora.cost.estimate import shape_of
    from isolora.cost.time import Place

    path, keys = split_words(words)
    shape, keys = shape_of(keys)
    config, place = load_run(path, keys), Place(on, utilisation, price_per_hour)
    if calibrate:
        measure(config)
    estimate = cost_of(config, shape, place)
    answer(estimate.to_json(), str(estimate), as_json)


VERBS = (cost,)
