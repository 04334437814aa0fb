"""Methods that learn virtual tokens in front of the text, and leave every layer of the model alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from isolora.errors import ConfigError
from isolora.methods.peft.adapter import TASK_TYPES, PeftAdapter, PeftMethod, task_type
from isolora.methods.peft.wrapped_heads import head_wrappers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    virtual_tokens: int = Field(20, ge=1, description="how many tokens are learnt")


class PromptAdapter(PeftAdapter):
    """`model` is PEFT's wrapper, whose forward pass puts the virtual tokens in front."""

    def _wrapped(self) -> Any:
        from peft import get_peft_model

        self.model = get_peft_model(self.base, self.config)
        if self.config.task_type == "CAUSAL_LM" and self.config.peft_type != "PREFIX_TUNING":
            self.model.generate = self._generate
        return self.model

    def _generate(self, input_ids: Tensor, attention_mask: Tensor, **options: object) -> Tensor:
        """Rows with padding in front: PEFT would put the virtual tokens in front of that, and all tokens at other positions."""
        virtual, own = self.model.get_prompt(len(input_ids)), self.model.word_embeddings(input_ids)
        padding = (attention_mask.cumsum(1) == 0).sum(1).tolist()
        parts = zip(padding, virtual, own, attention_mask, strict=True)
        rows = [(torch.cat([x[:p], v, x[p:]]), torch.cat([m[:p], m.new_ones(len(v)), m[p:]])) for p, v, x, m in parts]
        embeddings, mask = (torch.stack(part) for part in zip(*rows, strict=True))
        made = self.base.generate(inputs_embeds=embeddings, attention_mask=mask, **options)
        return torch.cat([input_ids, made], 1)

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """PEFT's own way keeps trained heads on, and fails for models that do not generate."""
        heads, own = list(head_wrappers(self.base)), self.model.generate
        for head in heads:
            head.enable_adapters(False)
        self.model.forward, self.model.generate = self.base.forward, getattr(self.base, "generate", None)
        try:
            yield
        finally:
            del self.model.forward  # the class's comes back
            self.model.generate = own
            for head in heads:
                head.enable_adapters(True)


class PromptMethod(PeftMethod):
    """mergeable stays False: there is no weight to merge into."""

    adapter: ClassVar[type[PeftAdapter]] = PromptAdapter
    position_aware = False  # PEFT's wrappers drop position_ids, as they would count from the first virtual token

    def _attached(self, model: PreTrainedModel, config: Any, seed: int, heads: bool) -> PeftAdapter:
        kind = task_type(model)
        if kind is None:
            known = ", ".join(sorted(TASK_TYPES))
            raise ConfigError(f"method: {self.name} is not defined for {type(model).__name__} (valid are classes in {known})")
        if model.config.is_encoder_decoder and kind != "SEQ_2_SEQ_LM":
            raise ConfigError(f"method: {self.name} has no decoder's input for its tokens in {type(model).__name__}")
        config.num_layers, config.num_attention_heads, config.token_dim = self.sizes(model)
        return super()._attached(model, config, seed, heads)

    def sizes(self, model: PreTrainedModel) -> tuple[int, int, int]:
        """Layers, heads, and the width of a virtual token, for which PEFT knows some architectures' names only."""
        text = model.config.get_text_config()
        return text.num_hidden_layers, getattr(text, "num_attention_heads", 1), model.get_input_embeddings().weight.shape[1]

    def virtual_tokens(self, settings: Any) -> int:
        """Positions that every sequence loses to the method."""
        return int(settings.virtual_tokens)

    def saved(self, folder: Path) -> Any:
        """Only what the virtual tokens have become is saved, not what they were made by."""
        config = super().saved(folder)
        config.inference_mode = True
        return config
