"""Data: where documents come from, how they are split and drawn, and where the examples made of them are kept."""

from __future__ import annotations

from isolora.caches import cache_folder
from isolora.data.documents import Documents, Splits, load_documents, usable_documents
from isolora.data.examples import cached, make_examples
from isolora.data.origins import LeftOut, left_out_summary
from isolora.data_cards import packaged_data

__all__ = [
    "Documents",
    "LeftOut",
    "Splits",
    "cache_folder",
    "cached",
    "left_out_summary",
    "load_documents",
    "make_examples",
    "packaged_data",
    "usable_documents",
]
