"""Base models: names to folders, loading, and architectures as facts."""

from isolora.models.architectures import replaced, without_initialisers
from isolora.models.configuration import load_architecture, positions
from isolora.models.fused import fuse
from isolora.models.last_layer import narrow_last_layer
from isolora.models.loading import (
    Base,
    bound_task,
    cast_base,
    count_weights,
    load_base,
    load_tokenizer,
    own_precision,
    skeleton,
    weights_of,
)
from isolora.models.names import fetched, fetched_root, fingerprint, locate, packaged_configuration, packaged_models

__all__ = [
    "Base",
    "bound_task",
    "cast_base",
    "count_weights",
    "fetched",
    "fetched_root",
    "fingerprint",
    "fuse",
    "load_architecture",
    "load_base",
    "load_tokenizer",
    "locate",
    "narrow_last_layer",
    "own_precision",
    "packaged_configuration",
    "packaged_models",
    "positions",
    "replaced",
    "skeleton",
    "weights_of",
    "without_initialisers",
]
