"""Gather free English prose from Debian packages as the pretraining text of the nano models.

    python make_text.py --out BUILD_DIR

Downloads the packages below with `apt-get download`, unpacks them, keeps running prose (no code, tables or markup) and
writes `text.jsonl` (one document a line: source, text) in an order fixed by the seed. Licences: LICENCE.md, beside this file.
Debian's package descriptions, the adaptation data, are no part of it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("wordnet-base", "dict-gcide", "dict-foldoc", "debian-reference-en", "python3.11-doc", "perl-doc", "linux-doc-6.1")
SEED = 20261122
GCIDE_SHARE = 0.35  # a third of the large dictionary keeps the mixture from being all definitions


def unpack(build: Path) -> Path:
    """Download and unpack the packages once; returns the folder with one tree a package."""
    trees = build / "trees"
    for package in PACKAGES:
        if (trees / package).exists():
            continue
        subprocess.run(["apt-get", "download", package], cwd=build, check=True)
        archive = next(build.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", str(archive), str(trees / package)], check=True)
    return trees


def read(path: Path) -> str:
    opener = gzip.open if path.suffix in {".gz", ".dz"} else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", errors="ignore")


def is_prose(paragraph: str) -> bool:
    """Long enough, mostly lower-case letters, and closed by a full stop."""
    letters = sum(c.islower() or c == " " for c in paragraph)
    return len(paragraph) >= 80 and letters >= 0.85 * len(paragraph) and paragraph[-1] in ".!?:"


def plain(text: str) -> str:
    """Reflow to one line and drop reStructuredText and POD inline markup."""
    text = re.sub(r":[\w:+-]+:`[~!]?([^`<]*)(<[^`]*>)?`", r"\1", text)
    text = re.sub(r"[A-Z]<+\s?([^<>|]*)(\|[^<>]*)?\s?>+", r"\1", text)
    text = re.sub(r"\*\*?([^*\s][^*]*)\*\*?", r"\1", text).replace("`", "").replace("{", "").replace("}", "")
    return re.sub(r"\s+", " ", text).strip()


def prose_of(path: Path) -> str:
    paragraphs = (plain(block) for block in re.split(r"\n\s*\n", read(path)) if not re.match(r"\s*(\.\.|=\w)", block))
    return "\n".join(p for p in paragraphs if is_prose(p))


def manual_pages(trees: Path) -> Iterator[tuple[str, str]]:
    patterns = {
        "python3.11-doc": "**/_sources/**/*.txt",
        "perl-doc": "**/*.pod",
        "debian-reference-en": "**/debian-reference.en.txt.gz",
        "linux-doc-6.1": "**/Documentation/**/*.rst.gz",
    }
    for package, pattern in patterns.items():
        for path in sorted((trees / package).glob(pattern)):
            if "translations" in path.parts or path.name.startswith("changelog"):
                continue
            lines = prose_of(path).split("\n")
            for start in range(0, len(lines), 8):
                yield package, "\n".join(lines[start : start + 8])


def dictionary(path: Path) -> Iterator[str]:
    """Entries start in column 0; their bodies are indented."""
    for entry in re.split(r"\n(?=\S)", read(path)):
        head, _, body = entry.partition("\n")
        body = re.sub(r"\[[^\]]*\]|\(\d{4}-\d\d-\d\d\)|<[^>]*>|\\[^\\]*\\", " ", body)
        text = plain(body)
        word = head.split("\\")[0].strip()
        if len(text) >= 60 and len(word) < 60:
            yield f"{word}: {text}"


def glosses(tree: Path) -> Iterator[str]:
    for path in sorted(tree.glob("**/wordnet/data.*")):
        lines = []
        for line in read(path).split("\n"):
            if line.startswith(" ") or " | " not in line:
                continue
            fields, gloss = line.split(" | ", 1)
            lines.append(f"{fields.split()[4].replace('_', ' ')}: {gloss.strip()}")
        for start in range(0, len(lines), 6):
            yield "\n".join(lines[start : start + 6])


def documents(trees: Path, rng: random.Random) -> Iterator[tuple[str, str]]:
    yield from manual_pages(trees)
    yield from (("dict-foldoc", text) for text in dictionary(next((trees / "dict-foldoc").glob("**/foldoc.dict.dz"))))
    for text in dictionary(next((trees / "dict-gcide").glob("**/gcide.dict.dz"))):
        if rng.random() < GCIDE_SHARE:
            yield "dict-gcide", text
    yield from (("wordnet-base", text) for text in glosses(trees / "wordnet-base"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    build = parser.parse_args().out
    build.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    rows = [(source, text) for source, text in documents(unpack(build), rng) if len(text) >= 60]
    rows = list(dict.fromkeys(rows))
    rng.shuffle(rows)
    with open(build / "text.jsonl", "w", encoding="utf-8") as file:
        for source, text in rows:
            file.write(json.dumps({"source": source, "text": text}, ensure_ascii=False) + "\n")
    for package in PACKAGES:
        characters = sum(len(text) for source, text in rows if source == package)
        print(f"{package:22s} {characters / 1e6:7.2f} M characters")


if __name__ == "__main__":
    main()
