"""A task's new head has a learning rate of its own, whatever method stands beside it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from isolora import registry
from isolora.config import TrainingConfig
from isolora.methods.base import ParameterGroup
from isolora.runs.optimizer import FlatGroup

METHODS = ("lora", "adalora", "bottleneck", "selective", "full", "prefix", "peft:LOHA")


@pytest.mark.parametrize("name", METHODS)
def test_new_heads_stand_apart(name: str) -> None:
    method = registry.load_plug_in("method", name)
    attached = method.attach(tiny.bert_classifier(), [method.settings({})], [0], heads=True)
    apart = [parameter for group in attached.groups(0) if group.heads for parameter in group.parameters]
    assert sorted(tuple(parameter.shape) for parameter in apart) == [(2,), (2, 16)]
    others = [parameter for group in attached.groups(0) if not group.heads for parameter in group.parameters]
    assert others
    assert not {id(parameter) for parameter in others} & {id(parameter) for parameter in apart}


def test_without_a_new_head_there_is_one_group() -> None:
    method = registry.load_plug_in("method", "lora")
    attached = method.attach(tiny.llama(), [method.settings({})], [0])
    assert [group.heads for group in attached.groups(0)] == [False]


@pytest.mark.parametrize(("heads", "ratio"), [(True, 40.0), (False, 1.0)])
def test_the_ratio_is_the_heads_alone(heads: bool, ratio: float) -> None:
    training = TrainingConfig(steps=1, head_learning_rate_ratio=40)
    group: Any = ParameterGroup([torch.nn.Parameter(torch.ones(3))], heads=heads)
    assert FlatGroup(group, training).learning_rate_ratio == ratio
