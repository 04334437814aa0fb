"""An adapter's life after training: its record and card, loading, writing and talking, neighbours on one base."""

from isolora.adapters.loading import Adapter, bare_base, load, onto
from isolora.adapters.pool import AdapterPool
from isolora.adapters.record import CERTIFICATE, RECORD, find, read_record, saved_task

__all__ = [
    "CERTIFICATE",
    "RECORD",
    "Adapter",
    "AdapterPool",
    "bare_base",
    "find",
    "load",
    "onto",
    "read_record",
    "saved_task",
]
