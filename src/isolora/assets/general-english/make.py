"""Make the data set `general-english`: prose that the nano models never saw, to measure what is forgotten, and some they did.

    python make.py --build BUILD_DIR

BUILD_DIR holds what `nano/make_text.py` and `nano/pretrain.py` wrote there: text.jsonl, tokens.npy, tokenizer.json. Held-out rows
of the pretraining are cut at document ends; pieces of permissively licensed documents make the validation and test splits. The
train split, for rehearsing old text beside new (`data.mix`), is drawn from whole documents of the same sources.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from isolora.assets.publish import publish

HERE = Path(__file__).parent
SEED = 20261122
SOURCES = ("wordnet-base", "python3.11-doc")
HELD_OUT_SEQUENCES = 128  # as in nano/pretrain.py
END = 0
SHORTEST = 80  # characters of a piece
TRAIN_DOCUMENTS = 2_000


def pieces(build: Path) -> Iterator[str]:
    """Held-out rows as text, cut at document ends."""
    tokenizer = Tokenizer.from_file(str(build / "tokenizer.json"))
    for row in np.load(build / "tokens.npy", mmap_mode="r")[:HELD_OUT_SEQUENCES]:
        for piece in np.split(row, np.flatnonzero(row == END)):
            text = tokenizer.decode(piece[piece != END].tolist()).strip()
            if len(text) >= SHORTEST:
                yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, required=True)
    build = parser.parse_args().build
    with open(build / "text.jsonl", encoding="utf-8") as file:
        documents = [row for row in map(json.loads, file) if row["source"] in SOURCES]
    everything = {source: "\n".join(row["text"] for row in documents if row["source"] == source) for source in SOURCES}
    held_out = [{"text": text, "source": source} for text in pieces(build) for source in SOURCES if text in everything[source]]
    rng = random.Random(SEED)
    rng.shuffle(held_out)
    seen = [row for row in documents if not any(piece["text"] in row["text"] for piece in held_out)]
    half = len(held_out) // 2
    parts = {"train": rng.sample(seen, TRAIN_DOCUMENTS), "validation": held_out[:half], "test": held_out[half:]}
    publish(HERE, parts, pa.schema([("text", pa.string()), ("source", pa.string())]))


if __name__ == "__main__":
    main()
