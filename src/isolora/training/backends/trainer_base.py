"""A transformers Trainer that is steered by a stack of one member: its batches, optimiser, schedule, rows and bookkeeping."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from isolora.json_types import JsonObject
from isolora.runs.batches import Indices
from isolora.runs.member import Member
from isolora.training.loop import Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENDLESS = 2**31
"""Steps that a Trainer is told to take; the member's budget stops it."""


class StackTrainer(Trainer):  # type: ignore[misc]
    """Forward, backward, clipping, step and schedule are the Trainer's."""

    loss_is_scaled_for_ga = True
    """A micro-batch's loss is already its share of the step's mean."""

    def __init__(self, loop: Loop, callback: LoopCallback, **given: Any) -> None:
        self.stack, self.callback = loop.stack, callback
        member = loop.stack.members[0]
        optimizers = (member.optimizer.adamw, schedule(member))
        super().__init__(model=loop.stack.attached.model, callbacks=[callback], optimizers=optimizers, **given)

    @abstractmethod
    def inputs(self, rows: Indices) -> JsonObject:
        """A micro-batch of these examples."""

    @abstractmethod
    def losses(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> tuple[Tensor, float]:
        """(what is differentiated, the loss summed over what the task counts) of a micro-batch; share: its part of the step's
        examples."""

    def get_train_dataloader(self) -> Iterator[JsonObject]:
        """Taken as they are: accelerate's own loader would fetch a batch ahead, past the place that a checkpoint notes."""
        while True:
            for rows in self.callback.draw():
                share = len(rows) / len(self.callback.drawn)
                yield {**self.inputs(rows), "share": share} if len(rows) else {}

    def training_step(self, model: PreTrainedModel, inputs: JsonObject, num_items_in_batch: Any = None) -> Tensor:
        if not inputs:  # a step of fewer examples than micro-batches
            return torch.zeros((), device=self.args.device)
        with self.stack.attached.all_rows(0):
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self, model: PreTrainedModel, inputs: JsonObject, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        share = inputs.pop("share")
        self.model.eval()  # the Trainer has just switched the frozen base's dropout on
        self.stack.attached.train(True)
        with self.stack.accelerator.autocast():
            objective, summed = self.losses(model, inputs, share)
            extra = self.stack.attached.extra_loss()
        self.callback.loss += summed
        return objective if extra is None else objective + share * extra

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: object) -> None:
        """The stack counts for itself, empty micro-batches included."""

    def _get_grad_norm(self, model: PreTrainedModel, grad_norm: object = None) -> Any:
        """Only what clipping has found; without clipping, a Trainer multiplies every gradient by one to learn its norm."""
        return grad_norm

    def floating_point_ops(self, inputs: Any) -> int:
        """The ledger counts."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Points are written by the stack; standard output belongs to the command line."""

    def _send_telemetry(self) -> None:
        """TRL reports its use to the hub; nothing leaves this machine."""


def schedule(member: Member) -> LambdaLR:
    """The member's own schedule, asked after every step for the next one's rates."""

    def rate(ratio: float) -> Callable[[int], float]:
        return lambda _: ratio * member.rate_factor

    return LambdaLR(member.optimizer.adamw, [rate(group.learning_rate_ratio) for group in member.optimizer.groups])


def arguments(loop: Loop) -> JsonObject:
    """What every kind of TrainingArguments is given: the run's own settings, and all that reaches outside switched off."""
    member = loop.stack.members[0]
    training = member.training
    return {
        "output_dir": str(loop.folder),
        "max_steps": ENDLESS,
        "gradient_accumulation_steps": member.accumulation,
        "max_grad_norm": training.clip_norm or 0.0,
        "bf16": training.precision == "bfloat16",
        "use_cpu": loop.stack.accelerator.device.type == "cpu",
        "activation_checkpointing": False,  # the model has it already, where the run asks for it
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "logging_strategy": "no",
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "push_to_hub": False,
        "disable_tqdm": True,
    }


def run_trainer(kind: type[StackTrainer], settings: TrainingArguments, loop: Loop) -> None:
    """Make the Trainer and let it run to the end of the member's budget; it leaves no marks on the base or on accelerate."""
    stack, callback = loop.stack, LoopCallback(loop)
    model, base = stack.attached.model, stack.base.model
    with as_it_was(model, base, stack.accelerator.state), callback.step:
        if getattr(base, "is_quantized", False):
            model._hf_peft_config_loaded = True  # it has adapters; a Trainer knows only those of PEFT
        with torch.random.fork_rng(), as_it_was(base.config, getattr(base, "generation_config", None)):  # it seeds and sets
            trainer = kind(loop, callback, args=settings)
        if stack.members[0].running:
            trainer.train()


@contextmanager
def as_it_was(*things: object) -> Iterator[None]:
    """Take back, at the end, whatever attributes have been set or replaced."""
    before = [(thing, dict(vars(thing))) for thing in things if thing is not None]
    try:
        yield
    finally:
        for thing, attributes in before:
            vars(thing).clear()
            vars(thing).update(attributes)


class LoopCallback(TrainerCallback):  # type: ignore[misc]
    """Steps are counted, evaluated, checkpointed and stopped through it, for a stack of one member. drawn: the examples of this
    step; loss: theirs, summed over the micro-batches so far."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.stack = loop, loop.stack
        (self.member,) = loop.stack.members
        self.step = ExitStack()

    def draw(self) -> list[Indices]:
        """Examples of the next step, micro-batch by micro-batch; a Trainer counts on as many as it accumulates."""
        self.started = time.perf_counter()
        self.loss = 0.0
        self.drawn = self.member.stream.next()
        parts = self.member.micro_batches(self.drawn)
        return parts + [self.drawn[:0]] * (self.member.accumulation - len(parts))

    @property
    def units(self) -> int:
        """What this step's loss is a mean over."""
        return int(self.stack.units[self.drawn].sum())

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.member.optimizer.link()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.step.enter_context(self.loop.watched_step())

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        self.stack.consume(0, self.drawn, self.loss)

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        if self.member.running:
            self.stack.finish_step(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.member.optimizer.link()  # the Trainer has thrown the gradients away, and with them the views
        self.stack.steps += 1
        self.member.progress.seconds += time.perf_counter() - self.started
        self.step.close()
        self.loop.after_step()
        control.should_training_stop = not self.member.running
