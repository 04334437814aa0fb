"""Direct preference optimisation: a chosen answer over a rejected one (Rafailov et al. 2305.18290)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from isolora.errors import DataError
from isolora.json_types import JsonMapping
from isolora.metrics.predictions import Predictions
from isolora.tasks.base import Batch, Batches, Examples, Loss, Task, once_a_batch
from isolora.tasks.causal import causal_class, causal_logits
from isolora.tasks.chat_templates import common_prefix, conversation_problem, prompt_and_answer, template_of
from isolora.tasks.pairs import Pair, decoder_examples, decoder_prompts
from isolora.tasks.prompt_templates import Template
from isolora.tasks.rows import make_each, text_problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents

LAST_SPACE = re.compile(r"\s\S*\Z")


class PreferenceSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    beta: float = Field(0.1, gt=0, description="weight of the penalty on moving away from the base model")
    loss_type: Literal["sigmoid", "ipo"] = Field("sigmoid", description="sigmoid: DPO; ipo: squared (Azar et al. 2310.12036)")
    max_completion_tokens: int = Field(256, ge=1, description="longest answer in tokens")
    template: Template | None = Field(
        None,
        description="chat template in Jinja, or a file that holds it, for answers that are turns; the tokenizer's when absent",
    )


class Preference(Task):
    """`values` are log-probabilities [rows, 2] of the chosen and the rejected answer under the bare base."""

    name: ClassVar[str] = "preference"
    Settings: ClassVar[type[BaseModel]] = PreferenceSettings
    columns: ClassVar[Mapping[str, bool]] = {"system": False, "prompt": False, "chosen": True, "rejected": True}
    uses_reference: ClassVar[bool] = True
    mean_over: ClassVar[str] = "examples"

    @property
    def second(self) -> str | None:
        return "rejected"

    def auto_class(self, architecture: PretrainedConfig) -> str:
        return causal_class(architecture)

    def problem(self, row: JsonMapping) -> str:
        same = "chosen equals rejected" if row["chosen"] == row["rejected"] else ""
        if not isinstance(row["chosen"], list):
            if self.settings.template is not None:
                return "task.template is for answers given as turns ({role, content}), and these are texts"
            return text_problem(row, *SIDES, *(["prompt"] if "prompt" in row else []), optional=("system",)) or same
        prompt = _turns(row.get("prompt"))
        found = [conversation_problem([*prompt, *(row[side] or [])], side) for side in SIDES]
        return next(filter(None, found), same or _answers_problem(row))

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        template, room = template_of(self.settings.template, tokenizer), self.settings.max_completion_tokens
        pairs = list(make_each(self, documents, lambda row: both_pairs(row, tokenizer, template)))
        chosen, rejected = (decoder_examples(side, tokenizer, max_length, room) for side in zip(*pairs, strict=True))
        return replace(chosen, second=rejected)

    def labels_by_document(self, examples: Examples, count: int) -> NDArray[np.int64]:
        """Of the answer that has fewer: without either there is nothing to compare, nor where both are cut before they differ."""
        second = examples.second
        assert second is not None
        fewer: NDArray[np.int64] = np.minimum(examples.label_counts - second.label_counts, second.label_counts)
        sides = zip(np.split(examples.ids, examples.starts[1:-1]), np.split(second.ids, second.starts[1:-1]), strict=True)
        return np.where([np.array_equal(*pair) for pair in sides], 0, fewer)

    def nothing_to_learn(self, max_length: int) -> str:
        limits = f"{max_length} tokens (data.max_length) and {self.settings.max_completion_tokens} (task.max_completion_tokens)"
        return f"an answer of which no token lies, or two that do not differ, within {limits}"

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        gains = self._gains(model, batch)
        if self.settings.loss_type == "ipo":
            gains = gains / label_counts(batch)  # per token, as the authors advised TRL
            losses = (gains[:, 0] - gains[:, 1] - 1 / (2 * self.settings.beta)) ** 2
        else:
            losses = -logsigmoid(self.settings.beta * (gains[:, 0] - gains[:, 1]))
        return Loss((losses * batch.row_weights).sum(), losses.detach())

    def prompt_ids(self, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
        return decoder_prompts([Pair("", text)], tokenizer, room)[0]

    def reference(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        assert batch.second is not None
        return torch.stack([log_probabilities(model, batch), log_probabilities(model, batch.second)], 1)

    @once_a_batch
    def _gains(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Log-probability of both answers [rows, 2] minus that under the base, in nats."""
        assert batch.values is not None
        return self.reference(model, batch) - batch.values

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        """Rewards are beta times the gain in log-probability over the base; ties count as wrong."""
        found = [(indices, self._gains(model, batch)) for indices, batch in batches()]
        order = np.argsort(np.concatenate([indices for indices, _ in found]))
        gains = torch.cat([gains for _, gains in found]).double()
        chosen, rejected = (self.settings.beta * gains).cpu().numpy()[order].T
        return Predictions.of_means(
            {
                "reward_accuracy": chosen > rejected,
                "reward_margin": chosen - rejected,
                "chosen_reward": chosen,
                "rejected_reward": rejected,
            }
        )


