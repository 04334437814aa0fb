"""Write a packaged data set beside its script: Parquet files, their hashes, and the README with its counts filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Parts = Mapping[str, Sequence[Mapping[str, Any]]]


def write_parts(folder: Path, parts: Parts, schema: pa.Schema) -> None:
    """One zstd file a split, and SHA256SUMS in the form that `sha256sum --check` reads."""
    sums = []
    for split, rows in parts.items():
        path = folder / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd", compression_level=19)
        sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def publish(folder: Path, parts: Parts, schema: pa.Schema, **values: object) -> None:
    """The files, and README.md from README.template.md.

    values: what the template names beside `$counts`, the rows of its table (split, examples, bytes).
    """
    write_parts(folder, parts, schema)
    sizes = {split: (folder / f"{split}.parquet").stat().st_size for split in parts}
    counts = "\n".join(f"| {split} | {len(rows):,} | {sizes[split]:,} |" for split, rows in parts.items())
    template = Template((folder / "README.template.md").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(template.substitute(values, counts=counts), encoding="utf-8")
