"""Folders with one file a split (`train.parquet` ...) and perhaps a card, the packaged data sets among them."""

from __future__ import annotations

from pathlib import Path

from isolora.data.files import READERS, read_table
from isolora.data.origins import LeftOut
from isolora.data.tables import Tables, split_of
from isolora.data_cards import read_card
from isolora.errors import DataError


def read_folder(folder: Path, left_out: LeftOut) -> Tables:
    """The splits that lie in the folder. Raises DataError as `split_files` does."""
    return Tables({split: read_table(path, left_out) for split, path in split_files(folder).items()}, read_card(folder))


def split_files(folder: Path) -> dict[str, Path]:
    """The file of each split. Raises DataError when the folder holds no `train` file, or two of one split."""
    card = read_card(folder)
    readable = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    files = [(split, path) for path in readable if (split := split_of(path.stem, card))]
    paths = dict(files)
    if len(paths) < len(files):
        raise DataError(f"{folder}: more than one file for a split ({', '.join(path.name for _, path in files)})")
    if "train" not in paths:
        raise DataError(
            f"{folder}: no file called train (.parquet, .csv, .jsonl); for single files give a glob such as {folder}/*.md"
        )
    return paths
