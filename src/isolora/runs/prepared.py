"""A run with a body: documents, task, base, tokenizer and examples, resolved once and handed down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from isolora import data, registry
from isolora.config import RunConfig
from isolora.data import Documents
from isolora.errors import ConfigError
from isolora.methods.base import Attached, ParameterGroup
from isolora.methods.new_tokens import NewTokens
from isolora.models import Base
from isolora.runs.document_loader import DocumentLoader, RunDocuments, forgetting_splits
from isolora.runs.workspace import Workspace
from isolora.tasks.base import Examples, Task
from isolora.tasks.causal import check_causal
from isolora.tasks.returned import checked_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeldOut:
    """Examples that a task is scored on, and the documents that they were made from."""

    task: Task
    examples: Examples
    documents: Documents

    def mean_loss(self, summed: NDArray[np.float64], rows: NDArray[np.int64] | slice = slice(None)) -> float:
        """Mean of summed losses [examples], of all or of these: over labelled tokens, or over examples where the task says so."""
        return float(summed[rows].sum() / self.task.units(self.examples)[rows].sum())


@dataclass(frozen=True)
class RunExamples:
    """A run's documents as token sequences. mixed: what each source that is mixed in is scored on; other_texts: texts on which
    forgetting is measured, by source; left_out: origins of all rows that could not be used or give nothing to learn, and why."""

    train: Examples
    held_out: HeldOut
    mixed: Mapping[str, HeldOut]
    other_texts: Mapping[str, Examples]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, documents: RunDocuments, tokenizer: PreTrainedTokenizerBase, positions: int) -> RunExamples:
        """positions: the longest sequence that the model takes. Raises DataError for a row that gives nothing to learn, unless
        such rows are skipped."""
        config, length = documents.config, max_length(documents.config, positions)

        def made(task: Task, part: Documents) -> HeldOut:
            return _examples(task, part, tokenizer, length, config.data.on_error == "skip")

        sources = documents.mixed
        train = [made(documents.task, documents.train), *(made(source.task, source.train) for source in sources.values())]
        held_out = made(documents.task, documents.held_out)
        mixed = {name: made(source.task, source.held_out) for name, source in sources.items()}
        texts = other_texts(config, documents.task, tokenizer, positions - virtual_tokens(config), documents.loader)
        parts = (*train, held_out, *mixed.values(), *texts.values())
        left_out = tuple(row for part in parts for row in part.documents.left_out)
        other = {source: on.examples for source, on in texts.items()}
        return cls(Examples.joined([part.examples for part in train]), held_out, mixed, other, left_out)


@dataclass(frozen=True)
class PreparedRun(AbstractContextManager["PreparedRun"]):
    """Everything that training, evaluation and certificates need of a run.

    A context manager: at its end the adapters are detached, whatever has been raised, and a base that was left clean goes back to
    the workspace. `labels` and the rest follow from `documents`.
    """

    config: RunConfig
    documents: RunDocuments
    base: Base
    examples: RunExamples
    cleanup: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)
    adapters: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @classmethod
    def load(cls, config: RunConfig, workspace: Workspace | None = None) -> PreparedRun:
        """Raises ConfigError or DataError, one line. workspace: what is shared with other runs of this process."""
        workspace = workspace or Workspace()
        documents = RunDocuments.load(config, workspace.documents)
        cleanup = ExitStack()
        base = cleanup.enter_context(workspace.bases.borrow(config, documents.task))
        check_causal(documents.task, base.model)
        documents.task.check_model(base.model)
        examples = RunExamples.of(documents, base.tokenizer, base.max_length)
        demand_embeddings(examples, base, len(config.new_tokens))
        return cls(config, documents, base, examples, cleanup, cleanup.enter_context(ExitStack()))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        return self.cleanup.__exit__(kind, error, trace)

    @property
    def task(self) -> Task:
        return self.documents.task

    def attach(self, configs: Sequence[RunConfig]) -> Attached:
        """The adapters of the members of a stack, one a configuration, on this run's base, which gives up those that it had; gone
        when the context ends."""
        self.adapters.close()
        known_tokens = len(self.base.tokenizer) - len(self.config.new_tokens)
        attached = attach(configs, self.base.model, self.task.new_head, known_tokens)
        self.adapters.callback(attached.detach)
        return attached


def attach(configs: Sequence[RunConfig], model: PreTrainedModel, new_head: bool, known_tokens: int) -> Attached:
    """The runs' method on a model, one member a run, with the rows of new tokens where there are any. What members share is the
    first one's; known_tokens: entries of the tokenizer before the new ones."""
    first, seeds = configs[0], [config.seed for config in configs]
    method = registry.load_plug_in("method", first.method.name)
    method.check_packing(bool(first.task.fields().get("packing")))
    own = {id(weight) for weight in model.parameters()}
    attached: Attached = method.attach(model, [method.settings(config.method.fields()) for config in configs], seeds, new_head)
    _demand_adapters(first.method.name, attached, len(configs))
    if first.training.base_precision != "float32":
        _keep_trained_in_full(attached, own, first.method.name)
    return NewTokens(attached, known_tokens, len(first.new_tokens), seeds) if first.new_tokens else attached


