"""Extractive question answering: where in a text the answer is, or that there is none (SQuAD, 1606.05250 and 1806.03822)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import MODEL_FOR_QUESTION_ANSWERING_MAPPING as QUESTION_HEADS
from transformers import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING as TOKEN_HEADS

from isolora.errors import ConfigError, DataError
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.predictions import Predictions
from isolora.metrics.squad import per_question, v2_questions
from isolora.tasks.base import IGNORED, Batch, Batches, Examples, Loss, Task, once_a_batch
from isolora.tasks.class_heads import Window, answer_windows, class_options, head_class, inputs, with_separator
from isolora.tasks.rows import is_blank, text_problem, usable_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents

START, END = 1, 2
"""Labels of the answer's first and last token; their sum where one token is both."""


class QuestionAnsweringSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    overlap: float = Field(0.33, ge=0, lt=1, description="share of a long context's window that the next window sees again")
    max_question_tokens: int = Field(64, ge=1, description="where longer questions are cut, in tokens")
    max_answer_tokens: int = Field(30, ge=1, description="longest answer that is considered, in tokens")


class Reading(NamedTuple):
    """A question and its context as tokens.

    offsets: (first character, character after the last) of each of the context's tokens; answer_text: the first true answer, ""
    where there is none; answer: (first token, token after the last) of it, None where the tokenizer leaves none.
    """

    question: list[int]
    context: list[int]
    offsets: list[tuple[int, int]]
    answer_text: str
    answer: Window | None


class Answer(NamedTuple):
    """A predicted answer: its logit, that of there being none, its first character and the character after its last."""

    logit: float
    none: float
    span: tuple[int, int]


