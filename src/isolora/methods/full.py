"""Full fine-tuning: every weight of the base, the yardstick that adapters are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from isolora.methods.selective import Selective

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    embeddings: bool = Field(True, description="train the embeddings too, and with them a head that shares their weights")


class Full(Selective):
    name = "full"
    Settings: ClassVar[type[Any]] = FullSettings

    def chosen(self, model: PreTrainedModel, names: Sequence[str], settings: Any) -> list[str]:
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        return [name for name in names if settings.embeddings or id(model.get_parameter(name)) not in embeddings]


method = Full()
