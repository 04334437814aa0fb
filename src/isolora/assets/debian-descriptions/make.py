"""Make the data set `debian-descriptions` from the package lists of Debian 12 (bookworm, main, amd64).

    python make.py BUILD_DIR

Downloads the lists with apt into BUILD_DIR (needs bookworm among apt's sources), joins each long description with its
package's source, section and synopsis, drops near-duplicates, splits by source package, and writes the Parquet files, their
hashes and the README beside this script. Equal lists give equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import Template

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
SUITE = "bookworm"
SEED = 20261122
FEWEST_WORDS = 20
MOST_WORDS = 1000  # what is longer is a listing of fonts or LaTeX packages
HELD_OUT_SHARE = 0.05  # of the source families, for validation and again for test: about 1,500 documents each
SHINGLE_WORDS = 5
LARGEST_OVERLAP = 0.5  # of a text's shingles, found in texts kept before it
SPLITS = ("train", "validation", "test")

BULLET = re.compile(r"(\s*)(?:[*+•·‣◦–—-]|o(?=\s)|(\d{1,2}[.)]))\s+(?=\S)")
VERSION = re.compile(r"[-.]?\d[\d.]*")


@dataclass(frozen=True)
class Entry:
    """One row of the data set."""

    package: str
    source: str
    section: str
    synopsis: str
    description: str

    @property
    def family(self) -> str:
        """The source without version digits: `llvm-toolchain-14` and `-15` tell the same story and share a split."""
        return VERSION.sub("", self.source)


def fetch(build: Path) -> None:
    """Let apt download and verify the lists into BUILD_DIR/lists."""
    (build / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    options = (
        "Acquire::Languages=en",
        f"Dir::State::Lists={build / 'lists'}",
        "APT::Architecture=amd64",
        "APT::Architectures=amd64",
    )
    subprocess.run(["apt-get", *(word for option in options for word in ("-o", option)), "update"], check=True)


def read_list(build: Path, ending: str) -> str:
    """The text of one downloaded list, whatever its compression."""
    path = next((build / "lists").glob(f"*_dists_{SUITE}_{ending}*"))
    answer = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", str(path)], check=True, capture_output=True)
    return answer.stdout.decode("utf-8")


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each paragraph of a Debian control file; continuation lines stay as they are."""
    for block in text.split("\n\n"):
        found = re.findall(r"^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)", block, flags=re.MULTILINE)
        if found:
            yield dict(found)


def entries(packages: str, translations: str) -> Iterator[Entry]:
    """Packages joined with the English long description that belongs to exactly their version."""
    described = {(row["Package"], row["Description-md5"]): row["Description-en"] for row in stanzas(translations)}
    for row in stanzas(packages):
        synopsis, _, long = described.get((row["Package"], row.get("Description-md5", "")), "").partition("\n")
        source = row.get("Source", row["Package"]).split()[0]
        section = row["Section"].rpartition("/")[2]
        yield Entry(row["Package"], source, section, plain(synopsis), clean(long))


def plain(line: str) -> str:
    """One line without control characters and runs of white space, in Unicode's composed form."""
    line = "".join(c if c.isprintable() else " " for c in unicodedata.normalize("NFC", line))
    return " ".join(line.split())


def clean(description: str) -> str:
    """A control field's long description as text: paragraphs apart by an empty line, list items one a line behind `- `.

    >>> clean(" Some prose\\n goes on:\\n  * one\\n    item\\n  * two\\n .\\n The end.")
    'Some prose goes on:\\n- one item\\n- two\\n\\nThe end.'
    """
    raw = [line.removeprefix(" ").rstrip() for line in description.expandtabs(1).split("\n")]
    paragraphs = "\n".join("" if line == "." else line for line in raw).split("\n\n")
    return "\n\n".join(text for text in map(reflow, paragraphs) if text)


def reflow(paragraph: str) -> str:
    """Join the lines that an 80-column terminal had broken; keep items and indented (verbatim) lines on their own."""
    lines: list[str] = []
    item_indent: int | None = None  # of the list item that the last line belongs to
    verbatim = True  # whether the last line stands by itself
    for line in paragraph.split("\n"):
        indent = len(line) - len(line.lstrip())
        if bullet := BULLET.match(line):
            item_indent, verbatim = len(bullet[1]), False
            lines.append(f"{bullet[2] or '-'} {line[bullet.end() :]}")
        elif not verbatim and continues(indent, item_indent):
            lines[-1] += f" {line}"
        else:
            item_indent, verbatim = None, indent > 0
            lines.append(line)
    return "\n".join(filter(None, map(plain, lines)))


def continues(indent: int, item_indent: int | None) -> bool:
    """Prose continues prose; an item is continued by deeper lines, or by level ones where the maintainer did not indent it."""
    if item_indent is None:
        return indent == 0
    return indent > item_indent or item_indent == 0


