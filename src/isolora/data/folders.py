"""Folders with one file a split (`train.parquet`, `validation.parquet` ...), the packaged data sets among them.

A file `data.json` beside them may say how a row's text is put together, `{"text": "{synopsis}\\n\\n{description}"}`, and which
columns a task finds its own in, `"columns": {"summarization": {"document": "description"}}`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

from isolora.data.files import READERS, decoded, read_table
from isolora.data.tables import SPLITS, Tables, canonical
from isolora.errors import DataError


@cache
def packaged() -> dict[str, Path]:
    """Data sets that come with isolora: name -> folder."""
    root = Path(str(resources.files("isolora") / "assets"))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/data.json"))}


def read_folder(folder: Path) -> Tables:
    """The splits that lie in the folder. Raises DataError when it holds no `train` file, or two of one split."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS and canonical(path.stem) in SPLITS)
    paths = {canonical(path.stem): path for path in files}
    if len(paths) < len(files):
        raise DataError(f"{folder}: more than one file for a split ({', '.join(path.name for path in files)})")
    if "train" not in paths:
        raise DataError(
            f"{folder}: no file called train (.parquet, .csv, .jsonl); for single files give a glob such as {folder}/*.md"
        )
    return Tables({split: read_table(path) for split, path in paths.items()}, *_card(folder))


def _card(folder: Path) -> tuple[str | None, dict[str, dict[str, str]]]:
    """(template of a row's text, columns of each task)."""
    card = folder / "data.json"
    if not card.is_file():
        return None, {}
    try:
        described = json.loads(decoded(card))
        return described.get("text"), described.get("columns", {})
    except (json.JSONDecodeError, AttributeError):
        raise DataError(f'{card}: expected {{"text": "{{column}} ...", "columns": {{task: {{column: column here}}}}}}') from None