SIDES = ("chosen", "rejected")


def split_answers(row: JsonMapping) -> tuple[Any, Any, Any]:
    """(prompt, chosen answer, rejected answer); what both begin with is the prompt where none is given. A system prompt in a
    column of its own stands in front."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None:
        start = common_prefix(chosen, rejected)
        if isinstance(chosen, str):
            space = LAST_SPACE.search(chosen, 0, start)
            start = space.start() if space else 0  # no word is cut in two
        prompt, chosen, rejected = chosen[:start], chosen[start:], rejected[start:]
    system = row.get("system")
    if isinstance(chosen, list):
        prompt = _turns(prompt)
        own = bool(prompt) and isinstance(prompt[0], dict) and prompt[0].get("role") == "system"
        return [{"role": "system", "content": system}, *prompt] if system and not own else prompt, chosen, rejected
    return f"{system}\n\n{prompt}" if system else prompt, chosen, rejected


def _turns(prompt: Any) -> list[Any]:
    """A prompt as turns; a text is a user's."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or ())


def _answers_problem(row: JsonMapping) -> str:
    """DPO compares two answers to one prompt."""
    for side, answer in zip(SIDES, split_answers(row)[1:], strict=True):
        if [turn["role"] for turn in answer] != ["assistant"]:
            return f"{side}: {len(answer)} turns follow the prompt; one turn of the assistant is compared with another"
    return ""


def both_pairs(row: JsonMapping, tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[Pair, Pair]:
    """Chosen and rejected answer, each behind its prompt. Raises DataError where a template writes two prompts."""
    prompt, *answers = split_answers(row)
    if isinstance(row["chosen"], str):
        chosen, rejected = (Pair("", prompt, answer) for answer in answers)
        return chosen, rejected
    chosen, rejected = (prompt_and_answer(prompt, answer, tokenizer, template) for answer in answers)
    if chosen.question != rejected.question:
        raise DataError("task.template: the chat template writes one prompt before chosen and another before rejected")
    return chosen, rejected


def log_probabilities(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Sum over the labelled tokens of each row: [rows], in nats."""
    losses = cross_entropy(causal_logits(model, batch).float(), batch.targets, reduction="none")
    return -losses.new_zeros(len(batch.row_weights)).index_add(0, batch.target_rows, losses)


def label_counts(batch: Batch) -> Tensor:
    """Labelled tokens [rows, 2] of both answers."""
    assert batch.second is not None
    none = batch.row_weights.new_zeros(len(batch.row_weights))  # bincount is unknown to the meta device
    both = (batch.target_rows, batch.second.target_rows)
    return torch.stack([none.index_add(0, rows, none.new_ones(len(rows))) for rows in both], 1)


task = Preference()
