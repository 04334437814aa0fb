"""What a study is: many runs over one base, from a YAML file and words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from isolora.config.run_config import RunConfig
from isolora.config.search_config import SearchConfig
from isolora.config.settings import Settings, parse
from isolora.config.strict_yaml import read_yaml, with_value, with_word
from isolora.json_types import JsonObject


class TuneConfig(Settings):
    """Every other cell of the grid tries all values of `over` on a small budget; the best one goes on."""

    over: str = Field("training.learning_rate", description="dotted key of the grid that is tuned")
    tokens: PositiveFloat = Field(description="budget of one trial, in tokens")


class StudyConfig(Settings):
    """Many runs over one base configuration: a grid, runs one by one, or a search."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="the study's name")
    base: JsonObject = Field(description="a run's configuration that all runs share")
    grid: dict[str, list[Any]] = Field({}, description="dotted key of a run -> values to try; all combinations are run")
    runs: list[JsonObject] = Field(
        [], description="runs named one by one, each by its dotted keys; in place of a grid, or beside it"
    )
    search: SearchConfig | None = Field(
        None, description="in place of a grid: suggest values trial by trial, then train the best"
    )
    final: JsonObject = Field({}, description="dotted keys set for the training after a search, beside the best values")
    tune: TuneConfig | None = Field(None, description="tune one key of the grid on small budgets first")
    own_seeds: bool = Field(
        True, description="where the grid names no seeds, give each run its own, so that no two share their data order"
    )
    stop_early: bool = Field(
        False,
        description="end a grid's runs early that the law fitted so far leaves no chance of being recommended",
    )
    stack: PositiveInt = Field(8, description="how many adapters may ride on one frozen base at a time")

    @model_validator(mode="after")
    def _grid_or_search(self) -> StudyConfig:
        if self.search is None and not {"grid", "runs"} & self.model_fields_set:
            raise ValueError("exactly one of grid, search says what is run; found none")
        if self.search is not None and (self.grid or self.runs):
            raise ValueError("exactly one of grid, search says what is run; found both")
        if self.search is not None and self.tune is not None:
            raise ValueError("tune: is for a grid; a search prunes instead")
        if self.search is not None and self.stop_early:
            raise ValueError("stop_early: is for a grid; a search has search.pruner")
        if self.tune is not None and self.runs:
            raise ValueError("tune: is for a grid; runs have their values")
        if self.search is None and self.final:
            raise ValueError("final: follows a search, and there is none")
        return self

    @model_validator(mode="after")
    def _tuned_key_in_grid(self) -> StudyConfig:
        if self.tune is not None and self.tune.over not in self.grid:
            raise ValueError(f"tune.over: {self.tune.over!r} is not a key of grid (valid: {', '.join(self.grid) or 'none'})")
        return self


def is_study(path: Path) -> bool:
    """Whether a YAML file is a study's rather than a run's."""
    return "base" in read_yaml(path)


def run_of_study(study: StudyConfig, words: Iterable[str] = ()) -> RunConfig:
    """The first run of a study: its base with the first value of every key of the grid, and words that win over both."""
    given = dict(study.base)
    for key, values in study.grid.items():
        given = with_value(given, key, values[0])
    for word in words:
        given = with_word(given, word)
    return parse(RunConfig, given)


def load_study(path: Path | str, words: Iterable[str] = ()) -> StudyConfig:
    given = read_yaml(Path(path))
    for word in words:
        given = with_word(given, word)
    return parse(StudyConfig, given)
