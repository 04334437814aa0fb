"""A saved adapter on its base model, from the adapter's folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isolora import models, registry
from isolora.adapters.classify import classify
from isolora.adapters.generation import Sampling, Writer
from isolora.adapters.record import find_adapter, read_record, saved_task
from isolora.config import MethodConfig, RunConfig
from isolora.json_types import JsonMapping, JsonObject
from isolora.methods.base import Attached
from isolora.methods.new_tokens import NewTokens
from isolora.models import Base
from isolora.runs.device import device as accelerator
from isolora.tasks.base import Task


@dataclass(frozen=True)
class Adapter:
    """A saved adapter on its base. `record` is what its training wrote down: config, run, loss, tokens."""

    folder: Path
    config: RunConfig
    record: JsonObject
    base: Base
    attached: Attached
    task: Task

    def generate(self, prompt: str, max_new_tokens: int = 80, temperature: float = 0.0, seed: int = 0) -> str:
        """Continue `prompt`, or answer it where the model has an encoder that reads it; greedy at temperature 0, else sampled
        with the seed. Returns the new text only."""
        return self.writer.texts([(self.task, prompt)], Sampling(max_new_tokens, temperature, seed))[0]

    def classify(self, texts: str | Sequence[str | JsonMapping]) -> list[JsonObject]:
        """What a classifier says of each text, with probabilities; see `isolora.adapters.classify`."""
        return classify(self, [texts] if isinstance(texts, str) else texts)

    @property
    def writer(self) -> Writer:
        """What makes text; virtual tokens of the method take positions of the model's."""
        method = registry.load_plug_in("method", self.config.method.name)
        taken: int = method.virtual_tokens(method.settings(self.config.method.fields()))
        return Writer(self.attached.model, self.base, self.base.max_length - taken)


def bare_base(place: Path, full_precision: bool = False, device: str | None = None) -> Base:
    """The adapter's base model as it was before, on the accelerator that is there, or the device named."""
    config, _ = read_record(place)
    if full_precision:  # only its own method asks for quantised weights
        training = config.training.model_copy(update={"base_precision": "float32"})
        config = config.model_copy(update={"method": MethodConfig(name="lora"), "training": training})
    base = models.load_base(config, saved_task(place))
    base.model.to(device or accelerator())
    return base


def load(folder: Path | str, full_precision: bool = False, device: str | None = None) -> Adapter:
    """Base model and adapter from the adapter's folder alone, ready for inference on the accelerator that is there.

    full_precision: the base as it is published, also where the adapter was trained on quantised or rounded weights; merging
    needs it.
    device: another one, such as "cpu".
    """
    place = find_adapter(Path(folder))
    return onto(bare_base(place, full_precision, device), place)


def onto(base: Base, place: Path) -> Adapter:
    """The adapter on a base model that is already there."""
    config, record = read_record(place)
    task = saved_task(place)
    attached = registry.load_plug_in("method", config.method.name).load(base.model, place, task.new_head)
    if config.new_tokens:
        count = len(config.new_tokens)
        attached = NewTokens(attached, len(base.tokenizer) - count, count, [0])
        attached.fill(0, place)
    attached.train(False)
    return Adapter(place, config, record, base, attached, task)
