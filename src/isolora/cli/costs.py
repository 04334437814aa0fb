"""The verb cost: what a run or a whole study takes, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isolora.cli.answer import Json, answer
from isolora.cli.runs import Words, split_words
from isolora.garbage import without_collection

if TYPE_CHECKING:
    from isolora.cost.accelerators import Place
    from isolora.cost.run_price import Cost


def cost(
    words: Words = None,
    calibrate: Annotated[
        bool, typer.Option(help="time some steps here first (seconds for small models), and keep the rates")
    ] = False,
    on: Annotated[str | None, typer.Option(help="an accelerator to say the time for, such as H100")] = None,
    utilisation: Annotated[float | None, typer.Option(help="share of that accelerator's peak rate that such runs reach")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="price of an hour, in any currency")] = None,
    workers: Annotated[int, typer.Option(min=1, help="of a study: processes that train side by side")] = 1,
    as_json: Json = False,
) -> None:
    """FLOPs, memory, parameters and time of a run or a study, or with batch=B length=L of one step, or of as many such steps as
    training.steps=N, training.tokens=N or training.flops=N says; needs no weights."""
    from isolora.config import is_study
    from isolora.cost import answers
    from isolora.cost.accelerators import Place
    from isolora.cost.run_price import asks_for_all_steps, shape_of, with_one_step

    path, keys = split_words(words)
    place = Place(on, utilisation, price_per_hour)
    if path is not None and is_study(path):
        answer_study(path, keys, place, workers, calibrate, as_json)
        return
    shape, keys = shape_of(keys)
    whole = shape is not None and asks_for_all_steps(keys)
    keys = with_one_step(keys) if shape and path is None else keys
    estimate = None if calibrate else answers.find_answer(path, keys, shape, place)
    if estimate is None:
        with without_collection():
            estimate = _asked_first(path, keys, shape, place, calibrate, whole)
    answer(estimate.to_json(), str(estimate), as_json)


def _asked_first(
    path: Path | None, keys: list[str], shape: tuple[int, int] | None, place: Place, calibrate: bool, whole: bool
) -> Cost:
    from isolora.config import load_run
    from isolora.cost import answers
    from isolora.cost.calibration import calibrate as measure
    from isolora.cost.estimate import cost as cost_of

    config = load_run(path, keys)
    if calibrate:
        measure(config)
    estimate = cost_of(config, shape, place, whole)
    answers.keep(path, keys, shape, config, estimate)
    return estimate


def answer_study(path: Path, keys: list[str], place: Place, workers: int, calibrate: bool, as_json: bool) -> None:
    """Price a study; with `calibrate` each of its bases and methods is timed here first."""
    from isolora.config import load_study
    from isolora.cost.accelerators import HERE
    from isolora.cost.calibration import calibrate as measure
    from isolora.study.study_price import one_of_each, price_study

    study = load_study(path, keys)
    if calibrate:
        for config in one_of_each(study):
            measure(config)
    found = price_study(study, place or HERE, workers)
    answer(found.to_json(), str(found), as_json)


VERBS = (cost,)
