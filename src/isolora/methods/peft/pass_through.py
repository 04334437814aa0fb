"""Every other method of PEFT by its name there, with its own fields: `peft:VERA`, `peft:IA3`, `peft:OFT` and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from isolora.errors import ConfigError, DataError, in_brief, unknown
from isolora.json_types import JsonObject
from isolora.lean_imports import import_peft
from isolora.methods.adapter_files import saved_settings
from isolora.methods.lora import PLAIN_STARTS
from isolora.methods.peft.adapter import PeftAdapter, PeftMethod, peft_targets
from isolora.methods.peft.peft_configuration import config_class, default, plain_fields, quietly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN = {
    "ADALORA": "adalora",
    "ADAPTION_PROMPT": "llama-adapter",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
}
"""Types that are methods by themselves here."""
REFUSED = {
    "CARTRIDGE": "it starts from a text's keys and values",
    "CPT": "its loss over the context is PEFT's own",
    "MULTITASK_PROMPT_TUNING": "it needs a task's number for every row",
    "POLY": "it needs a task's number for every row",
    "SHADOW": "its second loss is in PEFT's own forward pass",
    "XLORA": "it mixes adapters that are trained already",
}
ONLY_LOADED = {
    "LILY": "it mixes its experts by their mean over the whole batch, so that every token sees those behind it and its neighbours"
}
"""Types whose scores depend on what else is in the batch: not trained any more; adapters from before load."""
UNMERGED = {"LILY"}
"""Types without a delta to the base's weights."""
NEED_WEIGHTS = {"ADAMSS", "FROD", "SHIRA", "TINYLORA", "VBLORA", "WAVEFT"}
NEEDED = {"TRAINABLE_TOKENS": "token_indices"}
"""Fields without a meaning at their default."""


class PeftFields(BaseModel):
    """One type's own fields, checked by PEFT's configuration class as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    peft_type: ClassVar[str]

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        start = getattr(self, "init_lora_weights", True)
        if not isinstance(start, bool) and start not in PLAIN_STARTS:
            raise ValueError(f"method.init_lora_weights: {start!r} changes the base (valid: yes, no, {', '.join(PLAIN_STARTS)})")
        try:
            self.config()
        except (TypeError, ValueError) as failure:
            raise ValueError(f"method.name: peft:{self.peft_type}: {in_brief(failure)}") from None
        return self

    def config(self) -> Any:
        with quietly():
            return config_class(self.peft_type)(**self.model_dump())


class Variant(PeftMethod):
    """One of PEFT's types."""

    def attach(self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False) -> PeftAdapter:
        if self.peft_type in ONLY_LOADED:
            raise ConfigError(f"method.name: peft:{self.peft_type} cannot be trained here: {ONLY_LOADED[self.peft_type]}")
        return super().attach(model, members, seeds, heads)

    def config(self, model: PreTrainedModel, settings: PeftFields) -> Any:
        config = settings.config()
        if getattr(config, "target_modules", None) == "all-linear":
            config.target_modules = peft_targets(model, "all-linear")
        return config

    def saved(self, folder: Path) -> Any:
        """Raises DataError where the saved fields are none that a run may have."""
        config = super().saved(folder)
        try:
            self.Settings(**{name: value for name, value in saved_settings(folder).items() if name in self.Settings.model_fields})
        except ValidationError as failure:
            raise DataError(f"{folder}: {failure.errors()[0]['msg']}") from None
        return config


class Unnamed(BaseModel):
    """`peft` alone says nothing."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: object) -> object:
        raise ValueError(f"method.name: peft wants the name of a type, such as peft:VERA (valid: {', '.join(types())})")


class Peft(Variant):
    name = "peft"
    Settings = Unnamed

    def variant(self, name: str) -> Variant:
        """The method `peft:NAME`. Raises ConfigError, naming the valid types."""
        peft_type = name.upper().replace("-", "_")
        if peft_type in OWN:
            raise ConfigError(f"method.name: peft:{name} is a method by itself here: {OWN[peft_type]}")
        if peft_type in REFUSED:
            raise ConfigError(f"method.name: peft:{name} cannot be trained here: {REFUSED[peft_type]}")
        if peft_type not in types() and peft_type not in ONLY_LOADED:
            raise ConfigError(unknown("PEFT type", peft_type, types()))
        described = {
            "name": f"peft:{peft_type}",
            "peft_type": peft_type,
            "Settings": peft_settings(peft_type),
            "mergeable": peft_type not in UNMERGED,
            "needs_weights": peft_type in NEED_WEIGHTS,
            "position_aware": peft_type not in ONLY_LOADED,
        }
        made: Variant = type(f"Peft{peft_type}", (Variant,), described)()
        return made


@cache
def types() -> list[str]:
    import_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return sorted({kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - OWN.keys() - REFUSED.keys() - ONLY_LOADED.keys())


def peft_settings(peft_type: str) -> type[PeftFields]:
    """The type's fields as settings, described as PEFT describes them."""
    made: JsonObject = {}
    for name, (hint, field) in plain_fields(peft_type).items():
        description = " ".join("".join(field.metadata.get("help", "")).split())  # here and there PEFT's is a tuple
        made[name] = (hint, Field(... if name == NEEDED.get(peft_type) else default(field), description=description))
    kind = create_model(f"{peft_type}Settings", __base__=PeftFields, **made)
    kind.peft_type = peft_type
    return kind


method = Peft()
