"""Prompts and their completions as token sequences; only completions carry loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from isolora.errors import ConfigError
from isolora.tasks.base import IGNORED, Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = list[int]
PROBED = 100
"""Words of a vocabulary that are tried to see what a tokenizer puts around a text."""


class Pair(NamedTuple):
    """A prompt in two parts, and its completion. Where the prompt is too long, `context` loses its end and then `question` its
    beginning. is_chat: the text has all its special tokens already, as a chat template writes them."""

    context: str
    question: str
    completion: str = ""
    is_chat: bool = False


def decoder_examples(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int, completion_room: int
) -> Examples:
    """Prompt and completion in one sequence of at most `max_length` tokens; completions take at most `completion_room` of them,
    and never more than half."""
    room = min(completion_room, max_length // 2)
    prompts = decoder_prompts(pairs, tokenizer, max_length - room)
    ends = [[] if pair.is_chat else _end(tokenizer) for pair in pairs]
    completions = _cut_completions([_with_space(pair) for pair in pairs], tokenizer, ends, room)
    return _one_a_document([after_prompt(*parts) for parts in zip(prompts, completions, strict=True)])


def decoder_prompts(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, room: int) -> list[Ids]:
    """Prompts of at most `room` tokens, begun as the tokenizer begins a text."""
    before, _ = special_tokens_around(tokenizer)
    prompts = _cut_prompts(pairs, tokenizer, room - len(before))
    return [prompt if pair.is_chat else begin(before, prompt) for pair, prompt in zip(pairs, prompts, strict=True)]


def encoder_decoder_examples(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int, completion_room: int, decoder_start: int
) -> Examples:
    """The decoder's inputs, labelled with the completion, and the prompts as second sequences for the encoder."""
    before, after = special_tokens_around(tokenizer)
    room = min(completion_room, max_length)
    ends = [after or _end(tokenizer)] * len(pairs)
    bodies = _cut_completions([pair.completion for pair in pairs], tokenizer, ends, room - len(before))
    targets = [begin(before, body) for body in bodies]
    sources = [(ids, [IGNORED] * len(ids)) for ids in encoder_prompts(pairs, tokenizer, max_length)]
    return _one_a_document([([decoder_start, *target[:-1]], target) for target in targets], second=Examples.of(sources))


def encoder_prompts(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, room: int) -> list[Ids]:
    """Prompts of at most `room` tokens with what the tokenizer puts around a text."""
    before, after = special_tokens_around(tokenizer)
    return [end(begin(before, prompt), after) for prompt in _cut_prompts(pairs, tokenizer, room - len(before) - len(after))]


def after_prompt(prompt: Ids, completion: Ids) -> tuple[Ids, Ids]:
    """(ids, labels) with the completion asked for."""
    return next_of(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def next_of(ids: Ids, asked: Sequence[bool]) -> tuple[Ids, Ids]:
    """(ids, labels) in which each position predicts the token that follows it, where that one is asked for."""
    labels = [entry if wanted else IGNORED for entry, wanted in zip(ids, asked, strict=True)]
    return ids, [*labels[1:], IGNORED]


def begin(before: Ids, ids: Ids) -> Ids:
    """A text behind the special tokens that begin one, unless it brings them along."""
    return ids if before and ids[: len(before)] == before else before + ids


def end(ids: Ids, after: Ids) -> Ids:
    """A text with the special tokens that end one, unless it brings them along."""
    return ids if after and ids[-len(after) :] == after else ids + after


def special_tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[Ids, Ids]:
    """What the tokenizer puts in front of a text and behind it. Raises ConfigError for one that makes nothing of any text, as
    transformers' own class for a model does with the files of another."""
    for text in _probe_texts(tokenizer):
        bare, whole = tokenizer(text, add_special_tokens=False).input_ids, tokenizer(text).input_ids
        for start in range(len(whole)) if bare else ():
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    kind = type(tokenizer).__name__
    raise ConfigError(f"model: its tokenizer ({kind}) makes no tokens of a text; the files of the tokenizer are of another kind")


def _probe_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """A text that nearly every tokenizer knows, then words of its own, for those of other alphabets."""
    yield "a"
    vocabulary = tokenizer.get_vocab()
    own = sorted(vocabulary.keys() - set(tokenizer.all_special_tokens), key=lambda word: vocabulary[word])
    yield from own[:PROBED]


def ids_without_special_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Token ids of texts with nothing around them."""
    found: list[Ids] = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return found


def _cut_prompts(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, room: int) -> list[Ids]:
    contexts = ids_without_special_tokens([pair.context for pair in pairs], tokenizer)
    questions = [
        ids[max(0, len(ids) - room) :] for ids in ids_without_special_tokens([pair.question for pair in pairs], tokenizer)
    ]
    return [context[: max(0, room - len(question))] + question for context, question in zip(contexts, questions, strict=True)]


def _cut_completions(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, ends: Sequence[Ids], room: int) -> list[Ids]:
    """A completion that is cut does not end."""
    return [end(ids, mark)[:room] for ids, mark in zip(ids_without_special_tokens(texts, tokenizer), ends, strict=True)]


def _end(tokenizer: PreTrainedTokenizerBase) -> Ids:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _with_space(pair: Pair) -> str:
    """The completion with a space in front where prompt and completion would else run together: pretraining has seen words so."""
    touching = not pair.is_chat and (pair.context + pair.question)[-1:].strip() and pair.completion[:1].strip()
    return f" {pair.completion}" if touching else pair.completion


def _one_a_document(rows: Sequence[tuple[Ids, Ids]], **more: object) -> Examples:
    return Examples.of(rows, documents=np.arange(len(rows)), **more)
