"""An adapter's life after training: its record and card, loading, writing and talking, neighbours on one base."""

from isolora.adapters.pool import AdapterPool
from isolora.adapters.record import CERTIFICATE, RECORD, find_adapter, read_record, saved_task
from isolora.adapters.saved_adapter import Adapter, bare_base, load, onto

__all__ = [
    "CERTIFICATE",
    "RECORD",
    "Adapter",
    "AdapterPool",
    "bare_base",
    "find_adapter",
    "load",
    "onto",
    "read_record",
    "saved_task",
]
