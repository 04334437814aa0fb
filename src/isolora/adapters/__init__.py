"""An adapter's life after training: its record and card, loading, writing and talking, neighbours on one base."""

from isolora.adapters.loading import Adapter, bare_base, load, onto
from isolora.adapters.pool import Residents
from isolora.adapters.record import CERTIFICATE, RECORD, bound_task, find, read_record

__all__ = [
    "CERTIFICATE",
    "RECORD",
    "Adapter",
    "Residents",
    "bare_base",
    "bound_task",
    "find",
    "load",
    "onto",
    "read_record",
]
