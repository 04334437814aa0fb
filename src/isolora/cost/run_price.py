"""What is said of a run before it is run, for a program and for a person. No torch: an answer that is kept needs none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from isolora import display
from isolora.config.training import BUDGETS
from isolora.cost.time import Duration
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.ledger import PHASES, Flops

PHASE_WORDS = {
    "forward": "forward",
    "backward_inputs": "to inputs",
    "backward_weights": "to weights",
    "recomputation": "again",
    "reference": "reference",
}


@dataclass(frozen=True)
class Memory:
    """Bytes at the fullest moment of a step. adapter: the trained weights; logits: all whose last dimension is the vocabulary;
    activations: whatever else is kept for the backward pass or just passing."""

    weights: int
    adapter: int
    gradients: int
    optimiser: int
    average: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Cost:
    """FLOPs by phase, memory in bytes, tokens; of one step or of a whole run. evaluation_flops: of a run's held-out losses."""

    trainable_parameters: int
    all_parameters: int
    task: str
    flops: Flops
    evaluation_flops: float
    optimiser_flops: int
    memory: Memory
    tokens: int
    padding_tokens: int
    steps: int
    duration: Duration | None

    @property
    def peak_memory_bytes(self) -> int:
        return self.memory.total

    def to_json(self) -> JsonObject:
        return {
            "trainable_parameters": self.trainable_parameters,
            "all_parameters": self.all_parameters,
            "trainable_share": self.trainable_parameters / self.all_parameters,
            "flops": self.flops.to_json(),
            "flops_per_token": self.flops.total / self.tokens,
            "flops_per_step": self.flops.total / self.steps,
            "flops_by_group": self.flops.by_group(),
            "evaluation_flops": self.evaluation_flops,
            "optimiser_flops": self.optimiser_flops,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory": asdict(self.memory),
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
            "steps": self.steps,
            **({} if self.duration is None else self.duration.to_json()),
        }

    def __str__(self) -> str:
        share = 100 * self.trainable_parameters / self.all_parameters
        per_token, per_step = self.flops.total / self.tokens, self.flops.total / self.steps
        return "\n".join(
            [
                f"trainable parameters  {self.trainable_parameters:,} of {self.all_parameters:,}, {share:.4f} %",
                f"FLOPs                 {self.flops.total:.4g} for {self.task}: {per_token:.4g} a token, {per_step:.4g} a step",
                *(f"  {line}" for line in table(self.flops)),
                f"  optimiser             {self.optimiser_flops:.3g} element-wise, in no total",
                *self._evaluations(),
                f"tokens                {self.tokens:,} and {self.padding_tokens:,} of padding in {self.steps:,} steps",
                f"peak memory           {self._memory()}",
                f"time                  {self.duration or 'unknown here: --calibrate, or --on ACCELERATOR --utilisation SHARE'}",
            ]
        )

    def _repr_html_(self) -> str:
        return display.text_html(str(self))

    def _evaluations(self) -> list[str]:
        """One line on held-out losses; of one step there are none."""
        share = self.evaluation_flops / self.flops.total
        return [f"  held-out losses       {self.evaluation_flops:.3g} beside them, {share:.0%}"] if share else []

    def _memory(self) -> str:
        parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in asdict(self.memory).items())
        room = self.duration.memory_bytes if self.duration else None
        over = "" if room is None or self.memory.total <= room else f"; more than the accelerator's {room / 2**20:,.0f} MiB"
        return f"{self.memory.total / 2**20:,.0f} MiB ({parts}){over}"


def table(flops: Flops) -> list[str]:
    """FLOPs by module group and phase as aligned lines; phases in which nothing is done are left out."""
    phases = [phase for phase in PHASES if getattr(flops, phase)]
    rows = [*flops.by_group().items(), ("total", {phase: getattr(flops, phase) for phase in PHASES})]
    lines = [f"{'':<22}" + "".join(f"{PHASE_WORDS[phase]:>12}" for phase in phases) + f"{'all':>12}{'share':>9}"]
    for group, parts in rows:
        whole = sum(parts.values())
        numbers = "".join(f"{value:>12.3g}" for value in (*(parts[phase] for phase in phases), whole))
        lines.append(f"{group:<22}{numbers}{100 * whole / flops.total:>7.1f} %")
    return lines


def shape_of(words: Sequence[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Take `batch=B` and `length=L` out of a run's key=value words; both or neither."""
    given = dict(word.partition("=")[::2] for word in words if word.startswith(("batch=", "length=")))
    rest = [word for word in words if not word.startswith(("batch=", "length="))]
    if not given:
        return None, rest
    for name in ("batch", "length"):
        if not given.get(name, "").isdecimal() or int(given[name]) < 1:
            raise ConfigError(f"{name}: one step needs batch=B and length=L, both whole numbers of 1 or more")
    return (int(given["batch"]), int(given["length"])), rest


def asks_for_all_steps(words: Sequence[str]) -> bool:
    """Whether words beside batch= and length= say how long to train, so that as many steps are priced. Raises ConfigError for a
    setting that these two replace."""
    keys = {word.partition("=")[0] for word in words}
    if "training.batch_tokens" in keys:
        raise ConfigError("training.batch_tokens: batch= and length= say what a step holds; leave it out, or leave them out")
    for key in sorted(keys):
        if key.startswith("data."):
            raise ConfigError(f"{key}: with batch= and length= no data is read; leave it out, or leave them out")
    return bool({f"training.{name}" for name in BUDGETS} & keys)


def with_one_step(words: Sequence[str]) -> list[str]:
    """A run's key=value words with a budget of one step, where they say how to train but not for how long."""
    keys = [word.partition("=")[0] for word in words]
    silent = any(key.startswith("training.") for key in keys) and not {f"training.{name}" for name in BUDGETS} & set(keys)
    return [*words, "training.steps=1"] if silent else list(words)
