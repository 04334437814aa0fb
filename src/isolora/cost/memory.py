"""Peak memory of a training step, before it is run: a rehearsal with tensors that have no values, every storage followed.

The tensors bear the device that will run, so that attention takes the kernel it takes there and keeps what that keeps. On a CPU
this agrees with the profiler's records of the allocator (benchmarks/bench_memory.py); work space that a kernel takes and returns
within one call is not seen. On a GPU the rehearsal is the same, but nothing has been measured there yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isolora import models, registry
from isolora.config import RunConfig, TrainingConfig, content_hash
from isolora.cost import kept
from isolora.cost.flops import TWO_CLASSES, attach_for_rehearsal, task_batch
from isolora.cost.layers import Kept, Layers, find_layers, shortened
from isolora.cost.no_values import WithoutValues, refused_in_one_line, taken_for_real
from isolora.cost.run_price import Memory
from isolora.cost.storage import RehearsedStorageTracker
from isolora.cost.timeline import Timeline, fullest, kept_for_memory
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.ledger import BatchShape
from isolora.methods.base import Attached
from isolora.runs.batches import epoch_batches
from isolora.runs.device import autocast
from isolora.runs.micro_batches import accumulation, micro_batches
from isolora.runs.optimizer import AveragedAdamW
from isolora.tasks.base import Batch, Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def peak(
    config: RunConfig,
    shape: BatchShape,
    labels: Sequence[str] = TWO_CLASSES,
    device: str = "cpu",
    padded: bool | None = None,
    whole: bool = False,
) -> Memory:
    """Of a step whose micro-batch has this shape, the optimiser's moments already there. Allocates nothing of the model's size.

    labels: the task's classes; device: "cpu" or "cuda"; padded: whether rows differ in length and need a mask where attention
    looks both ways, as several usually do; whole: run every layer, where else a few of those that are alike stand for all.
    Raises ConfigError where this PyTorch cannot bear tensors of the device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: this PyTorch sees no cuda; memory can be rehearsed for: cpu")
    if registry.load_plug_in("method", config.method.name).needs_weights:
        raise ConfigError(f"method: {config.method.name} looks at the base's weights; its memory cannot be told without them")
    task = models.bound_task(config, labels)
    model = models.skeleton(config, task).model
    models.cast_base(model, config, task)
    books = RehearsedStorageTracker(device, model.config.get_text_config().vocab_size)
    with refused_in_one_line(config.model), WithoutValues() as mode, taken_for_real(), books:
        books.mode = mode
        _move(model, device)
        saved = _quantise(config, model)
        attached = attach_for_rehearsal(config, task, model)
        few = None if whole else few_layers(attached.model)
        optimizer = AveragedAdamW(attached.groups(0), config.training, None if few is None else few.parameters)
        optimizer.step(1.0)  # makes the moments
        optimizer.finish_step(1)
        held = optimizer.bytes_held()
        held["weights"] = books.alive - sum(held.values()) - saved
        differ = shape.rows > 1 if padded is None else padded

        def step(before_backward: Callable[[], None] = lambda: None) -> None:
            batch = task_batch(task, shape, device)
            books.rows_differ(batch if differ else None)
            one_step(config, task, attached, optimizer, batch, before_backward)

        found = None if few is None else _of_few_layers(books, few, step)
        if found is None:
            if few is not None:
                optimizer.link()
            found = _of_all_layers(books, step)
    most, logits = found
    return Memory(**held, activations=most - logits, logits=logits)


def kept_peak(config: RunConfig, shape: BatchShape, labels: Sequence[str], device: str, padded: bool | None = None) -> Memory:
    """As `peak`, kept on the disk by all that decides it."""
    training, padded = config.training, shape.rows > 1 if padded is None else padded
    decided_by = (training.precision, training.base_precision, training.clip_norm)
    key = kept.price_key(config, len(labels), *decided_by, device, astuple(shape), padded)
    found = kept.read_kept("memory", key)
    if found is not None:
        return Memory(**found)
    memory = peak(config, shape, labels, device, padded)
    kept.write_kept("memory", key, asdict(memory))
    return memory


def _of_all_layers(books: RehearsedStorageTracker, step: Callable[[], None]) -> tuple[int, int]:
    """(bytes, of these the logits') at the fullest moment of the step."""
    books.begin()
    step()
    return books.peak, books.logits_at_peak


