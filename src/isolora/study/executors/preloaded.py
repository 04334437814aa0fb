"""What every worker of a study needs, imported once by the process that they are forked from."""

from __future__ import annotations

import gc
import logging
from importlib import import_module

from isolora.child_process import without_collection

MODULES = (
    "isolora.study.executors.workers",
    "transformers.modeling_layers",  # and with it nearly all that any architecture's module imports
    "transformers.models.auto.modeling_auto",
    "peft",  # writes the configurations of adapters
)

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells of a kernel that it does without
with without_collection():
    for name in MODULES:
        import_module(name)
gc.freeze()  # pages that no worker's garbage collection touches stay shared
