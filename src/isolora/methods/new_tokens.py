"""New tokens beside any method: each member trains their rows of the embeddings and of the output head.

The base's own matrices are not resized but looked past: it stays the same base for everybody. Kept in a file of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from isolora.errors import DataError
from isolora.json_types import JsonObject
from isolora.methods.adapter_files import NEW_TOKENS, read_tensors
from isolora.methods.base import Attached, ParameterGroup, Span
from isolora.methods.low_rank import Rows

NOISE = 0.02
"""Of the embeddings' own spread: enough to tell new tokens apart, as little as transformers adds when it resizes."""


class OwnRows(nn.Module):
    """Rows [count, width] of every member for the entries first, first + 1, ...; the bare base sees those they started from."""

    start: Tensor

    def __init__(self, like: Tensor, first: int, count: int, batch_rows: Rows, seeds: Sequence[int]) -> None:
        super().__init__()
        self.first, self.count, self.batch_rows = first, count, batch_rows
        known = like.detach()[:first]
        self.register_buffer("start", known.mean(0).expand(count, -1).clone(), persistent=False)
        self.members = nn.ParameterList()
        for seed in seeds:
            noise = torch.empty(count, known.shape[1]).normal_(generator=torch.Generator().manual_seed(seed)).to(known.device)
            self.members.append(nn.Parameter(self.start + NOISE * known.std(0) * noise))

    def segments(self, rows: int, tokens: int) -> Iterator[tuple[Tensor, int, int]]:
        """(rows in force, first token, token after the last), one after the other over all of a batch's tokens."""
        reached = 0
        for member, start, stop in self.batch_rows.token_spans(rows, tokens):
            if reached < start:
                yield self.start, reached, start
            yield self.members[member], start, stop
            reached = stop
        if reached < tokens:
            yield self.start, reached, tokens


class Longer(nn.Module):
    """A part of the base with more entries; its `weight` stays the base's."""

    def __init__(self, base: nn.Module, own: OwnRows) -> None:
        super().__init__()
        self.base, self.own = base, own

    @property
    def weight(self) -> Any:
        return self.base.weight


class LongerEmbedding(Longer):
    """The base's embedding, with more entries."""

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1)
        places = flat - self.own.first
        new = (places >= 0) & (places < self.own.count)
        y: Tensor = self.base(ids.masked_fill(new.view(ids.shape), 0))
        places = places.masked_fill(~new, 0)
        parts = [rows[places[start:stop]] for rows, start, stop in self.own.segments(len(ids), len(flat))]
        scale = getattr(self.base, "embed_scale", 1)  # some models scale what they look up
        return torch.where(new.view(*ids.shape, 1), torch.cat(parts).view(y.shape).to(y.dtype) * scale, y)


class LongerHead(Longer):
    """The base's output head, with more logits."""

    @property
    def bias(self) -> Any:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        known = self.base(x)
        flat = x.reshape(-1, x.shape[-1])
        parts = [flat[start:stop] @ rows.to(x.dtype).T for rows, start, stop in self.own.segments(len(x), len(flat))]
        new = torch.cat(parts).view(*x.shape[:-1], self.own.count)
        first, stop = self.own.first, self.own.first + self.own.count
        return torch.cat([known[..., :first], new.to(known.dtype), known[..., stop:]], -1)


class NewTokens(Attached):
    """A method's adapters and the rows of new tokens, entries `first` to `first + count`, beside them."""

    def __init__(self, adapters: Attached, first: int, count: int, seeds: Sequence[int]) -> None:
        self.adapters, self.model, self.members = adapters, adapters.model, adapters.members
        self.first, self.count, self._rows = first, count, Rows()
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        self.own = {"input": OwnRows(embedding.weight, first, count, self._rows, seeds)}
        self.model.set_input_embeddings(LongerEmbedding(embedding, self.own["input"]))
        if head is not None:
            if head.weight is not embedding.weight:
                self.own["output"] = OwnRows(head.weight, first, count, self._rows, seeds)
            self.model.set_output_embeddings(LongerHead(head, self.own.get("output", self.own["input"])))
        self._logits_bias = getattr(self.model, "final_logits_bias", None)  # BART and its kin add it behind the head
        if self._logits_bias is not None:
            missing = max(0, first + count - self._logits_bias.shape[-1])
            self.model.register_buffer("final_logits_bias", nn.functional.pad(self._logits_bias, (0, missing)))

    def groups(self, member: int) -> list[ParameterGroup]:
        return [*self.adapters.groups(member), ParameterGroup([own.members[member] for own in self.own.values()])]

    @contextmanager
    def rows(self, spans: Sequence[Span]) -> Iterator[None]:
        with ExitStack() as both:
            contexts: list[AbstractContextManager[None]] = [self.adapters.rows(spans), self._rows.assigned(spans)]
            for context in contexts:
                both.enter_context(context)
            yield

    def save(self, member: int, folder: Path) -> None:
        self.adapters.save(member, folder)
        tensors = {name: own.members[member].detach().cpu().clone() for name, own in self.own.items()}
        save_file(tensors, str(folder / NEW_TOKENS), metadata={"format": "pt"})

    def fill(self, member: int, folder: Path) -> None:
        """Read one member's rows. Raises DataError where they do not fit."""
        tensors = read_tensors(folder / NEW_TOKENS)
        for name, own in self.own.items():
            needed = own.members[member].shape
            if name not in tensors or tensors[name].shape != needed:
                raise DataError(f"{folder}: {NEW_TOKENS} has no {name} of shape {tuple(needed)}")
            own.members[member].data.copy_(tensors[name])

    def merge(self, member: int) -> Any:
        """The plain model with embeddings as long as they have to be."""
        self._give_back()
        model = self.adapters.merge(member)
        if self.first + self.count > len(model.get_input_embeddings().weight):
            model.resize_token_embeddings(self.first + self.count, mean_resizing=False)
        head = model.get_output_embeddings()
        self._enter(member, "input", model.get_input_embeddings().weight)
        if head is not None:  # merging may have given it a matrix of its own
            self._enter(member, "output" if "output" in self.own else "input", head.weight)
        return model

    def _enter(self, member: int, which: str, matrix: Tensor) -> None:
        matrix.data[self.first : self.first + self.count] = self.own[which].members[member].detach()

    def detach(self) -> None:
        self._give_back()
        self.adapters.detach()

    def _give_back(self) -> None:
        self.model.set_input_embeddings(self.model.get_input_embeddings().base)
        if self.model.get_output_embeddings() is not None:
            self.model.set_output_embeddings(self.model.get_output_embeddings().base)
        if self._logits_bias is not None:
            self.model.register_buffer("final_logits_bias", self._logits_bias)

    def extra_loss(self) -> Tensor | None:
        return self.adapters.extra_loss()

    def after_step(self, member: int, spent: float) -> None:
        self.adapters.after_step(member, spent)

    def facts(self, member: int) -> JsonObject:
        return self.adapters.facts(member)

    def state(self) -> dict[str, Tensor]:
        return self.adapters.state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.adapters.load_state(tensors)

    def train(self, on: bool) -> None:
        self.adapters.train(on)

    def generators(self) -> JsonObject:
        return self.adapters.generators()
