"""Text out of a model with its adapters: continued by a decoder, answered where an encoder reads the prompt."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList, TextStreamer

from isolora.errors import ConfigError, UserError, in_brief
from isolora.json_types import JsonObject
from isolora.models import Base
from isolora.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0, else sampled with the seed."""

    max_new_tokens: int = 80
    temperature: float = 0.0
    seed: int = 0

    def options(self) -> JsonObject:
        if self.temperature > 0:
            return {"do_sample": True, "temperature": self.temperature}
        return {"do_sample": False}


@dataclass(frozen=True)
class Writer:
    """A model with its adapters, and how many tokens it takes in one piece."""

    model: PreTrainedModel
    base: Base
    positions: int

    @property
    def reads_first(self) -> bool:
        """Whether an encoder reads the prompt, so that the answer has all positions to itself."""
        return bool(self.base.model.config.is_encoder_decoder)

    def room(self, how: Sampling) -> int:
        """How many tokens of prompt leave the answer its room; of shared positions the answer gets half at most."""
        return self.positions if self.reads_first else self.positions - min(how.max_new_tokens, self.positions // 2)

    def texts(self, prompts: Sequence[tuple[Task, str]], how: Sampling) -> list[str]:
        """New text for each prompt, which is put to the model as its task has taught it to read one."""
        tokenizer, room = self.base.tokenizer, self.room(how)
        rows = [task.prompt_ids(prompt, tokenizer, room) or [_start(tokenizer)] for task, prompt in prompts]
        return [tokenizer.decode(row, skip_special_tokens=True) for row in self.ids(rows, how)]

    def ids(self, prompts: Sequence[Sequence[int]], how: Sampling, teller: Teller | None = None) -> Tensor:
        """New tokens [prompts, length]. Raises ConfigError where the model writes none, or a prompt leaves no room."""
        if not self.base.model.can_generate():
            raise ConfigError(
                f"generate: {type(self.base.model).__name__} scores texts and writes none; isolora classify or eval asks it"
            )
        ids, mask = self._padded(prompts)
        left = self.positions - (1 if self.reads_first else ids.shape[1])
        if left < 1 or ids.shape[1] > self.positions:
            raise ConfigError(f"prompt: {ids.shape[1]} tokens leave no room in the model's {self.positions} positions")
        torch.manual_seed(how.seed)
        with _own_settings(self.base), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Position ids are not supported")  # PEFT counts them itself behind virtual tokens
            made: Tensor = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=min(left, how.max_new_tokens),
                pad_token_id=self.base.pad_id,
                eos_token_id=_ends(self.base) or None,
                streamer=teller,
                stopping_criteria=StoppingCriteriaList([] if teller is None else [teller.stops]),
                **how.options(),
            )
        return made[:, 1 if self.reads_first else ids.shape[1] :]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask) [prompts, longest]: a decoder goes on from the right end of its row, an encoder reads from the left."""
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), self.base.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            own = slice(0, len(prompt)) if self.reads_first else slice(longest - len(prompt), longest)
            ids[row, own], mask[row, own] = torch.tensor(prompt), 1
        device = next(self.base.model.parameters()).device
        return ids.to(device), mask.to(device)


@contextmanager
def _own_settings(base: Base) -> Iterator[None]:
    """A base's `generation_config.json` may say anything; transformers finds out while it writes."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as failure:
        if isinstance(failure, UserError) or "out of memory" in str(failure):
            raise
        line = in_brief(failure)
        raise ConfigError(f"generate: {base.name} cannot write ({type(failure).__name__}: {line})") from failure


def _ends(base: Base) -> list[int]:
    """What ends a text: the tokenizer's end, which training puts there, and the model's own, of which chats have several."""
    own = base.model.generation_config.eos_token_id
    found = [base.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({end for end in found if isinstance(end, int)})


def _start(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands in front of a text when there is no prompt."""
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if start is not None:
            return int(start)
    raise ConfigError("prompt: empty, and this model's tokenizer has no token that starts a text")


class Teller(TextStreamer):  # type: ignore[misc]
    """Hands text to `say` as it is made, up to the first `stop`, which ends the writing and is not said."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, say: Any, stop: str = "") -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.say, self.stop = say, stop
        self.text, self.said, self.stopped = "", 0, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        found = self.text.find(self.stop) if self.stop else -1
        self.stopped = found >= 0
        until = found if self.stopped else len(self.text) - (0 if stream_end else self._held())
        if until > self.said:
            self.say(self.text[self.said : until])
            self.said = until

    def _held(self) -> int:
        """How many characters at the end may be the beginning of `stop`."""
        lengths = range(len(self.stop) - 1, 0, -1)
        return next((length for length in lengths if self.text.endswith(self.stop[:length])), 0)

    def stops(self, ids: Tensor, scores: Any, **_: object) -> Tensor:
        """A stopping criterion of transformers: one answer a row."""
        return torch.full((len(ids),), self.stopped, device=ids.device)
