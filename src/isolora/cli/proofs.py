"""The verb verify: what is recommended is trained, and the prediction held against the measurement."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from isolora.cli.answer import Json, answer
from isolora.cli.fits import (
    Bootstrap,
    Examples,
    ForgetAtMost,
    Law,
    Map,
    Memory,
    Method,
    Source,
    Target,
    Where,
    kept_adapter,
    read_points,
)


def verify(
    source: Source,
    budget: Annotated[
        str | None, typer.Option(help="what may be spent, for example 1e15flops, 2h or 20usd; by default 4 x the largest run")
    ] = None,
    examples: Examples = None,
    memory: Memory = None,
    forget_at_most: ForgetAtMost = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="price of an hour: says the money, and buys a budget in it")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="seed of the run that is trained")] = 0,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    method: Method = None,
    where: Where = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Train what a study's law recommends, into the study's store, and say whether its prediction held."""
    from isolora.plan import NoRecommendation
    from isolora.plan.asked import asked_limits
    from isolora.study.study_recommendation import advise, study_of

    study_of(source)
    limits = asked_limits(examples, memory, forget_at_most)
    table = read_points(source, columns, method, where, target)
    try:
        advice = advise(source, table, budget, price_per_hour, limits, seed, law=law, target=target, bootstrap=bootstrap)
    except NoRecommendation as refusal:
        answer(refusal.to_json(), refusal.words() + kept_adapter(source, refusal), as_json)
        raise
    print(advice, file=sys.stderr)
    proof = advice.verified(quiet=as_json)
    answer(proof.to_json(), f"{proof}\nadapter    {proof.adapter}", as_json)


VERBS = (verify,)
