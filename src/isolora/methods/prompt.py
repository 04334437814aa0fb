"""Prompt tuning: virtual tokens at the model's input are learnt (Lester et al. 2104.08691)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from isolora.methods.peft.prompt_learning import PromptMethod, PromptSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptTuningSettings(PromptSettings):
    start: Literal["vocabulary", "random"] = Field("vocabulary", description="begin as embeddings of drawn words, or anywhere")


class PromptTuning(PromptMethod):
    name = "prompt"
    Settings = PromptTuningSettings
    peft_type = "PROMPT_TUNING"

    def config(self, model: PreTrainedModel, settings: PromptTuningSettings) -> Any:
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            num_virtual_tokens=settings.virtual_tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if settings.start == "vocabulary" else "RANDOM",
            num_transformer_submodules=1,  # PEFT would learn as many again for a decoder and never use them
        )


method = PromptTuning()
