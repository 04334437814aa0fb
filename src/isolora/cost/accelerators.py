"""Peak rates of common accelerators: facts from their vendors' data sheets, for machines that one does not have.

Compared with public copies of these sheets in November 2026. Left out: what has no sheet of its maker's, such as the A10G.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from isolora.errors import ConfigError, unknown


@dataclass(frozen=True)
class Accelerator:
    """flops_per_second: precision -> peak of dense matrix products, float32 without TF32, as the training loop computes it."""

    name: str
    flops_per_second: dict[str, float]
    memory_bytes: float
    bytes_per_second: float
    source: str

    def peak(self, precision: str, field: str = "training.precision") -> float:
        """Raises ConfigError, about that field, where the data sheet names no such rate."""
        if precision not in self.flops_per_second:
            known = ", ".join(self.flops_per_second)
            raise ConfigError(f"{field}: {self.name} has no peak rate for {precision} (valid: {known})")
        return self.flops_per_second[precision]


@cache
def packaged_accelerators() -> dict[str, Accelerator]:
    """Every packaged accelerator under its name."""
    text = (resources.files("isolora") / "assets" / "accelerators.json").read_text(encoding="utf-8")
    return {name: Accelerator(name, **facts) for name, facts in json.loads(text).items()}


def find_accelerator(name: str) -> Accelerator:
    """By name, whatever the case. Raises ConfigError, naming those that are known."""
    by_name = {accelerator.name.lower(): accelerator for accelerator in packaged_accelerators().values()}
    if name.lower() not in by_name:
        raise ConfigError(f"--on: {unknown('accelerator', name, packaged_accelerators())}")
    return by_name[name.lower()]


@dataclass(frozen=True)
class Place:
    """Where a run would take place. on: an accelerator's name, this machine when absent; utilisation: achieved share of its peak
    rate; price_per_hour in any currency."""

    on: str | None = None
    utilisation: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        if self.utilisation is not None and not 0 < self.utilisation <= 1:
            raise ConfigError(f"--utilisation: a share above 0 and up to 1 of the peak rate (got {self.utilisation:g})")
        if self.utilisation is not None and self.on is None:
            raise ConfigError(f"--utilisation: of which accelerator? give --on too (valid: {', '.join(packaged_accelerators())})")
        if self.price_per_hour is not None and not 0 <= self.price_per_hour < float("inf"):
            raise ConfigError(f"--price-per-hour: 0 or more (got {self.price_per_hour:g})")

    @property
    def accelerator(self) -> Accelerator | None:
        """Raises ConfigError where the name is of none that is known."""
        return None if self.on is None else find_accelerator(self.on)


HERE = Place()
