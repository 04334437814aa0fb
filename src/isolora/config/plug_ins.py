"""What is open to others: a task and an adapter method, each picked by name, with fields of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from isolora import registry
from isolora.config.settings import parse
from isolora.json_types import JsonObject

PLUG_INS = ("task", "method")


class PlugInConfig(BaseModel):
    """`name` picks a plug-in; the other fields are its own and are checked by it. A name alone may stand for the whole."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: ClassVar[str]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: object) -> object:
        """Own fields validated and completed by the plug-in, so that defaults are part of a run's identity."""
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, Mapping):
            return given
        own = {key: value for key, value in given.items() if key != "name"}
        name = given.get("name", cls.model_fields["name"].default)
        settings = parse(registry.load_plug_in(cls.kind, str(name)).Settings, own, where=cls.kind)
        return {"name": name, **settings.model_dump()}

    def fields(self) -> JsonObject:
        """The plug-in's own fields."""
        return dict(self.model_extra or {})


class MethodConfig(PlugInConfig):
    kind: ClassVar[str] = "method"
    name: str = Field("lora", description="adapter method; see `isolora list methods`")


class TaskConfig(PlugInConfig):
    kind: ClassVar[str] = "task"
    name: str = Field("causal-lm", description="what is learnt; see `isolora list tasks`")
