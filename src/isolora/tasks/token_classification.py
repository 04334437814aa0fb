"""Token classification: a tag for every word, entities as BIO tags (Ramshaw and Marcus cmp-lg/9505040)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import softmax
from torch import Tensor

from isolora.errors import ConfigError, DataError, unknown
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.entities import entities_of, entity_counts, repair
from isolora.metrics.predictions import Predictions
from isolora.tasks.base import IGNORED, Batch, Batches, Examples, Loss, once_a_batch
from isolora.tasks.causal import is_encoder
from isolora.tasks.class_heads import (
    Classes,
    Classifier,
    answer_windows,
    class_names,
    class_options,
    head_class,
    inputs,
    scored_parts,
)
from isolora.tasks.cross_entropy import from_logits
from isolora.tasks.pairs import special_tokens_around
from isolora.tasks.rows import is_blank, usable_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents

PREFIX = re.compile(r"[BIESLUM]-\S")
"""Of the schemes BIO, IOBES and BILOU."""
WORDS = re.compile(r"\w(?:[\w.,:/@+'’&-]*\w)?|\S")
"""Words of a text that nobody has cut: `10:48`, `480,71` and `a@b.org` are one, the full stop behind them is another."""
MAIN_SCORES = ("f1", "precision", "recall", "token_f1")


class TokenClassificationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    scheme: Literal["bio", "io"] = Field("bio", description="io: tags are bare types, and equal neighbours are one entity")
    labels: list[str] = Field(
        [], description="names of tags that the data gives as numbers; when empty, those that the file names"
    )
    overlap: float = Field(0.25, ge=0, lt=1, description="share of a long text's window that the next window sees again")


class TokenClassification(Classifier):
    """Every word is asked for once, in the window where it has most context: an encoder at the word's first token, a decoder,
    which sees nothing further on, at its last one (on nano-440k and pii-synthetic token F1 0.68 instead of 0.44 at the first)."""

    name: ClassVar[str] = "token-classification"
    Settings: ClassVar[type[BaseModel]] = TokenClassificationSettings
    columns: ClassVar[Mapping[str, bool]] = {"tokens": True, "tags": True}
    new_head: ClassVar[bool] = True
    label_columns: ClassVar[tuple[str, ...]] = ("tags",)

    def auto_class(self, architecture: PretrainedConfig) -> str:
        return head_class("TokenClassification", architecture)

    def model_options(self) -> JsonObject:
        return class_options(self.labels)

    def find_labels(self, documents: Documents) -> list[str]:
        """All tags in their order where they are named, else O and the two tags of every type that occurs."""
        named = self.settings.labels or class_names(documents.table, "tags")
        if named:
            return [_bio(name, self.settings.scheme) for name in named]
        tags = {tag for row in documents.fields["tags"] for tag in row or ()}
        if self.settings.scheme == "io" and (prefixed := _all_prefixed(tags)):
            raise DataError(
                f"task.scheme: io takes bare types such as {prefixed[2:]!r}, and tags here are like {prefixed!r}; set it to bio"
            )
        found = {_bio(tag, self.settings.scheme) for tag in tags}
        types = sorted({tag[2:] for tag in found} - {""})
        return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in ("I" if self.settings.scheme == "io" else "BI"))]

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self.labels)

    def _number(self, tag: object) -> int | None:
        bare = self.settings.scheme == "io" and isinstance(tag, str) and tag != "O"
        return self._classes.number(f"I-{tag}" if bare else tag)

    def problem(self, row: JsonMapping) -> str:
        tokens, tags = row["tokens"] or [], row["tags"] or []
        if not isinstance(tokens, list) or not isinstance(tags, list):
            return "tokens and tags are not both lists"
        if not tokens:
            return "tokens is empty"
        if len(tokens) != len(tags):
            return f"{len(tokens)} tokens but {len(tags)} tags ({' '.join(map(str, tokens))[:40]} ...)"
        if not all(isinstance(token, str) for token in tokens):
            return "tokens holds something that is not text"
        if flaw := next(filter(None, (_flaw(tag, self.settings.scheme) for tag in tags)), ""):
            return flaw
        strange = next((tag for tag in tags if self._number(tag) is None), None) if self.labels else None
        return "" if strange is None else unknown("tag", str(strange), self.labels)

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        before, after = special_tokens_around(tokenizer)
        room = max_length - len(before) - len(after)
        rows, numbers = [], []
        for number, (ids, labels) in enumerate(self._labelled(documents, tokenizer)):
            cut = answer_windows(len(ids), room, self.settings.overlap)
            for (start, stop), (first, last) in zip(cut, scored_parts(cut), strict=True):
                asked = [label if first <= place < last else IGNORED for place, label in enumerate(labels[start:stop], start)]
                rows.append(([*before, *ids[start:stop], *after], [*[IGNORED] * len(before), *asked, *[IGNORED] * len(after)]))
                numbers.append(number)
        return Examples.of(rows, documents=np.array(numbers))

    def _labelled(self, documents: Documents, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], list[int]]]:
        """Token ids of each document without special tokens, and the tag of each word at one of its own."""
        if not tokenizer.is_fast:
            raise ConfigError("model: token classification needs a fast tokenizer (tokenizer.json)")
        texts, tags = zip(*(whole_words(row["tokens"], row["tags"]) for row in usable_rows(self, documents)), strict=True)
        # Each word with the space in front of it that byte-level tokenizers take for a part of it
        spaced = [[f" {word}" for word in words] for words in texts]
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        encoded = tokenizer(spaced, is_split_into_words=True, **options)
        for number, words in enumerate(texts):
            pieces: list[list[int]] = [[] for _ in words]
            for entry, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
                pieces[word].append(entry)
            pieces = [piece or _unknown(tokenizer, word) for piece, word in zip(pieces, words, strict=True)]
            labels = [self._spread(self._number(tag), len(piece)) for tag, piece in zip(tags[number], pieces, strict=True)]
            yield list(chain.from_iterable(pieces)), list(chain.from_iterable(labels))

    def _spread(self, tag: object, length: int) -> list[Any]:
        """A word's tag at one of its `length` tokens."""
        rest = [IGNORED] * (length - 1)
        return [tag, *rest] if is_encoder(self.architecture) else [*rest, tag]

    def labelled_text(self, ids: NDArray[np.int32], labels: NDArray[Any], tokenizer: PreTrainedTokenizerBase) -> str:
        """token/TAG for every token that has a tag other than O."""
        tagged = [(entry, self.labels[label]) for entry, label in zip(ids, labels, strict=True) if label != IGNORED]
        return " ".join(f"{tokenizer.decode([entry]).strip()}/{tag}" for entry, tag in tagged if tag != "O")

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        rows = self.scores(model, batch)
        objective, losses = from_logits(rows, batch.targets, batch.row_weights[batch.target_rows])
        return Loss.of(objective, losses, batch)

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        predicted = np.full(len(examples.labels), IGNORED)
        for indices, batch in batches():
            columns = batch.positions % batch.input_ids.shape[1]
            places = examples.starts[indices[batch.target_rows.cpu()]] + columns.cpu().numpy()
            predicted[places] = self.scores(model, batch).argmax(-1).cpu().numpy()
        counts = entity_counts(self._sentences(examples, examples.labels), self._sentences(examples, predicted))

        def measure(rows: NDArray[np.int64]) -> dict[str, float]:
            scores = counts.scores(rows)
            return {name: scores.pop(name) for name in MAIN_SCORES} | scores

        return Predictions(len(counts.tokens), measure)

    def unlabelled(self, row: JsonMapping) -> JsonObject:
        """A row of `tokens` as it is; of a `text` its words, with marks of punctuation around them for themselves."""
        words = row["tokens"] if row.get("tokens") is not None else WORDS.findall(row["text"])
        return {"tokens": words, "tags": [0] * len(words) if isinstance(words, list) else words}

    def scores(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        found: Tensor = _logits(model, batch)
        return found

    def classified(self, row: JsonMapping, scores: NDArray[np.float64]) -> JsonObject:
        """`words`, their `tags` and the tags' `probabilities`; `entities` with their type, words and the least of these."""
        words, _ = whole_words(row["tokens"], row["tags"])
        shares, best = softmax(scores, axis=1).max(axis=1), scores.argmax(axis=1)
        tags = repair([self.labels[place] for place in best])
        entities = [
            {"type": kind, "text": " ".join(words[first : last + 1]), "probability": float(shares[first : last + 1].min())}
            for kind, first, last in sorted(entities_of(tags), key=lambda entity: entity[1])
        ]
        return {"words": words, "tags": tags, "probabilities": shares.tolist(), "entities": entities}

    def _sentences(self, examples: Examples, classes: NDArray[Any]) -> list[list[str]]:
        """Tags of the words of each document, its windows put together."""
        assert examples.documents is not None
        document = np.repeat(examples.documents, examples.lengths)
        asked = examples.labels != IGNORED
        pairs = zip(document[asked], classes[asked], strict=True)
        return [[self.labels[tag] for _, tag in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]


def _bio(tag: object, scheme: str) -> str:
    """A tag by its name in BIO."""
    if not isinstance(tag, str):
        raise DataError(f"data: tags such as {tag!r} have no names in this file; give them in task.labels, in their order")
    if flaw := _flaw(tag, scheme):
        raise DataError(f"data: {flaw}")
    return tag if scheme == "bio" or tag == "O" else f"I-{tag}"


def _flaw(tag: object, scheme: str) -> str:
    """What is wrong with a tag's form; numbers have none."""
    if not isinstance(tag, str):
        return "tags has a gap" if tag is None else ""
    if is_blank(tag):
        return "a tag is empty"
    if scheme == "io" or tag == "O" or (tag[:2] in ("B-", "I-") and tag[2:]):
        return ""
    iobes = PREFIX.match(tag) is not None
    hint = "write S- and U- as B-, and E-, L- and M- as I-" if iobes else "for bare types set task.scheme=io"
    return f"tag {tag!r} is not BIO (valid: O, B-TYPE, I-TYPE; {hint})"


def _all_prefixed(tags: Iterable[object]) -> str:
    """A tag such as B-PER where all but O have such prefixes, B- or S- among them; else nothing."""
    named = sorted(tag for tag in tags if isinstance(tag, str) and tag != "O")
    if not all(map(PREFIX.match, named)):
        return ""
    return next((tag for tag in named if tag[0] in "BSI"), "")


@once_a_batch
def _logits(model: PreTrainedModel, batch: Batch) -> Any:
    """Logits [labels, classes] at labelled positions; virtual tokens that a method puts in front are passed over."""
    logits = model(**inputs(batch)).logits[:, -batch.input_ids.shape[1] :]
    return logits.flatten(0, 1).index_select(0, batch.positions)


def whole_words(tokens: Sequence[str], tags: Sequence[object]) -> tuple[list[str], list[Any]]:
    """Words and their tags; pieces of words (`##ing`, as BERT cuts them) join the word before and leave their tags behind."""
    words: list[str] = []
    kept: list[Any] = []
    for token, tag in zip(tokens, tags, strict=True):
        if words and token.startswith("##") and token != "##":
            words[-1] += token[2:]
        else:
            words.append(token)
            kept.append(tag)
    return words, kept


def _unknown(tokenizer: PreTrainedTokenizerBase, word: str) -> list[int]:
    """A token for a word that gives none, such as a lone control character."""
    if tokenizer.unk_token_id is None:
        raise DataError(f"data: the word {word!r} gives no token with this tokenizer")
    return [tokenizer.unk_token_id]


task = TokenClassification()
