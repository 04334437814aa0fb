"""The command line's edge to the system: its arguments, its three streams, and what happens where one of them fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path

from isolora.errors import ConfigError

NAMES = ("stdin", "stdout", "stderr")
PATH_OPTIONS = ("--out", "--next", "--file", "--include")


def open_streams() -> None:
    """Whoever closes a stream gets nothing from it. A file opened later would otherwise take its place, and its text.

    Characters that the locale has none for are escaped on the way out. Bytes that are no text are kept apart on the way in, so
    that `check_text` finds them: the standard library would end in a traceback under one locale and not under another.
    """
    for number, name in enumerate(NAMES):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False, encoding="utf-8"))
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def check_text(given: str, what: str) -> None:
    """Raise ConfigError for bytes that are not UTF-8. Tokenizers, SQLite, Parquet and safetensors refuse such a text or such a
    file's name, each in its own way, some of them only when a training is over."""
    if any("\ud800" <= letter <= "\udfff" for letter in given):
        shown = given.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ConfigError(f"{what}: {shown[:200]} is not UTF-8; write it, or name the file, in UTF-8")


def check_arguments() -> None:
    """Each word of the command line is text, a file's name is not empty, as that of a variable that was never set, and relative
    names mean something."""
    words = sys.argv[1:]
    for place, word in enumerate(words, start=1):
        check_text(word, f"word {place} of the command line")
    for word, following in pairwise([*words, "end"]):
        option = word.removesuffix("=")
        if option in PATH_OPTIONS and (word.endswith("=") or not following):
            raise ConfigError(f"{option}: the name is empty (. means the current folder)")
    try:
        Path.cwd()
    except OSError as failure:
        raise ConfigError(f"the current folder cannot be used ({failure.strerror}); go to one that exists") from None


@contextmanager
def delivered() -> Iterator[None]:
    """What was printed has left this process when the context ends. Raises ConfigError where standard output takes no more; a
    reader that has gone away is no fault."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as failure:
        if failure.filename or failure.errno is None:
            raise
        _drop_output()
        raise ConfigError(
            f"{failure.strerror} (standard output, or a file without a name; ISOLORA_DEBUG=1 shows where)"
        ) from failure


def _drop_output() -> None:
    """Nothing more is written to a standard output that failed, at the interpreter's end neither."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
