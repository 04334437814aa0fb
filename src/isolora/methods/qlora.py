"""LoRA on a quantised base (QLoRA, Dettmers et al. 2305.14314; INT8 as in 2208.07339), the quantisation done by bitsandbytes.

The adapter is LoRA's in every way, kept in PEFT's format, and fits the full-precision base too; there it is merged, since
rounding the sum to 4 bits again would lose most of a small update.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import nn
from transformers.pytorch_utils import Conv1D

from isolora.errors import ConfigError, MissingExtra
from isolora.json_types import JsonObject
from isolora.methods.lora import Lora, LoraAdapters, LoraSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OUTSIDE_LAYERS = r"(?!.*\.\d+\.).*"
"""Names without a number in between: embeddings, the output head, a task's head."""
BLOCK, OUTER_BLOCK = 64, 256
"""Weights that share a scale in NF4, and scales that share one in double quantisation (bitsandbytes' own sizes)."""
TABLE_BYTES, OUTER_TABLE_BYTES = 16 * 4, 256 * 4 + 4
"""The 16 values of NF4; the 256 values of double quantisation's scales, and their mean."""


class QloraSettings(LoraSettings):
    quantisation: Literal["nf4", "nf4-double", "int8"] = Field("nf4-double", description="how the frozen layers are stored")
    compute: Literal["float32", "bfloat16"] = Field("float32", description="precision of the products with 4-bit weights")


class QloraAdapters(LoraAdapters):
    def merge(self, member: int) -> Any:
        if any(is_quantised(layer.base) for layer in self.layers.values()):
            raise ConfigError("method: qlora merges into the full-precision base, not into quantised weights; load it with that")
        return super().merge(member)


class Qlora(Lora):
    name = "qlora"
    Settings = QloraSettings

    def model_options(self, settings: QloraSettings) -> JsonObject:
        from transformers import BitsAndBytesConfig

        if find_spec("bitsandbytes") is None:
            raise MissingExtra("bitsandbytes", "bnb")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a cast at every product
        how: JsonObject = {"load_in_8bit": True}
        if settings.quantisation != "int8":
            how = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": settings.quantisation == "nf4-double",
                "bnb_4bit_compute_dtype": getattr(torch, settings.compute),
            }
        return {"quantization_config": BitsAndBytesConfig(**how, llm_int8_skip_modules=[OUTSIDE_LAYERS])}

    def attach(
        self, model: PreTrainedModel, members: Sequence[LoraSettings], seeds: Sequence[int], heads: bool = False
    ) -> QloraAdapters:
        self.after_loading(model)
        return QloraAdapters(model, members, seeds, heads)

    def after_loading(self, model: nn.Module) -> None:
        """Keep 4-bit layers as they are: on CPUs with bfloat16, bitsandbytes 0.50 repacks them when first evaluated, for good;
        from then on they compute in bfloat16 and carry no gradient, and widths that 64 does not divide fail."""
        layers: list[Any] = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
        for layer in layers:
            layer.support_avx512bf16_for_cpu = False

    def stored_bytes(self, settings: QloraSettings, name: str, layer: Any) -> float | None:
        """Weights, scales and tables as bitsandbytes keeps them, and the bias, which stays as it is."""
        if not isinstance(layer, nn.Linear | Conv1D) or re.fullmatch(OUTSIDE_LAYERS, name):
            return None
        weights = layer.weight.numel()
        outputs = layer.weight.shape[1] if isinstance(layer, Conv1D) else layer.weight.shape[0]
        scales = math.ceil(weights / BLOCK)
        stored = {
            "int8": weights + 4 * outputs,
            "nf4": math.ceil(weights / 2) + 4 * scales + TABLE_BYTES,
            "nf4-double": math.ceil(weights / 2) + scales + 4 * math.ceil(scales / OUTER_BLOCK) + TABLE_BYTES + OUTER_TABLE_BYTES,
        }
        return stored[settings.quantisation] + (0 if layer.bias is None else layer.bias.nbytes)


def is_quantised(layer: Any) -> bool:
    return hasattr(layer.weight, "quant_state") or hasattr(layer.weight, "SCB")


method = Qlora()
