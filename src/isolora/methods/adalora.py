"""AdaLoRA: a rank for each layer, found by pruning singular values during training (Zhang et al. 2303.10512)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from isolora.errors import DataError
from isolora.json_types import JsonObject
from isolora.methods.adapter_files import CONFIG
from isolora.methods.base import Span
from isolora.methods.peft.adapter import PeftAdapter, PeftMethod, peft_targets
from isolora.methods.peft.peft_configuration import quietly

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""PEFT's names for the smoothed importance and uncertainty of every weight."""
MILLION = 1_000_000


class AdaloraSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    init_rank: int = Field(12, ge=1, description="rank that every layer begins with")
    target_rank: int = Field(8, ge=1, description="rank that is left at the end, on average over layers")
    alpha: float = Field(16.0, gt=0, description="numerator of the scaling, alpha/init_rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: str | list[str] = Field("all-linear", description="all-linear, module names, or a pattern over full module names")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the budget before anything is pruned")
    final_share: float = Field(0.3, ge=0, lt=1, description="share of the budget after the last pruning, with ranks fixed")
    interval_steps: int = Field(10, ge=1, description="optimiser steps between two prunings")
    orthogonality: float = Field(0.5, ge=0, description="weight of the loss that keeps singular vectors orthogonal")
    beta1: float = Field(0.85, gt=0, lt=1, description="smoothing of the importance")
    beta2: float = Field(0.85, gt=0, lt=1, description="smoothing of the importance's uncertainty")

    @model_validator(mode="after")
    def _leaves_room(self) -> AdaloraSettings:
        if self.target_rank > self.init_rank:
            raise ValueError(f"method.target_rank: {self.target_rank} is larger than init_rank {self.init_rank}")
        if self.warmup_share + self.final_share >= 1:
            raise ValueError("method.final_share: no budget is left for pruning after warmup_share and final_share")
        return self


class AdaloraAdapter(PeftAdapter):
    """`kept` [rank, 1] of each layer: which singular values the last pruning has left; empty before it."""

    settings: AdaloraSettings | None = None
    """Absent where an adapter is only loaded."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.steps = 0
        self.kept: dict[str, Tensor] = {}
        self._values = self._factors("lora_E")
        for count in self._factors("ranknum").values():
            count.requires_grad_(False)  # moved off the CPU, PEFT's count of ranks would be trained

    def _factors(self, kind: str) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.model.named_parameters() if f".{kind}." in name}

    @property
    def _allocator(self) -> Any:
        return self.peft.base_model.rankallocator

    def extra_loss(self) -> Tensor | None:
        """Mean distance of the singular vectors' Gram matrices from the identity, times its weight."""
        if self.settings is None or not self.settings.orthogonality:
            return None
        grams = [a @ a.T for a in self._factors("lora_A").values()] + [b.T @ b for b in self._factors("lora_B").values()]
        distances = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
        return self.settings.orthogonality * torch.stack(distances).mean()

    def after_step(self, member: int, spent: float) -> None:
        """Smooth the importances; prune at every interval to the cubic schedule's budget, and a last time at the final share."""
        assert self.settings is not None
        self.steps += 1
        if self.kept:
            self._mask()
            return
        self._allocator.update_ipt(self.model)
        warmup, last = self.settings.warmup_share, 1 - self.settings.final_share
        first, target = self._allocator.init_bgt, self._allocator.target_bgt
        if spent >= last:
            self.kept = self._prune(target)
        elif spent > warmup and self.steps % self.settings.interval_steps == 0:
            self._prune(int(target + (first - target) * ((last - spent) / (last - warmup)) ** 3))

    def _prune(self, budget: int) -> dict[str, Tensor]:
        """Set all singular values but the `budget` most important ones to zero; returns which are left."""
        if budget >= self._allocator.init_bgt:
            return {name: torch.ones_like(values, dtype=torch.bool) for name, values in self._values.items()}
        left = self._allocator.mask_to_budget(self.model, budget)
        return {name: torch.tensor(left[name], device=values.device)[:, None] for name, values in self._values.items()}

    @torch.no_grad()
    def _mask(self) -> None:
        for name, kept in self.kept.items():
            self._values[name].masked_fill_(~kept, 0)

    @contextmanager
    def rows(self, spans: Sequence[Span]) -> Iterator[None]:
        """Averaged weights remember singular values from before their pruning; they are forgotten wherever they are used."""
        self._mask()
        with super().rows(spans):
            yield

    def save(self, member: int, folder: Path) -> None:
        self._mask()
        self.config.rank_pattern = {name: kept.flatten().tolist() for name, kept in self.kept.items()} or None
        super().save(member, folder)

    def merge(self, member: int) -> Any:
        self._mask()
        return super().merge(member)

    def facts(self, member: int) -> JsonObject:
        left = self.kept or {name: values != 0 for name, values in self._values.items()}
        ranks = {name.partition(".lora_E")[0]: int(kept.sum()) for name, kept in left.items()}
        return {"ranks": ranks, "total_rank": sum(ranks.values())}

    def state(self) -> dict[str, Tensor]:
        averages = {f"{kind}.{name}": tensor for kind in AVERAGES for name, tensor in getattr(self._allocator, kind).items()}
        return {"steps": torch.tensor(self.steps), **averages, **{f"kept.{name}": kept for name, kept in self.kept.items()}}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        device = next(self.model.parameters()).device
        self.steps = int(tensors["steps"])
        for kind in AVERAGES:
            getattr(self._allocator, kind).update(_under(kind, tensors, device))
        self._allocator.ipt.update(getattr(self._allocator, AVERAGES[0]))  # PEFT looks there for what it has seen
        self.kept = _under("kept", tensors, device)


def _under(kind: str, tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    prefix = f"{kind}."
    return {name.removeprefix(prefix): tensor.to(device) for name, tensor in tensors.items() if name.startswith(prefix)}


class Adalora(PeftMethod):
    name = "adalora"
    Settings = AdaloraSettings
    peft_type = "ADALORA"
    adapter = AdaloraAdapter
    mergeable = True

    def config(self, model: PreTrainedModel, settings: AdaloraSettings) -> Any:
        from peft import AdaLoraConfig

        with quietly():
            return AdaLoraConfig(
                init_r=settings.init_rank,
                target_r=settings.target_rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=peft_targets(model, settings.targets),
                orth_reg_weight=settings.orthogonality,
                beta1=settings.beta1,
                beta2=settings.beta2,
                # PEFT counts in steps; ours is the share of any budget, said in millionths
                total_step=MILLION,
                tinit=int(MILLION * settings.warmup_share),
                tfinal=int(MILLION * settings.final_share),
                deltaT=settings.interval_steps,
            )

    def saved(self, folder: Path) -> Any:
        """Raises DataError where the ranks that are left are no truth values."""
        config = super().saved(folder)
        if not isinstance(config.rank_pattern or {}, dict):
            raise DataError(f"{folder}: {CONFIG}: rank_pattern is no object of truth values by layer")
        for name, kept in (config.rank_pattern or {}).items():
            if not isinstance(kept, list) or not all(isinstance(one, bool) for one in kept):
                raise DataError(f"{folder}: {CONFIG}: rank_pattern of {name[:100]} is no list of truth values")
        return config

    def attach(self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False) -> AdaloraAdapter:
        attached = super().attach(model, members, seeds, heads)
        assert isinstance(attached, AdaloraAdapter)
        attached.settings = members[0]
        return attached


method = Adalora()