def shingles(text: str) -> frozenset[int]:
    """Hashes of all runs of five words; digits count as one, so that versions make no difference."""
    words = re.findall(r"[^\W\d_]+|\d+", text.lower())
    words = ["0" if word[0].isdigit() else word for word in words]
    runs = (words[i : i + SHINGLE_WORDS] for i in range(max(1, len(words) - SHINGLE_WORDS + 1)))
    return frozenset(zlib.crc32(" ".join(run).encode()) for run in runs)


def overlap(own: frozenset[int], seen: set[int]) -> float:
    return len(own & seen) / len(own)


def distinct(rows: Iterable[Entry]) -> Iterator[Entry]:
    """Rows that differ from all kept before: siblings of one source and versions of one program repeat each other."""
    seen: set[int] = set()
    # The package that bears its source's name speaks for it; its siblings (-data, -doc, -dev) come after.
    for row in sorted(rows, key=lambda row: (row.family, row.source, row.package != row.source, row.package)):
        own = shingles(row.description)
        if FEWEST_WORDS <= len(row.description.split()) <= MOST_WORDS and overlap(own, seen) < LARGEST_OVERLAP:
            seen |= own
            yield row


def split_of(row: Entry) -> str:
    """By a seeded hash of the source family: siblings never lie on both sides."""
    digest = hashlib.sha256(f"{SEED}:{row.family}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if place < HELD_OUT_SHARE else "test" if place < 2 * HELD_OUT_SHARE else "train"


def divide(rows: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Splits, sorted by package; a held-out text that another source's training text contains is left out."""
    parts: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for row in sorted(rows, key=lambda row: row.package):
        parts[split_of(row)].append(row)
    trained: set[int] = set().union(*(shingles(row.description) for row in parts["train"]))
    for split in ("validation", "test"):
        parts[split] = [row for row in parts[split] if overlap(shingles(row.description), trained) < LARGEST_OVERLAP]
    return parts


def write(rows: list[Entry], path: Path) -> None:
    columns = {field.name: [asdict(row)[field.name] for row in rows] for field in fields(Entry)}
    repeating = ["source", "section"]
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19, use_dictionary=repeating)


def release(build: Path) -> dict[str, str]:
    """Version and date that Debian's signed release file states."""
    text = next((build / "lists").glob(f"*_dists_{SUITE}_InRelease")).read_text(encoding="utf-8")
    return {key: str(re.search(rf"^{key}: (.*)", text, re.MULTILINE)[1]) for key in ("Version", "Date")}


def count_rows(parts: dict[str, list[Entry]]) -> str:
    """Markdown rows: split, documents, sources, words of the descriptions, bytes of the file."""
    rows = []
    for split, part in parts.items():
        words = sum(len(row.description.split()) for row in part)
        size = (HERE / f"{split}.parquet").stat().st_size
        rows.append(f"| {split} | {len(part):,} | {len({row.source for row in part}):,} | {words:,} | {size:,} |")
    return "\n".join(rows)


def write_readme(parts: dict[str, list[Entry]], version: dict[str, str], described: int) -> None:
    sections = Counter(row.section for part in parts.values() for row in part)
    values = {
        "version": version["Version"],
        "date": version["Date"],
        "described": f"{described:,}",
        "kept": f"{sections.total():,}",
        "fewest": f"{FEWEST_WORDS}",
        "most": f"{MOST_WORDS:,}",
        "overlap": f"{LARGEST_OVERLAP:.0%}",
        "counts": count_rows(parts),
        "sections": f"{len(sections)}",
        "large": f"{sum(count >= 300 for count in sections.values())}",
        "top": ", ".join(f"{name} {count:,}" for name, count in sections.most_common(20)),
    }
    template = Template((HERE / "README.template.md").read_text(encoding="utf-8"))
    (HERE / "README.md").write_text(template.substitute(values), encoding="utf-8")


def write_sums() -> None:
    """SHA256SUMS in the form that `sha256sum --check` reads."""
    lines = (f"{hashlib.sha256((HERE / f'{split}.parquet').read_bytes()).hexdigest()}  {split}.parquet\n" for split in SPLITS)
    (HERE / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="make the data set debian-descriptions")
    parser.add_argument("build", type=Path, help="folder for apt's lists (about 10 MB)")
    parser.add_argument("--no-fetch", action="store_true", help="use the lists that a former run left in the folder")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    if not arguments.no_fetch:
        fetch(build)
    rows = list(entries(read_list(build, "main_binary-amd64_Packages"), read_list(build, "main_i18n_Translation-en")))
    parts = divide(distinct(rows))
    for split, part in parts.items():
        write(part, HERE / f"{split}.parquet")
    write_sums()
    write_readme(parts, release(build), sum(len(row.description.split()) >= FEWEST_WORDS for row in rows))


if __name__ == "__main__":
    main()
