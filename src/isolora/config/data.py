"""Which examples a run learns from and is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from isolora.config.settings import Seed, Settings
from isolora.errors import DataError, unknown
from isolora.json_types import JsonObject

SIZES = {"small": 0.01, "medium": 0.1, "large": 1.0}
"""Shares of the training examples that there are."""


class MixConfig(Settings):
    """Another source, mixed into the training examples."""

    source: str = Field(description="packaged name, local file or glob, or hub id")
    share: float = Field(gt=0, lt=1, description="share of the training examples that come from this source")
    columns: dict[str, str] = Field({}, description="column the task asks for -> column of this source, where they differ")
    text_field: str | None = Field(None, description="column that holds the text, when it is not called text")
    task: JsonObject = Field({}, description="settings of the task that this source needs otherwise, such as its template")
    name: str | None = Field(None, description="what its scores are called; the last part of source when absent")

    @property
    def called(self) -> str:
        return self.name or Path(self.source).name


class DataConfig(Settings):
    """Which examples a run learns from and is measured on."""

    source: str = Field("debian-descriptions", description="packaged name, local file or glob, or hub id")
    train_examples: PositiveInt | Literal["small", "medium", "large"] | None = Field(
        None, description="unique training examples: a number, or 1, 10 or 100 % of those there are; all when absent"
    )
    eval_examples: PositiveInt = Field(500, description="held-out examples that the loss is measured on")
    eval_split: Literal["validation", "test"] = Field("validation", description="where the held-out examples come from")
    columns: dict[str, str] = Field({}, description="column the task asks for -> column of this source, where they differ")
    text_field: str | None = Field(None, description="column that holds the text, when it is not called text")
    max_length: PositiveInt | None = Field(None, description="longest example in tokens; the model's positions when absent")
    seed: Seed = Field(0, description="which examples are drawn; smaller draws are subsets of larger ones")
    mix: tuple[MixConfig, ...] = Field((), description="other sources mixed into training: a list of source and share")
    on_error: Literal["stop", "skip"] = Field(
        "stop",
        description="where a row cannot be used or gives nothing to learn: stop the run, or skip the row and count it",
    )
    streaming: bool = Field(
        False,
        description="read the source once and hold only the rows drawn, for sources that do not fit in memory; needs "
        "train_examples as a number, and draws other examples than without",
    )

    @field_validator("train_examples", mode="before")
    @classmethod
    def _sizes_have_names(cls, given: object) -> object:
        if isinstance(given, str) and given not in SIZES and not given.isdecimal():
            raise ValueError(f"{unknown('size', given, SIZES)}, or a whole number")
        return given

    @field_validator("mix")
    @classmethod
    def _shares_leave_room(cls, mix: tuple[MixConfig, ...]) -> tuple[MixConfig, ...]:
        if sum(part.share for part in mix) >= 1:
            raise ValueError("the shares must leave some of the examples to source")
        if len({part.called for part in mix}) < len(mix):
            raise ValueError(f"two sources have the same name (names: {', '.join(part.called for part in mix)})")
        return mix

    @model_validator(mode="after")
    def _streams_are_measured(self) -> DataConfig:
        if self.streaming and not isinstance(self.train_examples, int):
            raise ValueError(
                f"data.train_examples: with streaming, a whole number says how many are held (got {self.train_examples})"
            )
        return self

    def drawn_examples(self, available: int) -> int:
        """How many training examples are drawn of those there are. Raises DataError where more are asked for."""
        if isinstance(self.train_examples, str):
            return max(1, round(SIZES[self.train_examples] * available))
        if self.train_examples is not None and self.train_examples > available:
            raise DataError(f"data.train_examples: {self.train_examples} asked for, {self.source} has {available}")
        return self.train_examples or available

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
