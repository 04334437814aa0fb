"""Tasks that answer a prompt with a text, on decoders and on encoder-decoders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from isolora.errors import ConfigError
from isolora.metrics.predictions import Predictions
from isolora.tasks.base import IGNORED, Batch, Batches, Examples, Loss, Task
from isolora.tasks.causal import causal_class, causal_loss
from isolora.tasks.cross_entropy import from_logits
from isolora.tasks.pairs import Pair, decoder_examples, decoder_prompts, encoder_decoder_examples, encoder_prompts
from isolora.tasks.text_generation import generate_texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents


class PromptedSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    max_new_tokens: int = Field(64, ge=1, description="longest completion in tokens, learnt or generated")
    num_beams: int = Field(1, ge=1, description="beams of the generation that is scored; 1 is greedy")
    score_examples: int = Field(100, ge=1, description="held-out examples that completions are generated for")
    score_at: Literal["end", "points"] = Field("end", description="when they are generated: at the end, or at every point (slow)")


class Prompted(Task):
    """Prompts and their completions; scored by what is generated."""

    predicts_tokens: ClassVar[bool] = True
    Settings: ClassVar[type[BaseModel]] = PromptedSettings

    @property
    def scored_at(self) -> str:
        return str(self.settings.score_at)

    @property
    def second(self) -> str | None:
        return "source" if self._encoder_decoder else None

    @property
    def _encoder_decoder(self) -> bool:
        return bool(getattr(self.architecture, "is_encoder_decoder", False))

    def auto_class(self, architecture: PretrainedConfig) -> str:
        return "AutoModelForSeq2SeqLM" if architecture.is_encoder_decoder else causal_class(architecture)

    @abstractmethod
    def pairs(self, documents: Documents) -> list[Pair]:
        """A prompt and its completion for each document. Raises DataError, naming the row, where it has none."""

    @abstractmethod
    def prompt(self, text: str) -> Pair:
        """A person's text as a prompt."""

    @abstractmethod
    def rate(self, references: Sequence[str], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Scores of each generated text against the data's own."""

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        pairs, room = self.pairs(documents), self.settings.max_new_tokens
        if not self._encoder_decoder:
            return decoder_examples(pairs, tokenizer, max_length, room)
        return encoder_decoder_examples(pairs, tokenizer, max_length, room, decoder_start(self.architecture))

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        return causal_loss(model, batch) if batch.second is None else encoder_decoder_loss(model, batch, batch.second)

    def prompt_ids(self, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
        prompts = encoder_prompts if self._encoder_decoder else decoder_prompts
        return prompts([self.prompt(text)], tokenizer, room)[0]

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        _, references, predictions = self.generated(model, examples, documents, tokenizer)
        return Predictions.of_means(self.rate(references, predictions))

    def generated(
        self, model: PreTrainedModel, examples: Examples, documents: Documents, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[int], list[str], list[str]]:
        """(document, its own completion, the model's) of the examples that are scored."""
        assert examples.documents is not None
        chosen = range(min(self.settings.score_examples, len(examples)))
        prompts = [prompt_of(examples, number) for number in chosen]
        predictions = generate_texts(model, prompts, tokenizer, self.settings.max_new_tokens, self.settings.num_beams)
        pairs, rows = self.pairs(documents), [int(examples.documents[number]) for number in chosen]
        return rows, [pairs[row].completion for row in rows], predictions


def prompt_of(examples: Examples, number: int) -> list[int]:
    """What an example shows the model before anything is asked of it: the encoder's input, or all up to the first label."""
    shown = examples if examples.second is None else examples.second
    row = slice(shown.starts[number], shown.starts[number + 1])
    if shown is examples:
        row = slice(row.start, row.start + int((examples.labels[row] != IGNORED).argmax()) + 1)
    return [int(entry) for entry in shown.ids[row]]


def encoder_decoder_loss(model: PreTrainedModel, batch: Batch, source: Batch) -> Loss:
    """Every position of the decoder predicts; its padding is on the right, where it is not looked at."""
    logits = model(
        input_ids=source.input_ids, attention_mask=source.attention_mask, decoder_input_ids=batch.input_ids, use_cache=False
    ).logits
    rows = logits.flatten(0, 1).index_select(0, batch.positions)
    objective, losses = from_logits(rows, batch.targets, batch.row_weights[batch.target_rows])
    return Loss.of(objective, losses, batch)


def decoder_start(architecture: PretrainedConfig) -> int:
    """What the decoder of an encoder-decoder begins with."""
    start = getattr(architecture, "decoder_start_token_id", None)
    if start is None:
        raise ConfigError(f"model: {architecture.model_type} has no decoder_start_token_id in its config.json")
    return int(start)
