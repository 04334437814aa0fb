"""What every worker of a study needs, imported once by the process that they are forked from."""

from __future__ import annotations

import gc
from importlib import import_module

from isolora.deferred_imports import defer_imports
from isolora.garbage import without_collection
from isolora.lean_imports import import_modeling, import_peft

MODULES = (
    "isolora.study.executors.workers",
    "transformers.models.auto.modeling_auto",
    "torch.distributed.tensor",  # asked for, and sympy by it, wherever a tensor has no values: 0.5 s in each worker
    "pandas",  # pyarrow imports it at its first conversion: 0.2 s in each worker
)

defer_imports()
with without_collection():
    import_modeling()
    for name in MODULES:
        import_module(name)
    import_peft()  # writes the configurations of adapters
gc.freeze()  # pages that no worker's garbage collection touches stay shared
