"""What one training run is, from a YAML file and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from isolora.config.data import DataConfig
from isolora.config.plug_ins import MethodConfig, TaskConfig
from isolora.config.settings import Seed, Settings, content_hash, parse
from isolora.config.strict_yaml import read_yaml, with_word
from isolora.config.training import TrainingConfig
from isolora.data_cards import card_of


class ForgettingConfig(Settings):
    """What is measured beside the task: the loss on texts that the run is not for, before and after."""

    sources: tuple[str, ...] = Field(("general-english",), min_length=1, description="data sets of texts, as in data.source")
    examples: PositiveInt = Field(200, description="held-out texts of each source")


class RunConfig(Settings):
    """One training run: everything that its result depends on."""

    model: str = Field("nano-1m", description="packaged name, local folder, or hub id")
    task: TaskConfig = Field(
        default_factory=lambda: TaskConfig(name="causal-lm"), description="what is learnt: a name, or a name with keys of its own"
    )
    data: DataConfig = Field(DataConfig(), description="what is trained on and measured on")
    method: MethodConfig = Field(
        default_factory=lambda: MethodConfig(name="lora"), description="the adapter: a name, or a name with keys of its own"
    )
    training: TrainingConfig = Field(
        TrainingConfig(tokens=1e6), description="budget, optimiser, schedule, evaluations, checkpoints"
    )
    new_tokens: tuple[str, ...] = Field((), description="entries added to the vocabulary, trained and kept with the adapter")
    forgetting: ForgettingConfig | None = Field(
        None, description="measure at every point what is forgotten of other texts; {} takes the defaults"
    )
    seed: Seed = Field(0, description="initial adapter weights, data order, dropout")
    trust_remote_code: bool = Field(False, description="run code that a hub repository brings along")

    @model_validator(mode="before")
    @classmethod
    def _as_the_data_needs(cls, given: Any) -> object:
        """The task with the settings that the card of the data asks for, such as few-nerd's scheme, where none are given."""
        task, data = (given.get(key) for key in ("task", "data")) if isinstance(given, Mapping) else (None, None)
        named = {"name": task} if isinstance(task, str) else task
        if not isinstance(named, Mapping) or not isinstance(data, Mapping):
            return given
        needed = card_of(str(data.get("source"))).task.get(str(named.get("name")), {})
        return {**given, "task": {**needed, **named}}

    def identity(self) -> str:
        """Content hash of all that decides the result: 16 hexadecimal digits, equal for equal runs."""
        # How the documents were come by is seen in them, and a run's name in the store holds their fingerprints too.
        aside = {
            "training": {"checkpoint_seconds", "keep_checkpoints", "trackers", "shard_base"},
            "data": {"on_error", "streaming"},
        }
        # Keys that are younger than stores which hold runs: at their default they change nothing, and no run's name.
        younger = {"base_precision": "float32", "evaluate_between": None}
        aside["training"] |= {name for name, default in younger.items() if getattr(self.training, name) == default}
        decided_by = self.model_dump(exclude=aside)
        # A null is named like the 1 that used to be the default, so that stores from before find their runs again.
        decided_by["training"]["accumulation"] = self.training.accumulation or 1
        return content_hash(decided_by)


def load_run(path: Path | str | None, words: Iterable[str] = ()) -> RunConfig:
    """A run's configuration from an optional YAML file and `key=value` words (which win)."""
    given = read_yaml(Path(path)) if path else {}
    for word in words:
        given = with_word(given, word)
    return parse(RunConfig, given)
