"""Merging into weights that others share: a tied output head would receive an update that was learnt for the embeddings alone."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def untie(model: PreTrainedModel, changed: Iterable[nn.Module]) -> None:
    """Give every module a weight of its own, where one that a merge is going to change shares its weight with another.

    transformers knows one switch for all tied weights of a model, so all or none are untied.
    """
    holders = _holders(model)
    touched = {id(weight) for module in changed for weight in module.parameters(recurse=False)}
    if not any(len(holders[key]) > 1 for key in touched):
        return
    for places in holders.values():
        for module, name in places[1:]:
            weight = module.get_parameter(name)
            setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))
    if not _computes_by_the_switch(model):
        for config in {id(config): config for config in (model.config, model.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}  # what `save_pretrained` would leave out


def _computes_by_the_switch(model: PreTrainedModel) -> bool:
    """Whether the model's own forward pass reads the switch: UMT5 and Switch Transformers scale what reaches a tied head.

    There it stays on, and transformers leaves apart what a checkpoint holds apart.
    """
    return "tie_word_embeddings" in inspect.unwrap(type(model).forward).__code__.co_names


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Identity of a weight -> the modules that hold it, and its name there."""
    found: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            found[id(weight)].append((module, name))
    return found
