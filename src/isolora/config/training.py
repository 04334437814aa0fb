"""How long a run trains, and how: its budget, its steps, when it is measured and kept."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from isolora import registry
from isolora.config.settings import Settings

BUDGETS = ("tokens", "steps", "epochs", "flops")
TrainerName = Annotated[str, AfterValidator(partial(registry.check_name, "trainer"))]
TrackerName = Annotated[str, AfterValidator(partial(registry.check_name, "tracker"))]


class TrainingConfig(Settings):
    """How a run is trained: its budget (exactly one of tokens, steps, epochs, flops), optimiser, schedule and evaluations."""

    tokens: PositiveFloat | None = Field(None, description="budget in real (non-padding) tokens")
    steps: PositiveInt | None = Field(None, description="budget in optimiser steps")
    epochs: PositiveFloat | None = Field(None, description="budget in passes over the training examples")
    flops: PositiveFloat | None = Field(None, description="budget in training FLOPs")
    trainer: TrainerName = Field(
        "native",
        description="who takes the steps: isolora's own loop (native), transformers' Trainer (hf), TRL's SFTTrainer (sft) or "
        "DPOTrainer (dpo), or another of `isolora list trainers`",
    )
    learning_rate: PositiveFloat = Field(1e-3, description="peak learning rate (AdamW)")
    head_learning_rate_ratio: PositiveFloat = Field(
        10.0, description="learning rate of a task's new head, which starts from nothing, over the adapter's"
    )
    batch_tokens: PositiveInt = Field(4096, description="padded tokens in one optimiser step, at most")
    accumulation: PositiveInt | None = Field(
        None,
        description="micro-batches that one optimiser step is split into; null: on a CPU as many as keep each within 2,048 "
        "tokens, which is fastest there, elsewhere one",
    )
    warmup_steps: NonNegativeInt = Field(10, description="steps of linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="what the rate does after warm-up")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled weight decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first-moment decay")
    beta2: float = Field(0.99, ge=0, lt=1, description="AdamW's second-moment decay")
    clip_norm: PositiveFloat | None = Field(1.0, description="largest gradient norm of one member; null switches clipping off")
    averaging: NonNegativeFloat = Field(
        3.0, description="polynomial-decay averaging: newest weights get (a+1)/(step+a); 0 averages all"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="autocast precision")
    base_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="how the frozen base's weights are kept; bfloat16 halves them and asks for precision bfloat16"
    )
    shard_base: bool = Field(
        False,
        description="under a launcher of several processes each holds a part of the frozen layers (FSDP): for bases larger than "
        "one device",
    )
    evaluate_from: PositiveFloat = Field(4096, description="tokens at the first evaluation")
    evaluate_ratio: float = Field(2.0, gt=1, description="spacing of evaluations: each at this multiple of the last")
    evaluate_between: PositiveInt | None = Field(
        None,
        description="held-out examples at each evaluation between a run's first and its last, in turn; what their loss and "
        "scores differ by from those of all is taken from those two. null: all examples, always",
    )
    checkpoint_seconds: PositiveFloat = Field(120, description="longest time between two checkpoints")
    keep_checkpoints: bool = Field(False, description="keep all checkpoints, after the run's end too, for export --checkpoint")
    trackers: tuple[TrackerName, ...] = Field(
        (),
        description="any of tensorboard, trackio, wandb or others of `isolora list trackers`, told every point; files go to "
        "OUT/trackers, trackio's to its own home",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"exactly one of {', '.join(BUDGETS)} sets the budget; found {found}")
        return self

    @model_validator(mode="after")
    def _halved_weights_compute_in_halves(self) -> TrainingConfig:
        if self.base_precision == "bfloat16" and self.precision != "bfloat16":
            raise ValueError(
                f"base_precision: weights in bfloat16 compute in bfloat16; set training.precision=bfloat16 (got {self.precision})"
            )
        return self

    @property
    def budget(self) -> tuple[str, float]:
        """The budget's unit and its amount."""
        name = next(name for name in BUDGETS if getattr(self, name) is not None)
        return name, float(getattr(self, name))
