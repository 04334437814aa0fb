"""Selective training: some of the base's own weights, such as all biases (BitFit, Ben Zaken et al. 2106.10199).

Only what is trained is saved, under the base's own names, in isolora's own format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.methods.base import Span
from isolora.methods.low_rank import Rows
from isolora.methods.model_layers import layer_stacks
from isolora.methods.own_format import OwnFormat, OwnFormatAttached
from isolora.methods.recomputation import recompute_layers
from isolora.methods.targets import matching
from isolora.methods.trained_heads import Heads, head_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RANGE = re.compile(r"(\d+)(?:-(\d+))?")
LAST = re.compile(r"last (\d+)")


class SelectiveSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)
    train: str = Field("biases", description="biases, norms, layers, or a pattern over full names of weights")
    layers: str | None = Field(
        None, description="only in these layers: 10-11, 3, or last 2; counted from 0 in every stack of layers"
    )


class ChosenWeights(OwnFormatAttached):
    """One member: the base's own tensors, trained in place. `originals` [as `chosen`] are what they were before."""

    members = 1

    def __init__(self, model: PreTrainedModel, name: str, settings: Any, seed: int, chosen: Sequence[str], heads: bool) -> None:
        self.model, self.name, self.settings = model, name, [settings]
        self._was_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        self.chosen = {name: model.get_parameter(name).requires_grad_(True) for name in chosen}
        self.originals = {name: _copy(parameter) for name, parameter in self.chosen.items()}
        self._rows = Rows()
        self.heads = Heads(model, self._rows, [seed] if heads else ())

    def named(self, member: int) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.chosen.items()
        yield from self.heads.named(member)

    def train(self, on: bool) -> None:
        """Recomputation alone; the base's own dropout stays off, as with every other method."""
        recompute_layers(self.model, on)

    @contextmanager
    def rows(self, spans: Sequence[Span]) -> Iterator[None]:
        with self._rows.assigned(spans):
            if not spans:
                self._exchange()
            try:
                yield
            finally:
                if not spans:
                    self._exchange()

    def _exchange(self) -> None:
        """Swap the trained tensors and the originals, copying neither."""
        for name, parameter in self.chosen.items():
            parameter.data, self.originals[name] = self.originals[name], parameter.data

    def merge(self, member: int) -> Any:
        """The trained weights are the model already; each gets a storage of its own."""
        self.originals = {name: _copy(parameter) for name, parameter in self.chosen.items()}
        self.heads.merge(member)
        self.detach()
        return self.model

    def detach(self) -> None:
        for name, parameter in self.chosen.items():
            parameter.data, parameter.grad = self.originals[name], None
        self.heads.detach()
        self.model.requires_grad_(False)
        for parameter in self._was_trained:
            parameter.requires_grad_(True)


class Selective(OwnFormat):
    name = "selective"
    Settings: ClassVar[type[Any]] = SelectiveSettings
    mergeable = True

    def attach(self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False) -> ChosenWeights:
        assert len(members) == 1, "members would share the base's own weights"
        new = tuple(f"{name}." for name in head_names(model)) if heads else ()
        names = [name for name, _ in model.named_parameters() if not name.startswith(new)]
        return ChosenWeights(model, self.name, members[0], seeds[0], self.chosen(model, names, members[0]), heads)

    def chosen(self, model: PreTrainedModel, names: Sequence[str], settings: SelectiveSettings) -> list[str]:
        """Which of the base's weights are trained. Raises ConfigError, naming what exists, when there are none."""
        if settings.layers is None and settings.train != "layers":
            within = list(names)
        else:
            layers = tuple(f"{name}." for name in named_layers(model, settings.layers))
            within = [name for name in names if name.startswith(layers)]
        found = of_kind(model, within, settings.train)
        if not found:
            exist = ", ".join(sorted({".".join(name.split(".")[-2:]) for name in within}))
            raise ConfigError(
                f"method.train: nothing matches {settings.train!r} (biases, norms, layers or a pattern over: {exist})"
            )
        return found


def of_kind(model: PreTrainedModel, names: list[str], train: str) -> list[str]:
    """Those weights that are meant. Raises ConfigError where a pattern is none, or takes too long."""
    if train == "biases":
        return [name for name in names if name.endswith("bias")]
    if train == "norms":
        return [name for name in names if "norm" in type(model.get_submodule(name.rpartition(".")[0])).__name__.lower()]
    return names if train == "layers" else matching(train, names, "method.train")


def named_layers(model: PreTrainedModel, layers: str | None) -> list[str]:
    """Full names of the chosen layers of every stack. Raises ConfigError where a stack has no such layer."""
    return [name for stack in layer_stacks(model) for name in (stack if layers is None else _of_stack(stack, layers))]


def _of_stack(stack: list[str], layers: str) -> list[str]:
    within, last = RANGE.fullmatch(layers), LAST.fullmatch(layers)
    if last:
        first, stop = len(stack) - int(last[1]), len(stack)
    elif within:
        first, stop = int(within[1]), int(within[2] or within[1]) + 1
    else:
        first = stop = 0
    if not 0 <= first < stop <= len(stack):
        place = stack[0].rpartition(".")[0]
        raise ConfigError(
            f"method.layers: {layers!r} names no layers of {place} (valid: A-B within 0-{len(stack) - 1}, or last N)"
        )
    return stack[first:stop]


def _copy(parameter: nn.Parameter) -> Tensor:
    """A copy of the values; of a tensor without values it is the tensor itself, whose storage the ledger knows."""
    return parameter.detach() if parameter.is_meta else parameter.detach().clone()


method = Selective()
