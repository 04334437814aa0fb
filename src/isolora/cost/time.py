"""Seconds and money: from rates measured on this machine, or from an accelerator's peak rate and a utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from isolora.cost.accelerators import Place
from isolora.cost.step_rates import Speed
from isolora.display import money_in_words, time_in_words
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.ledger import Flops


@dataclass(frozen=True)
class Duration:
    """Seconds of training without evaluation; basis: what they rest on; memory_bytes: of the accelerator, where one is named."""

    seconds: float
    basis: str
    price: float | None = None
    memory_bytes: float | None = None

    def to_json(self) -> JsonObject:
        return {"seconds": self.seconds, "seconds_basis": self.basis, "price": self.price}

    def __str__(self) -> str:
        money = "" if self.price is None else f", {money_in_words(self.price)} at the price given"
        return f"{time_in_words(self.seconds)}{money}: {self.basis}"


def predicted_seconds(here: Speed | None, precision: str, flops: Flops, micro_batches: int, place: Place) -> Duration | None:
    """How long the work takes; None where nothing says. here: what was measured on this machine for this base and method.

    Raises ConfigError where the utilisation of another machine is neither given nor measured here.
    """
    accelerator = place.accelerator
    if accelerator is None:
        if here is None:
            return None
        return _priced(here.seconds(flops, micro_batches), f"as measured on {here.machine}", place)
    share, basis = place.utilisation, "as given"
    if share is None:
        if here is None:
            raise ConfigError(f"--on: {accelerator.name} needs --utilisation U, or one measured here with --calibrate")
        share, basis = here.utilisation(flops, micro_batches), f"as measured on {here.machine}, assumed to carry over"
    peak = accelerator.peak(precision)
    basis = f"{accelerator.name} at {share:.3g} of {peak / 1e12:g} TFLOP/s in {precision}, {basis}"
    return _priced(flops.total / (share * peak), basis, place, accelerator.memory_bytes)


def _priced(seconds: float, basis: str, place: Place, memory_bytes: float | None = None) -> Duration:
    price = None if place.price_per_hour is None else place.price_per_hour * seconds / 3600
    return Duration(seconds, basis, price, memory_bytes)