def demand_embeddings(examples: RunExamples, base: Base, new_tokens: int) -> None:
    """Raises ConfigError where a text has a token that the model has no embedding for: its tokenizer is another model's."""
    rows = base.model.config.get_text_config().vocab_size + new_tokens
    parts = [examples.train, examples.held_out.examples, *(on.examples for on in examples.mixed.values())]
    parts += [*examples.other_texts.values(), *(part.second for part in parts if part.second is not None)]
    highest = max((int(part.ids.max()) for part in parts if part.ids.size), default=0)
    if highest >= rows:
        raise ConfigError(
            f"model: {base.name} has embeddings for {rows:,} tokens, and its tokenizer gives token {highest:,}: "
            "they do not belong together"
        )


def _demand_adapters(name: str, attached: Attached, members: int) -> None:
    """Raises PlugInError, one line, where a method's `attach` gave something that cannot be trained."""
    found = type(attached).__name__
    registry.owed("method", name, isinstance(attached, Attached), f"attach() gave {found}; expected an Attached")
    count = getattr(attached, "members", None)
    registry.owed("method", name, count == members, f"attach() gave {count} members; expected {members}, one for each run")
    for k in range(members):
        groups = attached.groups(k)
        listed = isinstance(groups, list) and all(isinstance(group, ParameterGroup) for group in groups)
        registry.owed("method", name, listed, f"groups({k}) gave {type(groups).__name__}; expected a list of ParameterGroup")
        trained = [parameter for group in groups for parameter in group.parameters]
        registry.owed("method", name, bool(trained), f"groups({k}) gave no parameter; expected what the optimiser updates")
        learns = all(isinstance(each, torch.Tensor) and each.requires_grad for each in trained)
        registry.owed("method", name, learns, f"groups({k}) gave parameters without requires_grad; expected trained ones alone")


def _keep_trained_in_full(attached: Attached, own: set[int], method: str) -> None:
    """Adapters stay in float32 whatever the base is kept in. Raises ConfigError where the method trains the base's own weights:
    an update of a thousandth would be lost in bfloat16."""
    for weight in (weight for k in range(attached.members) for weight in attached.tensors(k)):
        if weight.dtype == torch.float32:
            continue
        if id(weight) in own:
            attached.detach()
            raise ConfigError(
                f"training.base_precision: method {method} trains the base's own weights, which bfloat16 is too coarse for"
                " (valid here: float32)"
            )
        weight.data = weight.data.float()


def virtual_tokens(config: RunConfig) -> int:
    """Positions that every sequence loses to the run's method."""
    method = registry.load_plug_in("method", config.method.name)
    consumed: int = method.virtual_tokens(method.settings(config.method.fields()))
    return consumed


def max_length(config: RunConfig, positions: int) -> int:
    """Tokens of the longest example. Raises ConfigError where the model has too few positions."""
    virtual = virtual_tokens(config)
    if positions - virtual < 2:
        raise ConfigError(f"method.virtual_tokens: {virtual} leave no room for a text in the model's {positions} positions")
    asked = config.data.max_length or positions - virtual
    if asked > positions - virtual:
        besides = f" besides {virtual} virtual tokens" if virtual else ""
        raise ConfigError(f"data.max_length: {asked} exceeds the model's {positions} positions{besides}")
    return asked


def other_texts(
    config: RunConfig, task: Task, tokenizer: PreTrainedTokenizerBase, length: int, loader: DocumentLoader | None = None
) -> dict[str, HeldOut]:
    """Held-out texts of the sources on which forgetting is measured. Raises ConfigError where the model has no language head."""
    if config.forgetting is None:
        return {}
    if task.auto_class(task.architecture) != "AutoModelForCausalLM":
        raise ConfigError(f"forgetting: measured by a decoder's loss on texts; the model of task {task.name} is none")
    plain: Task = registry.load_plug_in("task", "causal-lm")
    skip, drawn = config.data.on_error == "skip", forgetting_splits(config, loader or DocumentLoader())
    texts = {source: replace(splits.validation, left_out=splits.train.left_out) for source, splits in drawn.items()}
    return {source: _examples(plain, held_out, tokenizer, length, skip) for source, held_out in texts.items()}


def _examples(task: Task, documents: Documents, tokenizer: PreTrainedTokenizerBase, length: int, skip: bool) -> HeldOut:
    """Documents that give something to learn, and their examples, of which each has a label."""
    # what the architecture decides
    form = (task.second, *(getattr(task.architecture, name, None) for name in ("model_type", "decoder_start_token_id")))
    code = registry.code_digest("task", task.name)

    def make(part: Documents) -> Examples:
        own = (task.name, task.settings.model_dump(), task.labels, form, part.fingerprint, length)
        decided_by: Sequence[Any] = (*own, *code)
        return data.cached(lambda: _checked(task, part, tokenizer, length), tokenizer, decided_by)

    kept, examples = data.make_examples(task, documents, make, length, skip)
    return HeldOut(task, examples, kept)


def _checked(task: Task, documents: Documents, tokenizer: PreTrainedTokenizerBase, length: int) -> Examples:
    return checked_examples(task, task.examples(documents, tokenizer, length), len(documents), length)
