"""Weights of the body that the base's checkpoint lacks: random at loading, so an adapter keeps them in its own file.

A BERT saved as a masked language model has no pooler, which a classifier's head stands on. Whoever loads the adapter elsewhere
would draw another one. Both PEFT and isolora read tensors under the base's own names beside those of the adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from isolora.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTRIBUTE = "isolora_missing_weights"
"""Where `models.load_base` leaves the names on the model."""


def remember_missing(model: nn.Module, names: Iterable[str]) -> None:
    """Remember the parameters that had to be made up."""
    setattr(model, ATTRIBUTE, {name: model.get_parameter(name) for name in names})


def missing(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Full name in the plain model -> parameter that the checkpoint lacks."""
    found: dict[str, nn.Parameter] = getattr(model, ATTRIBUTE, {})
    return found


def beside(model: PreTrainedModel, wrapper: nn.Module, trained: Iterable[Tensor]) -> dict[str, nn.Parameter]:
    """The same under the names that they have in `wrapper`, which may have moved them, without those that are trained."""
    left = {id(parameter) for parameter in missing(model).values()} - {id(tensor) for tensor in trained}
    return {name: parameter for name, parameter in wrapper.named_parameters() if id(parameter) in left}


def fill_missing_weights(own: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> set[str]:
    """Copy what a file holds of them; returns those names. Earlier versions wrote none. Raises DataError for other shapes."""
    found = own.keys() & tensors.keys()
    for name in found:
        if own[name].shape != tensors[name].shape:
            raise DataError(f"adapter file: {name} is {tuple(tensors[name].shape)}, the base needs {tuple(own[name].shape)}")
        own[name].data.copy_(tensors[name])
    return found
