"""The public surface of plug-ins: what a task, method, law, trainer, tracker, executor, importer or data card is made of.

Everything here keeps its name and its meaning within a minor version; nothing else of isolora needs to be imported. Names load
when they are first used, so that a law brings in no torch. docs/extending.md shows one whole file of each kind.

A plug-in is a module that ends in an object called after its kind, and an entry point that names that object:

| kind | entry point group | derive from | answer |
|---|---|---|---|
| task | `isolora.tasks` | `Task` | what becomes `Examples`, which `Loss` a `Batch` has, which `Predictions` are measured |
| method | `isolora.methods` | `OwnFormat`, `OwnFormatAttached`; or `Method`, `Attached` | what is trained beside the base |
| law | `isolora.laws` | `Law` (make one) | terms in the `Columns`, `Shape`s of their exponents |
| trainer | `isolora.trainers` | `Trainer` | who takes the steps of a `Loop` |
| tracker | `isolora.trackers` | `Tracker` | where a `TrackedRun`'s points are shown |
| executor | `isolora.executors` | `Executor` | where a study's `Job`s are trained, by `train_job` |
| importer | `isolora.importers` | `Importer` | the runs in a tool's files, as `Read` |
| data card | `isolora.data_cards` | a folder with `data.json` | how the rows of a data set are read (`Card`) |

Settings. `Settings`: a frozen group of fields, each with a default and a description.

Tasks. `usable_rows`, `make_each`, `text_problem`: rows, and what is wrong with one; `encode`, `next_tokens`, `causal_loss`: next
tokens of texts; `Classifier`: a task that `isolora classify` can ask; `Classes`, `class_names`, `class_options`, `head_class`,
`class_scores`: heads that tell classes apart; `model_inputs`: what the forward pass is given; `from_logits`, `frozen_head`:
cross-entropy; `classification_scores`: accuracy, F1 and others; IGNORED: the label of a position without loss.

Methods. `target_modules`, `layer_stacks`, `attention_outputs`, `feed_forward_output`: where to adapt; `AdaptedLinear`,
`AdaptedEmbedding`, `LowRankUpdate`, `Rows`, `Span`, `dropout_mask`, `linear_shape`: low-rank layers of several members in one
batch; `Heads`, `head_names`: a task's new head, trained beside the adapter; `ParameterGroup`: what has one
learning rate; `untie`: before a merge, weights that are shared with another layer.

Laws. `stack`: terms as one array.

Trainers and executors. `Stack`, `Member`, `Observer`, `RunConfig`; `Train`, `PrunerOf`, `Workspace`, `Store`, `Point`.

Importers. `LoggedRun`, `by_step`: a run's settings and its history.

Errors. `UserError` and its kinds are one line for the person; `unknown` words the nearest valid choice. Any other exception from
a plug-in is told with its name, its package and the line it came from.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolora.config import RunConfig
    from isolora.config.settings import Settings
    from isolora.data_cards import Card, read_card
    from isolora.errors import ConfigError, DataError, MissingExtra, TableError, UserError, unknown
    from isolora.imports.base import Importer, LoggedRun, Read, by_step
    from isolora.laws.base import Array, Columns, Law, Shape, stack
    from isolora.methods.base import Attached, Method, ParameterGroup, Span
    from isolora.methods.low_rank import (
        AdaptedEmbedding,
        AdaptedLayer,
        AdaptedLinear,
        LowRankUpdate,
        Rows,
        dropout_mask,
        linear_shape,
    )
    from isolora.methods.merging import untie
    from isolora.methods.model_layers import attention_names, attention_outputs, feed_forward_output, layer_stacks
    from isolora.methods.own_format import OwnFormat, OwnFormatAttached
    from isolora.methods.targets import target_modules
    from isolora.methods.trained_heads import Heads, head_names
    from isolora.metrics.classification import classification_scores as classification_scores
    from isolora.metrics.predictions import Predictions
    from isolora.runs.member import Member
    from isolora.runs.observer import Observer
    from isolora.runs.workspace import Workspace
    from isolora.store import Point, Store
    from isolora.study.design import Job
    from isolora.study.executors.base import Executor, PrunerOf, Train, train_job
    from isolora.tasks.base import IGNORED, Batch, Batches, Examples, Loss, Task
    from isolora.tasks.causal import causal_class, causal_loss
    from isolora.tasks.causal_lm import encode, next_tokens
    from isolora.tasks.class_heads import Classes, Classifier, class_names, class_options, head_class
    from isolora.tasks.class_heads import inputs as model_inputs
    from isolora.tasks.cross_entropy import from_logits, frozen_head
    from isolora.tasks.rows import make_each, text_problem, usable_rows
    from isolora.tasks.sequence_classification import class_scores
    from isolora.training.backends.base import Trainer
    from isolora.training.loop import Loop
    from isolora.training.stack import Stack
    from isolora.training.trackers.base import OpenRun, TrackedRun, Tracker

__all__ = [
    "IGNORED",
    "AdaptedEmbedding",
    "AdaptedLayer",
    "AdaptedLinear",
    "Array",
    "Attached",
    "Batch",
    "Batches",
    "Card",
    "Classes",
    "Classifier",
    "Columns",
    "ConfigError",
    "DataError",
    "Examples",
    "Executor",
    "Heads",
    "Importer",
    "Job",
    "Law",
    "LoggedRun",
    "Loop",
    "Loss",
    "LowRankUpdate",
    "Member",
    "Method",
    "MissingExtra",
    "Observer",
    "OpenRun",
    "OwnFormat",
    "OwnFormatAttached",
    "ParameterGroup",
    "Point",
    "Predictions",
    "PrunerOf",
    "Read",
    "Rows",
    "RunConfig",
    "Settings",
    "Shape",
    "Span",
    "Stack",
    "Store",
    "TableError",
    "Task",
    "TrackedRun",
    "Tracker",
    "Train",
    "Trainer",
    "UserError",
    "Workspace",
    "attention_names",
    "attention_outputs",
    "by_step",
    "causal_class",
    "causal_loss",
    "class_names",
    "class_options",
    "class_scores",
    "classification_scores",
    "dropout_mask",
    "encode",
    "feed_forward_output",
    "from_logits",
    "frozen_head",
    "head_class",
    "head_names",
    "layer_stacks",
    "linear_shape",
    "make_each",
    "model_inputs",
    "next_tokens",
    "read_card",
    "stack",
    "target_modules",
    "text_problem",
    "train_job",
    "unknown",
    "untie",
    "usable_rows",
]

_HOMES = {
    # A new task
    "Task": ("tasks.base", "Task"),
    "Examples": ("tasks.base", "Examples"),
    "Batch": ("tasks.base", "Batch"),
    "Batches": ("tasks.base", "Batches"),
    "Loss": ("tasks.base", "Loss"),
    "IGNORED": ("tasks.base", "IGNORED"),
    "Settings": ("config.settings", "Settings"),
    "Predictions": ("metrics.predictions", "Predictions"),
    "classification_scores": ("metrics.classification", "classification_scores"),
    "usable_rows": ("tasks.rows", "usable_rows"),
    "make_each": ("tasks.rows", "make_each"),
    "text_problem": ("tasks.rows", "text_problem"),
    "Classes": ("tasks.class_heads", "Classes"),
    "Classifier": ("tasks.class_heads", "Classifier"),
    "class_names": ("tasks.class_heads", "class_names"),
    "class_options": ("tasks.class_heads", "class_options"),
    "head_class": ("tasks.class_heads", "head_class"),
    "model_inputs": ("tasks.class_heads", "inputs"),
    "class_scores": ("tasks.sequence_classification", "class_scores"),
    "from_logits": ("tasks.cross_entropy", "from_logits"),
    "frozen_head": ("tasks.cross_entropy", "frozen_head"),
    "encode": ("tasks.causal_lm", "encode"),
    "next_tokens": ("tasks.causal_lm", "next_tokens"),
    "causal_class": ("tasks.causal", "causal_class"),
    "causal_loss": ("tasks.causal", "causal_loss"),
    # A new method
    "Method": ("methods.base", "Method"),
    "Attached": ("methods.base", "Attached"),
    "ParameterGroup": ("methods.base", "ParameterGroup"),
    "Span": ("methods.base", "Span"),
    "OwnFormat": ("methods.own_format", "OwnFormat"),
    "OwnFormatAttached": ("methods.own_format", "OwnFormatAttached"),
    "target_modules": ("methods.targets", "target_modules"),
    "untie": ("methods.merging", "untie"),
    "Heads": ("methods.trained_heads", "Heads"),
    "head_names": ("methods.trained_heads", "head_names"),
    "Rows": ("methods.low_rank", "Rows"),
    "AdaptedLayer": ("methods.low_rank", "AdaptedLayer"),
    "AdaptedLinear": ("methods.low_rank", "AdaptedLinear"),
    "AdaptedEmbedding": ("methods.low_rank", "AdaptedEmbedding"),
    "LowRankUpdate": ("methods.low_rank", "LowRankUpdate"),
    "dropout_mask": ("methods.low_rank", "dropout_mask"),
    "linear_shape": ("methods.low_rank", "linear_shape"),
    "layer_stacks": ("methods.model_layers", "layer_stacks"),
    "attention_names": ("methods.model_layers", "attention_names"),
    "attention_outputs": ("methods.model_layers", "attention_outputs"),
    "feed_forward_output": ("methods.model_layers", "feed_forward_output"),
    # A new law
    "Law": ("laws.base", "Law"),
    "Shape": ("laws.base", "Shape"),
    "Columns": ("laws.base", "Columns"),
    "Array": ("laws.base", "Array"),
    "stack": ("laws.base", "stack"),
    # A new trainer
    "Trainer": ("training.backends.base", "Trainer"),
    "Loop": ("training.loop", "Loop"),
    "Stack": ("training.stack", "Stack"),
    "Member": ("runs.member", "Member"),
    "Observer": ("runs.observer", "Observer"),
    "RunConfig": ("config", "RunConfig"),
    # A new tracker
    "Tracker": ("training.trackers.base", "Tracker"),
    "TrackedRun": ("training.trackers.base", "TrackedRun"),
    "OpenRun": ("training.trackers.base", "OpenRun"),
    # A new executor
    "Executor": ("study.executors.base", "Executor"),
    "Train": ("study.executors.base", "Train"),
    "PrunerOf": ("study.executors.base", "PrunerOf"),
    "train_job": ("study.executors.base", "train_job"),
    "Job": ("study.design", "Job"),
    "Workspace": ("runs.workspace", "Workspace"),
    "Store": ("store", "Store"),
    "Point": ("store", "Point"),
    # A new importer
    "Importer": ("imports.base", "Importer"),
    "LoggedRun": ("imports.base", "LoggedRun"),
    "Read": ("imports.base", "Read"),
    "by_step": ("imports.base", "by_step"),
    # A new data card
    "Card": ("data_cards", "Card"),
    "read_card": ("data_cards", "read_card"),
    # Errors
    "UserError": ("errors", "UserError"),
    "ConfigError": ("errors", "ConfigError"),
    "DataError": ("errors", "DataError"),
    "TableError": ("errors", "TableError"),
    "MissingExtra": ("errors", "MissingExtra"),
    "unknown": ("errors", "unknown"),
}
"""Public name -> module and name there."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'isolora.extend' has no attribute {name!r}")
    module, inner = _HOMES[name]
    return getattr(import_module(f"isolora.{module}"), inner)


def __dir__() -> list[str]:
    return sorted(__all__)
