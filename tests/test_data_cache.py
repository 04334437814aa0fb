"""Tokens: the ids of every document, cut and ended as promised, and cached by what decides them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from isolora import data
from isolora.data import examples as cache
from isolora.data.documents import Documents
from isolora.tasks.base import Examples
from isolora.tasks.causal_lm import encode

transformers = pytest.importorskip("transformers")
END = 0


def tokenizer(*words: str) -> Any:
    """One id a word: the end is 0, an unknown word 1, the words given 2 and up."""
    model = Tokenizer(
        models.WordLevel({"<end>": END, "<unk>": 1, **{word: 2 + n for n, word in enumerate(words)}}, unk_token="<unk>")
    )
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.decoder = decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>", unk_token="<unk>")


def documents(*texts: str) -> Documents:
    return Documents(pa.table({"text": list(texts)}), "{text}")


def tokenise(documents: Documents, tokenizer: Any, max_length: int) -> Examples:
    decided_by = [documents.fingerprint, max_length]
    return data.cached(lambda: encode(documents.texts, tokenizer, max_length), tokenizer, decided_by)


def test_ends_every_document_and_cuts_long_ones() -> None:
    tokens = tokenise(documents("a b", "b b b b b", "c"), tokenizer("a", "b"), max_length=4)
    assert tokens.ids.dtype == np.int32
    assert tokens.starts.dtype == np.int64
    assert tokens.ids.tolist() == [2, 3, END, 3, 3, 3, 3, 1, END]
    assert tokens.starts.tolist() == [0, 3, 7, 9]
    assert tokens.lengths.tolist() == [3, 4, 2]
    assert len(tokens) == 3


def cached() -> list[Path]:
    return sorted(Path(os.environ["ISOLORA_CACHE"]).glob("tokens/*"))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))


class Refusing:
    """A tokenizer that has been asked once too often."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("tokenised again")


def test_second_time_comes_from_the_cache() -> None:
    first = tokenise(documents("a b"), tokenizer("a", "b"), max_length=4)
    again = tokenise(documents("a b"), Refusing(tokenizer("a", "b")), max_length=4)
    assert again.ids.tolist() == first.ids.tolist()
    assert len(cached()) == 1


@pytest.mark.parametrize("change", ["texts", "tokenizer", "length"])
def test_whatever_decides_the_ids_is_in_the_key(change: str) -> None:
    tokenise(documents("a b"), tokenizer("a", "b"), max_length=4)
    other = documents("a", "b") if change == "texts" else documents("a b")
    tokenise(other, tokenizer(*("ba" if change == "tokenizer" else "ab")), max_length=3 if change == "length" else 4)
    assert len(cached()) == 2


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", None])
def test_a_broken_cache_is_made_anew(damage: bytes | None) -> None:
    first = tokenise(documents("a b"), tokenizer("a", "b"), max_length=4)
    (path,) = cached()
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert tokenise(documents("a b"), tokenizer("a", "b"), max_length=4).ids.tolist() == first.ids.tolist()


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "a-file"))
    assert len(tokenise(documents("a b"), tokenizer("a", "b"), max_length=4)) == 1


def made_slowly(folder: str, made: Any) -> int:
    """In a process of its own: examples that take a while, cached."""
    os.environ["ISOLORA_CACHE"] = folder

    def make() -> Examples:
        made.put(os.getpid())
        time.sleep(0.3)
        return encode(["a b"], tokenizer("a", "b"), 4)

    return len(data.cached(make, tokenizer("a", "b"), ["slow"]).ids)


def test_processes_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = context.Queue()
    started = [context.Process(target=made_slowly, args=(str(tmp_path / "shared"), made)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    makers = [made.get(timeout=1)]
    with pytest.raises(queue.Empty):
        makers.append(made.get(timeout=0.2))
    assert len(list((tmp_path / "shared" / "tokens").glob("*"))) == 1


def test_where_no_lock_can_be_had_it_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "locks").write_text("a file where the folder should be")
    assert tokenise(documents("a"), tokenizer("a"), max_length=4).ids.tolist() == [2, END]


def test_other_code_of_tasks_finds_nothing_of_older_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that labels the same documents otherwise must not be given the labels of the one before."""
    tokenise(documents("a b"), tokenizer("a"), max_length=4)
    assert len(cached()) == 1
    assert len(cache.code_of_tasks()) == 64
    monkeypatch.setattr(cache, "code_of_tasks", lambda: "of another version")
    tokenise(documents("a b"), tokenizer("a"), max_length=4)
    assert len(cached()) == 2
