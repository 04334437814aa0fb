"""What a search is: which values are suggested, by whom, and when a trial is given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from isolora.config.settings import Seed, Settings, parse
from isolora.errors import ConfigError
from isolora.metrics.direction import larger_is_better


class RangeConfig(Settings):
    """Numbers from low to high, both included; whole numbers where both are."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="search evenly in the logarithm")

    @model_validator(mode="after")
    def _some_room(self) -> RangeConfig:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (got {self.low} and {self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"log asks for a low above 0 (got {self.low})")
        return self


class SearchConfig(Settings):
    """What Optuna suggests values for, and when it gives a trial up."""

    space: dict[str, RangeConfig | list[Any]] = Field(
        description="dotted key of a run -> a list of values, or low and high (and log: true)"
    )
    trials: PositiveInt = Field(24, description="how many suggestions are tried")
    sampler: Literal["tpe", "random"] = Field("tpe", description="who suggests: a tree-structured Parzen estimator, or chance")
    startup: PositiveInt = Field(8, description="trials that are drawn by chance before the estimator has seen enough")
    pruner: Literal["hyperband", "median", "none"] = Field("hyperband", description="who ends hopeless trials early")
    prune_from: PositiveInt = Field(
        1, description="first evaluation that may end a trial; early ones flatter high learning rates"
    )
    reduction_factor: int = Field(3, ge=2, description="Hyperband keeps one in so many trials at each rung")
    metric: str = Field("loss", description="what is searched for: loss, or a measure of the points such as token_f1")
    direction: Literal["minimize", "maximize"] | None = Field(
        None, description="which way the metric is better; known of the tasks' own measures"
    )
    seed: Seed = Field(0, description="decides the suggestions; the runs themselves keep the base's seed")

    @field_validator("space", mode="before")
    @classmethod
    def _choices(cls, given: object) -> object:
        if not isinstance(given, Mapping) or not given:
            raise ValueError("expected at least one dotted key of a run with its values")
        return {key: cls._choice(f"search.space.{key}", values) for key, values in given.items()}

    @staticmethod
    def _choice(name: str, values: object) -> object:
        if isinstance(values, Mapping):
            return parse(RangeConfig, values, where=name)
        if isinstance(values, RangeConfig) or (isinstance(values, list) and values):
            return values
        raise ValueError(f"{name}: expected a list of values, or low and high (got {values!r})")

    @model_validator(mode="after")
    def _direction_is_known(self) -> SearchConfig:
        _ = self.maximizes
        return self

    @property
    def maximizes(self) -> bool:
        """Whether more of the metric is better. Raises ConfigError where neither the metric's name nor the direction says so."""
        if self.direction is not None:
            return self.direction == "maximize"
        try:
            return larger_is_better(self.metric)
        except ConfigError as failure:
            raise ConfigError(f"search.metric: {failure}; or say search.direction") from None
