"""Layers that a person names as targets, and that the model never runs: what they learn would have no effect, in silence.

Encoder-decoders hold their shared embedding under a name of its own, `shared`, and look tokens up in the encoder's and the
decoder's. An entry of the targets is refused where none of the layers that it names has run in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from isolora.errors import ConfigError
from isolora.methods.targets import is_named

if TYPE_CHECKING:
    from isolora.config import MethodConfig

FIELDS = ("targets", "target_modules")
Leaves = dict[str, nn.Module]


def leaves(model: nn.Module) -> Leaves:
    """The layers that a method may adapt, by their full names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D | nn.Embedding)}


def named_targets(method: MethodConfig) -> tuple[str, list[str]]:
    """The field in which a person named layers, and its entries; a pattern is one entry, `all-linear` none."""
    for field in FIELDS:
        given = method.fields().get(field)
        if given and given != "all-linear":
            return field, [given] if isinstance(given, str) else list(given)
    return "", []


def refuse_idle_targets(method: MethodConfig, before: Leaves, model: nn.Module, forward: Callable[[], Any]) -> None:
    """Run `forward` where targets were named. Raises ConfigError for the first entry whose layers do not run.

    before: the layers of the model before the method was attached; those that it replaced since are the adapted ones.
    """
    field, entries = named_targets(method)
    if not entries:
        return
    now = dict(model.named_modules())
    adapted = {name: now[name] for name, module in before.items() if name in now and now[name] is not module}
    with watched(adapted) as ran:
        forward()
    for entry in entries:
        mine = [name for name in adapted if len(entries) == 1 or is_named(name, [entry])]
        if mine and not ran.intersection(mine):
            raise ConfigError(_idle(field, entry, mine, before))


def _idle(field: str, entry: str, mine: list[str], before: Leaves) -> str:
    idle = before[mine[0]]
    alike = [name for name, module in before.items() if name not in mine and module.weight is idle.weight]
    instead = f"; its weight is used in {', '.join(alike)}" if alike else ""
    return f"method.{field}: the model never runs {entry!r}, so nothing would be learnt there{instead}"


@contextmanager
def watched(modules: Leaves) -> Iterator[set[str]]:
    """The names of those modules that have been called so far."""
    ran: set[str] = set()

    def noted(name: str) -> Callable[..., None]:
        return lambda *_: ran.add(name)

    hooks = [module.register_forward_pre_hook(noted(name)) for name, module in modules.items()]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()
