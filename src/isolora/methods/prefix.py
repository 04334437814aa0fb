"""Prefix tuning: keys and values in front of every layer's own are learnt (Li and Liang 2101.00190)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from isolora.errors import ConfigError
from isolora.methods.base import Span
from isolora.methods.peft.adapter import PEFT_RAISES, PeftAdapter
from isolora.methods.peft.prompt_learning import PromptAdapter, PromptMethod, PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PrefixSettings(PromptSettings):
    projection: bool = Field(False, description="make the prefix by a small network, which is left behind after training")
    projection_width: int | None = Field(None, ge=1, description="its hidden width; the model's when absent")
    start: Literal["random", "zero"] = Field("random", description="begin anywhere, or with keys and values of zero")


class PrefixAdapter(PromptAdapter):
    def __init__(self, model: PreTrainedModel, *given: Any) -> None:
        """Raises ConfigError where the model does not attend to the prefix: caches differ between architectures."""
        super().__init__(model, *given)
        weight = model.get_input_embeddings().weight
        if weight.is_meta or isinstance(weight, FakeTensor):  # a rehearsal has nothing to pay attention to
            return
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        inputs: dict[str, Tensor] = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
        try:
            ignored = torch.equal(self._first_answer(inputs, [(0, 0, -1)]), self._first_answer(inputs, ()))
        except PEFT_RAISES as failure:
            self.detach()
            raise self.refusal(failure) from None
        if ignored:
            self.detach()
            raise ConfigError(f"method: {type(model).__name__} pays no attention to a prefix")

    @torch.no_grad()
    def _first_answer(self, inputs: dict[str, Tensor], spans: Sequence[Span]) -> Tensor:
        with self.rows(spans):
            answer: Tensor = self.model(**inputs)[0]
        return answer

    def train(self, on: bool) -> None:
        """Raises ConfigError under gradient checkpointing, where transformers drops the prefix with the cache it lies in."""
        if on and self.base.is_activation_checkpointing:
            raise ConfigError("training.gradient_checkpointing: prefix tuning lies in the cache, which checkpointing drops")
        super().train(on)


class Prefix(PromptMethod):
    name = "prefix"
    Settings = PrefixSettings
    peft_type = "PREFIX_TUNING"
    adapter = PrefixAdapter

    def config(self, model: PreTrainedModel, settings: PrefixSettings) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=settings.virtual_tokens,
            prefix_projection=settings.projection,
            encoder_hidden_size=settings.projection_width,
            init_weights="zero" if settings.start == "zero" else None,
        )

    def _attached(self, model: PreTrainedModel, config: object, seed: int, heads: bool) -> PeftAdapter:
        if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
            raise ConfigError(f"method: prefix needs a model that takes past_key_values; {type(model).__name__} does not")
        return super()._attached(model, config, seed, heads)

    def sizes(self, model: PreTrainedModel) -> tuple[int, int, int]:
        """Layers, heads and width of the decoder's keys: those of one head are not always the model's width over its heads."""
        text = model.config.get_text_config(decoder=True)
        layers = getattr(text, "num_decoder_layers", None) or text.num_hidden_layers
        if model.config.is_encoder_decoder and layers % 2 == 0:
            layers += 1  # PEFT deals them out by twos, twice around: of an even number every other one would never be used
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        own = getattr(text, "head_dim", None) or getattr(text, "d_kv", None) or text.hidden_size // text.num_attention_heads
        return layers, heads, heads * own


method = Prefix()
