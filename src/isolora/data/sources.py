"""What `data.source` means: a packaged name, a folder with a file a split, a file or glob, or the id of a data set on the hub."""

from __future__ import annotations

import difflib
import glob
import re
from pathlib import Path
from typing import Any

from isolora.data.files import READERS, one_line, plain_types, read_files, read_table
from isolora.data.origins import LeftOut, with_origins
from isolora.data.table_source import Tables, split_of
from isolora.data_cards import Card, card_of, hub_cards, packaged_data, read_card
from isolora.errors import DataError, in_brief, unknown
from isolora.paths import expanded, is_file, is_folder

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
"""`owner/name` and, behind a colon, the configuration (`nyu-mll/glue:cola`)."""


def read_source(source: str, left_out: LeftOut) -> Tables:
    """Read the source. Raises DataError, naming what is near, when it leads nowhere."""
    if "://" in source:  # not said again: there may be a password in it
        raise DataError("data.source: an address is no source (valid: a packaged name, a local file or glob, or a hub id)")
    if folder := folder_of(source):
        return read_folder(folder, left_out)
    if means_files(source):
        return Tables({"train": read_files(source, left_out)})
    return read_hub(source)


def folder_of(source: str) -> Path | None:
    """The folder that the source means; None where it means no folder."""
    path = packaged_data().get(source, expanded(source))
    return path if is_folder(path) else None


def means_files(source: str) -> bool:
    """Whether a source that is not a folder means local files, and not a data set of the hub. Raises DataError for a misspelt
    packaged name."""
    if is_file(expanded(source)) or looks_like_a_file(source):
        return True
    if source not in hub_cards() and "/" not in source and difflib.get_close_matches(source, packaged_data(), n=1):
        raise DataError(f"data.source: {unknown('data set', source, packaged_data())}, nor is it a local file")
    return False


def looks_like_a_file(source: str) -> bool:
    """A glob, a known ending, or a shape that no hub id has."""
    return glob.has_magic(source) or Path(source).suffix.lower() in READERS or HUB_ID.fullmatch(source) is None


def read_folder(folder: Path, left_out: LeftOut) -> Tables:
    """The splits that lie in the folder. Raises DataError as `split_files` does."""
    return Tables({split: read_table(path, left_out) for split, path in split_files(folder).items()}, read_card(folder))


def split_files(folder: Path) -> dict[str, Path]:
    """The file of each split. Raises DataError when the folder holds no `train` file, or two of one split."""
    card = read_card(folder)
    with one_line(folder):
        readable = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    files = [(split, path) for path in readable if (split := split_of(path.stem, card))]
    for _, path in files:
        if not is_file(path):
            raise DataError(f"{path}: not a file that can be read to its end, such as a folder or a pipe")
    paths = dict(files)
    if len(paths) < len(files):
        raise DataError(f"{folder}: more than one file for a split ({', '.join(path.name for _, path in files)})")
    if "train" not in paths:
        raise DataError(
            f"{folder}: no file called train (.parquet, .csv, .jsonl); for single files give a glob such as {folder}/*.md"
        )
    return paths


def read_hub(source: str) -> Tables:
    """All splits of the data set, from the hub or from what was fetched before. Raises DataError with the reason in one line."""
    card, found = open_hub(source, streaming=False)
    return Tables(
        {split: with_origins(plain_types(part[:]), f"{source} {there} row") for split, (there, part) in found.items()}, card
    )


def open_hub(source: str, streaming: bool) -> tuple[Card, dict[str, tuple[str, Any]]]:
    """(card, split -> its name there and the data set that gives Arrow tables). Raises DataError as `read_hub` does."""
    import datasets  # slow to import, and only needed here

    card = card_of(source)
    name, _, configuration = (card.hub or (source,))[0].partition(":")
    options = {"streaming": True} if streaming else {}
    try:
        found = datasets.load_dataset(name, configuration or None, **options)
    except Exception as failure:  # the clients below raise errors of five libraries; to a person all mean the same
        raise DataError(f"data.source: {source!r} {reason(failure)}") from None
    parts = {split: (there, part.with_format("arrow")) for there, part in found.items() if (split := split_of(there, card))}
    if "train" not in parts:
        raise DataError(f"data.source: {source!r} has no split called train (it has: {', '.join(found) or 'none'})")
    return card, parts


def reason(failure: Exception) -> str:
    """What a client of the hub complains of, in words that follow a source's name."""
    text = in_brief(failure, 500)
    if isinstance(failure, OSError) and not isinstance(failure, FileNotFoundError):
        return f"is no packaged name and no local file, and the hub cannot be reached ({text})"
    return f"cannot be loaded from the hub: {text}"
