"""Data: where documents come from, how they are split and drawn, and how they become tokens."""

from __future__ import annotations

from isolora.data.documents import Documents, Splits, load
from isolora.data.folders import packaged
from isolora.data.tokens import Tokens, tokenise

__all__ = ["Documents", "Splits", "Tokens", "load", "packaged", "tokenise"]
