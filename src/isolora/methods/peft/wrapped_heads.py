"""Heads trained with an adapter: PEFT wraps each of the model's own and keeps a trained copy beside it (`modules_to_save`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from isolora.methods.trained_heads import initialise

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.utils import ModulesToSaveWrapper
    from torch import nn
    from transformers import PreTrainedModel


def head_wrappers(model: PreTrainedModel) -> Iterator[ModulesToSaveWrapper]:
    """What stands in the place of each head."""
    from peft.utils import ModulesToSaveWrapper

    return (module for module in model.modules() if isinstance(module, ModulesToSaveWrapper))


def trained_copies(model: PreTrainedModel) -> list[nn.Module]:
    """The heads that are trained."""
    return [copy for wrapper in head_wrappers(model) for copy in wrapper.modules_to_save.values()]


def start_heads(model: PreTrainedModel, seed: int) -> None:
    """New weights for heads, where PEFT copies what it finds; a rehearsal's heads have none."""
    for head in trained_copies(model):
        if not any(parameter.is_meta for parameter in head.parameters()):
            initialise(model, head, seed)


def settle_heads(model: PreTrainedModel, config: PeftConfig) -> None:
    """Leave the trained heads as the model's own: PEFT's merging stumbles over heads of several layers."""
    for name in getattr(config, "modules_to_save", None) or ():
        wrapper = model.get_submodule(name)
        setattr(model, name, next(iter(wrapper.modules_to_save.values())))
