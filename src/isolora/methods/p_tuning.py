"""P-tuning: virtual tokens come out of a small network, which is left behind after training (Liu et al. 2103.10385)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from isolora.methods.peft.prompt_learning import PromptMethod, PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PTuningSettings(PromptSettings):
    encoder: Literal["mlp", "lstm"] = Field("mlp", description="network that makes the virtual tokens")
    encoder_width: int | None = Field(None, ge=1, description="its hidden width; the model's when absent")
    encoder_layers: int = Field(2, ge=1, description="layers of the lstm; the mlp always has its own two")
    encoder_dropout: float = Field(0.0, ge=0, lt=1, description="dropout between layers of the lstm")


class PTuning(PromptMethod):
    name = "p-tuning"
    Settings = PTuningSettings
    peft_type = "P_TUNING"

    def config(self, model: PreTrainedModel, settings: PTuningSettings) -> Any:
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=settings.virtual_tokens,
            encoder_reparameterization_type=settings.encoder.upper(),
            encoder_hidden_size=settings.encoder_width,
            encoder_num_layers=settings.encoder_layers,
            encoder_dropout=settings.encoder_dropout,
            num_transformer_submodules=1,  # PEFT would learn as many again for a decoder and never use them
        )


method = PTuning()
