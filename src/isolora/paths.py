"""What a name leads to on disk, for names that may be no file's: too long, with a zero in them, or a hub id."""

from __future__ import annotations

from pathlib import Path


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
