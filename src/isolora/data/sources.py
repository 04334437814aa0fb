"""What `data.source` means: a packaged name, a folder, a file or glob, or the id of a data set on the hub."""

from __future__ import annotations

import difflib
import glob
from pathlib import Path

from isolora.data.files import READERS, read_files
from isolora.data.folders import read_folder
from isolora.data.hub import HUB_ID, read_hub
from isolora.data.origins import LeftOut
from isolora.data.tables import Tables
from isolora.data_cards import hub_cards, packaged
from isolora.errors import DataError, unknown


def read(source: str, left_out: LeftOut) -> Tables:
    """Read the source. Raises DataError, naming what is near, when it leads nowhere."""
    if folder := folder_of(source):
        return read_folder(folder, left_out)
    if means_files(source):
        return Tables({"train": read_files(source, left_out)})
    return read_hub(source)


def folder_of(source: str) -> Path | None:
    """The folder that the source means, if it means one."""
    path = packaged().get(source, Path(source).expanduser())
    return path if path.is_dir() else None


def means_files(source: str) -> bool:
    """Whether a source that is no folder means local files, rather than a data set of the hub. Raises DataError for a packaged
    name that is misspelt."""
    if Path(source).expanduser().is_file() or looks_like_a_file(source):
        return True
    if source not in hub_cards() and "/" not in source and difflib.get_close_matches(source, packaged(), n=1):
        raise DataError(f"data.source: {unknown('data set', source, packaged())}, nor is it a local file")
    return False


def looks_like_a_file(source: str) -> bool:
    """A glob, a known ending, or a shape that no hub id has."""
    return glob.has_magic(source) or Path(source).suffix.lower() in READERS or HUB_ID.fullmatch(source) is None
