"""isolora: compute-optimal LoRA adapters. The public surface; names load when they are first used, so that the import is instant."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolora.adapters import Adapter, export, load
    from isolora.config import RunConfig, StudyConfig, load_run, load_study
    from isolora.cost import cost
    from isolora.errors import UserError
    from isolora.evaluation import evaluate
    from isolora.fit import Fit, fit
    from isolora.plan import Recommendation, plan
    from isolora.store import Store
    from isolora.study import demo, run_study, verify
    from isolora.table import Table, read
    from isolora.training import train

__version__ = version("isolora")

_HOMES = {
    "Adapter": "adapters",
    "Fit": "fit",
    "Recommendation": "plan",
    "RunConfig": "config",
    "Store": "store",
    "StudyConfig": "config",
    "Table": "table",
    "UserError": "errors",
    "cost": "cost",
    "demo": "study",
    "evaluate": "evaluation",
    "export": "adapters",
    "fit": "fit",
    "load": "adapters",
    "load_run": "config",
    "load_study": "config",
    "plan": "plan",
    "read": "table",
    "run_study": "study",
    "train": "training",
    "verify": "study",
}

__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'isolora' has no attribute {name!r}")
    return getattr(import_module(f"isolora.{_HOMES[name]}"), name)
