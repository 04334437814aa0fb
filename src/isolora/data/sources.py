"""What `data.source` means: a packaged name, a folder, a file or glob, or the id of a data set on the hub."""

from __future__ import annotations

import difflib
import glob
from pathlib import Path

from isolora.data.files import READERS, read_files
from isolora.data.folders import packaged, read_folder
from isolora.data.hub import HUB_ID, read_hub
from isolora.data.tables import Tables
from isolora.errors import DataError, unknown


def read(source: str) -> Tables:
    """Read the source. Raises DataError, naming what is near, when it leads nowhere."""
    if source in packaged():
        return read_folder(packaged()[source])
    path = Path(source).expanduser()
    if path.is_dir():
        return read_folder(path)
    if path.is_file() or looks_like_a_file(source):
        return Tables({"train": read_files(source)})
    if "/" not in source and difflib.get_close_matches(source, packaged(), n=1):
        raise DataError(f"data.source: {unknown('data set', source, packaged())}, nor is it a local file")
    return read_hub(source)


def looks_like_a_file(source: str) -> bool:
    """A glob, a known ending, or a shape that no hub id has."""
    return glob.has_magic(source) or Path(source).suffix.lower() in READERS or HUB_ID.fullmatch(source) is None
