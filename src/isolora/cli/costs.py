"""The verb cost: what a run takes, before it is run."""

from __future__ import annotations

from isolora.cli.answer import Json, answer
from isolora.cli.runs import Words, split_words


def cost(words: Words = None, as_json: Json = False) -> None:
    """FLOPs, memory and parameters of a run, or with batch=B length=L of one step; needs no weights."""
    from isolora.config import load_run
    from isolora.cost import cost as cost_of
    from isolora.cost import shape_of

    path, keys = split_words(words)
    shape, keys = shape_of(keys)
    estimate = cost_of(load_run(path, keys), shape)
    answer(estimate.to_json(), str(estimate), as_json)


VERBS = (cost,)