class QuestionAnswering(Task):
    """A question and a window of its context; an answer that is not wholly in the window is at its first token."""

    name: ClassVar[str] = "question-answering"
    Settings: ClassVar[type[BaseModel]] = QuestionAnsweringSettings
    columns: ClassVar[Mapping[str, bool]] = {"id": False, "question": True, "context": True, "answers": True}
    new_head: ClassVar[bool] = True
    mean_over: ClassVar[str] = "examples"

    def auto_class(self, architecture: PretrainedConfig) -> str:
        """A token head of two classes is the same model as a question head; it stands in where transformers' own leaves a
        checkpoint's body unread, as Llama's and Qwen's do, or has no body apart, as T5's."""
        name = head_class("QuestionAnswering", architecture)
        own, token = (mapping.get(type(architecture), None) for mapping in (QUESTION_HEADS, TOKEN_HEADS))
        if not own or not token or (own.base_model_prefix == token.base_model_prefix and not architecture.is_encoder_decoder):
            return name
        return head_class("TokenClassification", architecture)

    def model_options(self) -> JsonObject:
        return class_options(("start", "end"))

    def problem(self, row: JsonMapping) -> str:
        if problem := text_problem(row, "question", "context"):
            return problem
        return answers_problem(row["answers"], row["context"])

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        frame, second_kind = special_tokens_of_pairs(tokenizer)
        rows, numbers, seconds = [], [], []
        for number, reading in enumerate(self._readings(documents, tokenizer)):
            head = [*frame[0], *reading.question, *frame[1]]
            cut = answer_windows(len(reading.context), max_length - len(head) - len(frame[2]), self.settings.overlap)
            within = [_within(reading.answer, start, stop, len(head)) for start, stop in cut]
            if reading.answer_text and not any(within):
                problem = f"the answer {reading.answer_text!r} is in no window of the context (data.max_length {max_length})"
                raise DataError(f"data: {documents.origin(number)}: {problem}")
            for (start, stop), answer in zip(cut, within, strict=True):
                ids = [*head, *reading.context[start:stop], *frame[2]]
                rows.append((ids, _labels(len(ids), answer)))
                numbers.append(number)
                seconds.append([len(head)])
        values = np.array(seconds, np.float32) if second_kind else None
        return Examples.of(rows, documents=np.array(numbers), values=values)

    def _readings(self, documents: Documents, tokenizer: PreTrainedTokenizerBase) -> Iterator[Reading]:
        if not tokenizer.is_fast:
            raise ConfigError("model: question answering needs a fast tokenizer (tokenizer.json)")
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        rows = list(usable_rows(self, documents))
        questions = tokenizer(with_separator(tokenizer, [row["question"].strip() for row in rows]), **options)["input_ids"]
        contexts = tokenizer([row["context"] for row in rows], return_offsets_mapping=True, **options)
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            context, offsets = contexts["input_ids"][number], contexts["offset_mapping"][number]
            if not context:
                raise DataError(f"data: {documents.origin(number)}: context gives no token with this tokenizer")
            text, start = first_answer(row["answers"])
            question = question[: self.settings.max_question_tokens]
            yield Reading(question, context, offsets, text, _tokens_of(start, start + len(text), offsets))

    def labelled_text(self, ids: NDArray[np.int32], labels: NDArray[Any], tokenizer: PreTrainedTokenizerBase) -> str:
        """The answer's tokens; the first token of all where there is none."""
        marked = np.flatnonzero(labels != IGNORED)
        return str(tokenizer.decode(ids[marked[0] : marked[-1] + 1]))

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        """Mean of the cross-entropies of start and end over a window's tokens."""
        rows = torch.zeros(len(batch.lengths), device=batch.lengths.device)
        for label, logits in zip((START, END), span_logits(model, batch), strict=True):
            here = torch.zeros_like(logits).flatten().index_put((batch.positions,), (batch.targets // label % 2).float())
            rows = rows - torch.where(here.view_as(logits) > 0, logits.log_softmax(1), 0.0).sum(1) / 2
        return Loss((rows * batch.row_weights).sum(), rows.detach())

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        """f1 and exact match; where some questions have no answer, v2's scores, in which one is given when it beats none."""
        logits: dict[int, NDArray[np.float32]] = {}
        for indices, batch in batches():
            both = torch.stack(span_logits(model, batch), 1).cpu().numpy()
            logits |= {int(i): both[row, :, : examples.lengths[i]] for row, i in enumerate(indices)}
        found = list(self._answers(logits, documents, tokenizer))
        wanted = [list((answers or {}).get("text") or []) for answers in documents.fields["answers"]]
        predicted = [context[slice(*answer.span)] for context, answer in zip(documents.fields["context"], found, strict=True)]
        if all(wanted):
            exact, shared = per_question(wanted, predicted)
            return Predictions.of_means({"f1": shared, "exact": exact})
        questions = v2_questions(wanted, predicted, np.array([answer.none - answer.logit for answer in found]))
        return Predictions(len(found), lambda rows: _f1_first(questions.scores(rows)))

    def _answers(
        self, logits: Mapping[int, NDArray[np.float32]], documents: Documents, tokenizer: PreTrainedTokenizerBase
    ) -> Iterator[Answer]:
        """For each document the best answer in any of its windows. logits [2, tokens] of every window, in their order."""
        frame, _ = special_tokens_of_pairs(tokenizer)
        number = 0
        for reading in self._readings(documents, tokenizer):
            head = len(frame[0]) + len(reading.question) + len(frame[1])
            room = logits[number].shape[1] - head - len(frame[2])  # the first window of a long context is full
            answers = []
            for start, stop in answer_windows(len(reading.context), room, self.settings.overlap):
                own = logits[number][:, head : head + stop - start]
                first, last = best_span(own[0], own[1], self.settings.max_answer_tokens)
                span = (reading.offsets[start + first][0], reading.offsets[start + last][1])
                answers.append(Answer(float(own[0, first] + own[1, last]), float(logits[number][:, 0].sum()), span))
                number += 1
            yield max(answers)._replace(none=min(answer.none for answer in answers))


def _f1_first(scores: dict[str, float]) -> dict[str, float]:
    return {"f1": scores.pop("f1"), **scores}


def special_tokens_of_pairs(tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], bool]:
    """Special tokens before, between and behind two texts, and whether the tokenizer marks the second text's tokens."""
    probe = tokenizer("a", "b")
    parts: list[list[int]] = [[], [], []]
    behind = 0
    for entry, text in zip(probe["input_ids"], probe.sequence_ids(), strict=True):
        if text is None:
            parts[behind].append(entry)
        else:
            behind = text + 1
    return parts, 1 in probe.get("token_type_ids", ())


@once_a_batch
def span_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of start and of end [rows, length], padding ruled out, and virtual tokens in front left out."""
    given = inputs(batch)
    outputs, padding = model(**given), given["attention_mask"] == 0
    both = outputs.logits.unbind(-1) if "logits" in outputs else (outputs.start_logits, outputs.end_logits)
    start, end = (logits[:, -padding.shape[1] :].float().masked_fill(padding, -torch.inf) for logits in both)
    return start, end


def best_span(start: NDArray[np.float32], end: NDArray[np.float32], longest: int) -> tuple[int, int]:
    """First and last token of the likeliest span of at most `longest` tokens, from logits [tokens] of start and of end."""
    sums = start[:, None] + end
    allowed = np.triu(np.ones(sums.shape, bool)) & ~np.triu(np.ones(sums.shape, bool), longest)
    first, last = np.unravel_index(np.where(allowed, sums, -np.inf).argmax(), sums.shape)
    return int(first), int(last)


FORM = '{"text": [...], "answer_start": [...]}'


def answers_problem(answers: object, context: str) -> str:
    """Why the true answers to a question cannot be used, in a few words; empty where they can, or where there are none."""
    if answers is None:
        return ""
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= answers.keys():
        return f"answers is no {FORM} (it holds {type(answers).__name__})"
    texts, starts = (answers[name] if answers[name] is not None else [] for name in ("text", "answer_start"))
    if not isinstance(texts, list) or not isinstance(starts, list):
        return f"answers is no {FORM} (it holds {type(texts).__name__} and {type(starts).__name__})"
    if len(texts) != len(starts):
        return f"answers has {len(texts)} texts but {len(starts)} starts"
    return next(filter(None, (_answer_problem(*pair, context) for pair in zip(texts, starts, strict=True))), "")


def _answer_problem(text: Any, start: Any, context: str) -> str:
    if not isinstance(text, str) or is_blank(text):
        return "an answer is empty" if isinstance(text, str) else f"an answer holds {type(text).__name__}, not text"
    whole = type(start) is int or (isinstance(start, float) and start.is_integer())
    if not whole or start < 0:
        return f"answer_start {start!r} of {text!r} is no place in the context"
    found = context[int(start) : int(start) + len(text)] == text
    return "" if found else f"answer {text!r} is not at character {int(start)} of its context"


def first_answer(answers: Any) -> tuple[str, int]:
    """(text, first character) of the first true answer, which is learnt; ("", 0) where there is none."""
    texts, starts = ((answers or {}).get(name) or [] for name in ("text", "answer_start"))
    return (texts[0], int(starts[0])) if texts else ("", 0)


def _tokens_of(start: int, stop: int, offsets: Sequence[tuple[int, int]]) -> Window | None:
    """First token and token after the last of these characters; None where there is none."""
    inside = [place for place, (first, last) in enumerate(offsets) if first < stop and last > start]
    return (inside[0], inside[-1] + 1) if inside else None


def _within(answer: Window | None, start: int, stop: int, head: int) -> Window | None:
    """The answer's places in a window that shows the context's tokens from `start` to `stop` behind `head` others."""
    if answer is None or answer[0] < start or answer[1] > stop:
        return None
    return answer[0] - start + head, answer[1] - start + head


def _labels(tokens: int, answer: Window | None) -> list[int]:
    """Labels of a window's tokens. answer: as places in the window; None where it is not in it."""
    first, stop = answer or (0, 1)
    labels = [0] * tokens
    labels[first] += START
    labels[stop - 1] += END
    return [label or IGNORED for label in labels]


task = QuestionAnswering()
