"""What every group of settings is: frozen fields with descriptions, mistakes told in one line, a hash of the content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from isolora.errors import ConfigError, unknown
from isolora.json_types import JsonMapping


class Settings(BaseModel):
    """A frozen group of fields that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, given: object, info: ValidationInfo) -> object:
        """`steps: yes` is a slip, not one step."""
        if isinstance(given, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"expected no yes or no (got {given})")
        return given


Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What random generators take: a whole number that fits in 63 bits."""
Parsed = TypeVar("Parsed", bound=BaseModel)


def parse(model: type[Parsed], given: JsonMapping, where: str = "") -> Parsed:
    """Validate; the first error becomes a one-line ConfigError that names the field and the valid choices."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as failure:
        raise ConfigError(_one_line(model, failure.errors(include_url=False), where)) from None


def _one_line(model: type[BaseModel], errors: Sequence[Any], where: str) -> str:
    """The first error, but an unknown key before anything that its misspelling has left missing."""
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    branches = re.compile(r"str|constrained-int|(list|literal)\[.*")  # of a union
    path = [part for part in map(str, error["loc"]) if not branches.fullmatch(part)]
    known = list(_models_along(model, path))
    field = ".".join([where, *path] if where else path)
    if error["type"] == "extra_forbidden":
        return f"{field}: {unknown('key', path[-1], known[-1].model_fields)}"
    if error["type"] == "model_type":
        (first, *_), shown = [*_models_along(model, [*path, ""])][-1].model_fields, _short(error["input"])
        return f"{field}: has keys of its own, such as {field}.{first} (got {shown})"
    message = str(error["msg"]).removeprefix("Value error, ")
    if field and message.startswith(f"{field}."):  # a method's own fields, already named in full
        return message
    shown = "" if error["type"] in {"value_error", "missing"} else f" (got {_short(error['input'])})"
    return f"{field}: {message}{shown}" if field else f"{message}{shown}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _models_along(model: type[BaseModel], path: list[str]) -> Iterator[type[BaseModel]]:
    """The settings that each part of a path belongs to, as far as they are settings."""
    for part in path:
        yield model
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        inner = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
        if inner is None:
            return
        model = inner


def content_hash(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
