"""Linear layers whose names PEFT reads as those of fused experts, and how a file names them so that it does not.

transformers 5 keeps the experts of a mixture in one tensor, and PEFT turns the targets `gate_proj`, `up_proj` and `down_proj` of
older files into it. A dense layer, a shared expert or a gate of attention may bear the same names; PEFT would then adapt the
experts in their place and drop their tensors with a warning. A layer that is named by its parameter is read as it is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARAMETER = ".weight"


def taken_for_experts(model: PreTrainedModel, layers: Iterable[str]) -> list[str]:
    """Those of the layers, by full names, that PEFT would look for among the experts. PEFT has been imported."""
    layers = list(layers)
    changed = {ending for ending in {_ending(layer) for layer in layers} if _is_changed(model, ending)}
    return [layer for layer in layers if _ending(layer) in changed]


def as_parameters(layers: Iterable[str]) -> list[str]:
    """Layers as PEFT's `target_parameters`."""
    return [layer + PARAMETER for layer in layers]


def from_parameters(parameters: Iterable[str]) -> list[str] | None:
    """The layers of PEFT's `target_parameters`; None where one of them is no layer's weight, such as that of fused experts."""
    named = list(parameters)
    return [name.removesuffix(PARAMETER) for name in named] if all(name.endswith(PARAMETER) for name in named) else None


def _ending(layer: str) -> str:
    return layer.rsplit(".", 1)[-1]


def _is_changed(model: PreTrainedModel, ending: str) -> bool:
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=[ending])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # it is fused with others, which are not targets here
        return True
    return set(config.target_modules or ()) != {ending}
