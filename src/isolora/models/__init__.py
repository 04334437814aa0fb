"""Base models: names to folders, loading, and architectures as facts."""

from isolora.models.configuration import load_architecture, positions
from isolora.models.loading import (
    Base,
    bound_task,
    cast_base,
    load,
    load_tokenizer,
    measured,
    own_precision,
    skeleton,
    weights_of,
)
from isolora.models.names import describe, fetched, fetched_root, fingerprint, is_folder, locate, packaged
from isolora.models.uninitialised import replaced, without_initialisers

__all__ = [
    "Base",
    "bound_task",
    "cast_base",
    "describe",
    "fetched",
    "fetched_root",
    "fingerprint",
    "is_folder",
    "load",
    "load_architecture",
    "load_tokenizer",
    "locate",
    "measured",
    "own_precision",
    "packaged",
    "positions",
    "replaced",
    "skeleton",
    "weights_of",
    "without_initialisers",
]
