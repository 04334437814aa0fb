"""LLaMA-Adapter: prompts for the attention of the upper layers, behind a gate that starts at zero (Zhang et al. 2303.16199)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from isolora.errors import ConfigError, unknown
from isolora.methods.peft.adapter import PeftMethod
from isolora.methods.targets import check_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LlamaAdapterSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    virtual_tokens: int = Field(10, ge=1, description="how many tokens each adapted layer attends to besides")
    layers: int | None = Field(None, ge=1, description="how many layers are adapted, from the top; all when absent")


class LlamaAdapter(PeftMethod):
    name = "llama-adapter"
    Settings = LlamaAdapterSettings
    peft_type = "ADAPTION_PROMPT"

    def config(self, model: PreTrainedModel, settings: LlamaAdapterSettings) -> Any:
        from peft import AdaptionPromptConfig
        from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

        if model.config.model_type not in TRANSFORMERS_MODEL_CONFIG:
            raise ConfigError(
                f"method: llama-adapter: {unknown('model type', model.config.model_type, TRANSFORMERS_MODEL_CONFIG)}"
            )
        present = model.config.num_hidden_layers
        if settings.layers is not None and settings.layers > present:
            raise ConfigError(f"method.layers: {settings.layers} is more than the model has ({present})")
        return AdaptionPromptConfig(adapter_len=settings.virtual_tokens, adapter_layers=settings.layers or present)

    def check_names(self, model: PreTrainedModel, config: Any) -> None:
        """Here PEFT takes one ending of a name, no pattern."""
        if config.target_modules:
            check_names([str(config.target_modules)], [name for name, _ in model.named_modules()], "method.target_modules")


method = LlamaAdapter()