@dataclass(frozen=True)
class FewLayers:
    """A model's layers and those that stand for all in a rehearsal of its memory. parameters: of the model with these alone."""

    model: PreTrainedModel
    layers: Sequence[Layers]
    kept: Kept
    parameters: set[Tensor]


def few_layers(model: PreTrainedModel) -> FewLayers | None:
    """None where they would be as many as there are."""
    layers = find_layers(model)
    kept = {each.name: kept_for_memory(each) for each in layers}
    if sum(map(len, kept.values())) >= sum(map(len, layers)):
        return None
    with shortened(model, layers, kept):
        return FewLayers(model, layers, kept, set(model.parameters()))


def _of_few_layers(books: RehearsedStorageTracker, few: FewLayers, step: Callable[..., None]) -> tuple[int, int] | None:
    """The same from a step through a few of the layers that are alike; None where the model is no chain of them."""
    books.timeline = timeline = Timeline()
    try:
        with shortened(few.model, few.layers, few.kept), timeline.watching(few.layers, few.kept):
            books.begin()
            step(timeline.turn)
        return fullest(timeline.segments, {each.name: each for each in few.layers}, few.kept)
    except Exception:  # a model that counts its layers itself, or goes through them in another order
        books.timeline = None
        return None


def peak_of_run(config: RunConfig, examples: Examples, labels: Sequence[str], device: str, known: dict[str, int]) -> int | None:
    """Bytes of the fullest step of a run trained alone, kept in `known` for runs that differ in nothing that decides it.

    None where the method or the architecture cannot be rehearsed without weights.
    """
    training = config.training
    count, batches = accumulation(training), epoch_batches(examples.sequence_lengths, training.batch_tokens, config.seed, 0)
    shapes = [BatchShape.of(examples, rows) for batch in batches for rows in micro_batches(batch, count)]
    largest = max(shapes, key=lambda shape: (shape.tokens, shape.labels))
    own = {key: getattr(config, key) for key in ("model", "task", "method", "trust_remote_code", "new_tokens")}
    options = {key: getattr(training, key) for key in ("precision", "base_precision", "gradient_checkpointing")}
    decided_by = RunConfig(**own, training=TrainingConfig(tokens=1, **options))
    key = content_hash([decided_by.identity(), models.fingerprint(config.model), labels, device, astuple(largest)])
    if key not in known:
        try:
            known[key] = kept_peak(decided_by, largest, labels, device).total
        except Exception:  # whatever a method does to tensors without values: an estimate ends no run
            return None
    return known[key]


def one_step(
    config: RunConfig,
    task: Task,
    attached: Attached,
    optimizer: AveragedAdamW,
    batch: Batch,
    before_backward: Callable[[], None] = lambda: None,
) -> None:
    """Forward pass, backward pass and update of one micro-batch, as in the loop."""
    with attached.rows([(0, 0, -1)]):
        with autocast(batch.input_ids.device, config.training.precision):
            loss = task.loss(attached.model, batch)
            extra = attached.extra_loss()
        before_backward()
        (loss.objective if extra is None else loss.objective + extra).backward()
    optimizer.step(1.0)
    attached.after_step(0, 0.0)
    optimizer.finish_step(1)


def _move(model: nn.Module, device: str) -> None:
    """Give weights and buffers a device, shared ones once."""
    moved: dict[Tensor | None, Any] = {None: None}
    for module in model.modules():
        held: tuple[JsonObject, ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor not in moved:
                    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
                    moved[tensor] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
                tensors[name] = moved[tensor]


def _quantise(config: RunConfig, model: PreTrainedModel) -> int:
    """Let the layers that the method stores in fewer bits compute as these do; returns the bytes that their storage saves."""
    method = registry.load_plug_in("method", config.method.name)
    settings, saved = method.settings(config.method.fields()), 0.0
    for name, layer in model.named_modules():
        stored = method.stored_bytes(settings, name, layer)
        if stored is not None:
            saved += sum(weight.nbytes for weight in layer.parameters(recurse=False)) - stored
            layer.forward = partial(Dequantised.apply, layer.weight)
    return int(saved)


class Dequantised(torch.autograd.Function):
    """A product with a frozen weight that is made dense for its duration, forward and backward, and kept by neither."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor) -> Tensor:
        ctx.weight = weight
        return _product(weight, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, _product(ctx.weight, gradients[0])


def _product(weight: Tensor, x: Tensor) -> Tensor:
    dense = torch.empty_like(weight, dtype=x.dtype)
    return x.new_empty((*x.shape[:-1], dense.numel() // x.shape[-1]))
