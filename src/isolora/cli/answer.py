"""How a verb answers: words for a person, or with --json one object and nothing else on standard output."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from isolora.json_types import JsonObject

Json = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else on standard output")]


def answer(result: JsonObject, words: str, as_json: bool) -> None:
    """Print one of the two forms. A number that is not finite becomes null in JSON, which has no word for it."""
    print(json.dumps(_finite(result), ensure_ascii=False) if as_json else words)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(result: JsonObject) -> str:
    """Aligned `key  value` lines for a flat mapping."""
    width = max(map(len, result))
    return "\n".join(f"{key.replace('_', ' '):<{width}}  {_shown(value)}" for key, value in result.items())


def _shown(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
