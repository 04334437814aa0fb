"""isolora: compute-optimal LoRA adapters.

The public surface; names load when they are first used, so that the import is instant.
"""

from __future__ import annotations

import warnings
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from isolora import display

if TYPE_CHECKING:
    from isolora.adapters import Adapter, AdapterPool, load
    from isolora.certify import certify as certify_adapter
    from isolora.config import RunConfig, StudyConfig, load_run, load_study
    from isolora.cost.estimate import cost as estimate_cost
    from isolora.errors import UserError
    from isolora.evaluation import evaluate
    from isolora.fit import Fit
    from isolora.fit import fit as fit_law
    from isolora.plan import Recommendation
    from isolora.plan import plan as recommend
    from isolora.report import report as write_report
    from isolora.store import Store
    from isolora.study.demo import demo
    from isolora.study.running import run_study
    from isolora.study.verify import verify
    from isolora.table import Table, read
    from isolora.training import train
    from isolora.training.checkpoint_export import export

__version__ = version("isolora")

__all__ = [
    "Adapter",
    "AdapterPool",
    "Fit",
    "Recommendation",
    "RunConfig",
    "Store",
    "StudyConfig",
    "Table",
    "UserError",
    "certify_adapter",
    "demo",
    "estimate_cost",
    "evaluate",
    "export",
    "fit_law",
    "load",
    "load_run",
    "load_study",
    "read",
    "recommend",
    "run_study",
    "train",
    "verify",
    "write_report",
]

# Public name -> module and name there. A function never bears a module's name: importing the module would hide it.
_HOMES = {
    "Adapter": ("adapters", "Adapter"),
    "AdapterPool": ("adapters", "AdapterPool"),
    "Fit": ("fit", "Fit"),
    "Recommendation": ("plan", "Recommendation"),
    "RunConfig": ("config", "RunConfig"),
    "Store": ("store", "Store"),
    "StudyConfig": ("config", "StudyConfig"),
    "Table": ("table", "Table"),
    "UserError": ("errors", "UserError"),
    "certify_adapter": ("certify", "certify"),
    "demo": ("study.demo", "demo"),
    "estimate_cost": ("cost.estimate", "cost"),
    "evaluate": ("evaluation", "evaluate"),
    "export": ("training.checkpoint_export", "export"),
    "fit_law": ("fit", "fit"),
    "load": ("adapters", "load"),
    "load_run": ("config", "load_run"),
    "load_study": ("config", "load_study"),
    "read": ("table", "read"),
    "recommend": ("plan", "plan"),
    "run_study": ("study.running", "run_study"),
    "train": ("training", "train"),
    "verify": ("study.verify", "verify"),
    "write_report": ("report", "report"),
}

_DRAWERS = {"fit": "picture_of_fit", "plan": "picture_of_plan"}
"""Kind of picture -> the report's function that draws it, so that what lies below the report need not know it."""


def _drawer(name: str) -> display.Drawer:
    return cast(display.Drawer, getattr(import_module("isolora.report.pictures"), name))


for _kind, _name in _DRAWERS.items():
    display.register_drawer(_kind, partial(_drawer, _name))

_RENAMED = {"Residents": "AdapterPool"}
"""Names of the release before; they go with the next one."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"isolora.{name} is now isolora.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'isolora' has no attribute {name!r}")
    module, inner = _HOMES[name]
    return getattr(import_module(f"isolora.{module}"), inner)


def __dir__() -> list[str]:
    """The public names, so that completion lists those that have not loaded yet and nothing else."""
    return sorted([*__all__, "__version__"])
