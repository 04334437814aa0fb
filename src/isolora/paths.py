"""What a name leads to on disk, for names that may be no file's: too long, with a zero in them, or a hub id; and how a file that
a person asked for is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from isolora.errors import ConfigError


def is_file(name: str | Path) -> bool:
    """Whether a regular file is there."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_folder(name: str | Path) -> bool:
    """Whether a folder is there."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def is_there(name: str | Path) -> bool:
    """Whether anything is there."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def expanded(name: str | Path) -> Path:
    """The path, with `~` read as the person's home; as it stands where that home is not known."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no user of that name; or no HOME and no entry for this user, as in many containers
        return Path(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place when the context ends well: whole or not at all, and in place of a
    link rather than through it. Raises OSError as writing does."""
    draft = path.with_name(f".{path.name[:100]}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # a link of that name would be followed
    try:
        yield draft
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path, option: str) -> Iterator[Path]:
    """As `replacing`, for a file that a person named. Folders on the way are made. Raises ConfigError, one line that names the
    option, where it cannot be written."""
    if is_folder(path):
        raise ConfigError(f"{option}: {path} is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            yield draft
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{option}: a part of {path} is a file; name a folder for it") from None
    except OSError as failure:
        raise ConfigError(f"{option}: {short_name(path)} cannot be written: {failure.strerror or failure}") from None


def write_whole(path: Path, option: str, text: str) -> None:
    """Write a text so."""
    with written_whole(path, option) as draft:
        draft.write_text(text, encoding="utf-8")


def short_name(path: str | Path) -> str:
    """A path as a line can show it."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-80:]}"
