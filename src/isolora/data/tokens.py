"""Documents as token ids: tokenised once, kept in a cache under the hash of the texts, the tokenizer and the length."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.data.documents import Documents
from isolora.errors import DataError

FORMAT = 1  # raise it when the same documents would give other ids


@dataclass(frozen=True)
class Tokens:
    """Ragged sequences: document i is `ids[starts[i]:starts[i + 1]]`. ids int32 [tokens], starts int64 [documents + 1]."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.ids[self.starts[index] : self.starts[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def tokenise(documents: Documents, tokenizer: Any, max_length: int) -> Tokens:
    """Token ids of every document, with the tokenizer's end-of-sequence id behind it, cut to `max_length` ids.

    A document that is cut does not end, and so gets no end-of-sequence id.
    """
    path = cache_folder() / "tokens" / f"{_key(documents, tokenizer, max_length)}.npz"
    # A cache is an acceleration: one that is broken, or cannot be written, costs time and nothing else.
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _read(path)
    tokens = _encode(documents.texts, tokenizer, max_length)
    with contextlib.suppress(OSError):
        _write(tokens, path)
    return tokens


def cache_folder() -> Path:
    """`ISOLORA_CACHE`, or the platform's folder for caches."""
    if given := os.environ.get("ISOLORA_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "isolora"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "isolora" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isolora"


def _encode(texts: list[str], tokenizer: Any, max_length: int) -> Tokens:
    end = tokenizer.eos_token_id
    encoded = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    ended = (ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in encoded)
    rows = [np.array(ids[:max_length], dtype=np.int32) for ids in ended]
    if not all(len(row) for row in rows):
        raise DataError("data: a document gives no token at all with this tokenizer")
    return Tokens(np.concatenate(rows), np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64))


def _key(documents: Documents, tokenizer: Any, max_length: int) -> str:
    parts = [FORMAT, documents.fingerprint, _tokenizer_state(tokenizer), tokenizer.eos_token_id, max_length]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tokenizer_state(tokenizer: Any) -> str:
    """Everything that decides the ids: the whole fast tokenizer, or name, vocabulary and settings of a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)], sort_keys=True)


def _read(path: Path) -> Tokens:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        tokens = Tokens(file["ids"], file["starts"])
    if tokens.starts[-1] != len(tokens.ids):
        raise ValueError("offsets and ids disagree")
    return tokens


def _write(tokens: Tokens, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a process beside this one never reads half a file.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, ids=tokens.ids, starts=tokens.starts)
    Path(file.name).replace(path)
