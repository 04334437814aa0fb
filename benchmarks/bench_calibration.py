"""How honest are the intervals? Twenty small studies, other seeds each, on four held-out texts of two domains.

Each repeat is a study of three bases, two ranks and two seeds, and two longer runs that the law never sees: the largest base
up to 10 x the study's largest compute, measured at 4 x on its way, and the middle base at 4 x. Domains alternate: package
descriptions, and the source code of Python's own library, cut into pieces, split by file. Repeats that share a text are
trained side by side, in stacks, and fitted each by itself. Finished runs stay in the folder, so that a second call only fits
and judges again; delete it to train anew. `--train` trains and judges nothing; `--judge` judges what is finished and trains
nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from isolora.config import StudyConfig, parse
from isolora.errors import UserError
from isolora.fit import fit, studied
from isolora.study.running import run_study
from isolora.table import Table, read

FOLDER = Path("runs/calibration")
TEXTS, SEEDS = 4, 5
"""Texts (samples to train on and to hold out), and repeats on each; domains alternate."""
DOMAINS = ("descriptions", "code")
TOKENS, BATCH_TOKENS = 32_768, 256
MODELS, RANK = ("nano-440k", "nano-150k", "nano-55k"), 8
CELLS = [(model, rank) for model in MODELS for rank in (2, RANK)] * 2
"""The runs of a repeat; each has a seed of its own, as in every study: in one data order they would rise and fall together."""
FACTORS = (4, 10)
MIDDLE_TOKENS = 8.5 * TOKENS
"""A token of the middle base costs 2.1 to 2.2 times less than one of the largest: 4 x the largest compute."""
AHEAD = 1000
"""Added to a repeat's seed to name the runs that it is judged on; the study draws each a seed of its own from that."""
PIECE, SHORTEST = 600, 100


def source_of(domain: str) -> str:
    """A data source; Python's library is written as pieces of its files, in the splits that a hash of the file's name says."""
    if domain == "descriptions":
        return "debian-descriptions"
    folder = FOLDER / "code"
    if folder.is_dir():
        return str(folder)
    folder.mkdir(parents=True)
    root = Path(sysconfig.get_paths()["stdlib"])
    splits: dict[str, list[str]] = {"validation": [], "test": [], "train": []}
    for path in sorted(path for pattern in ("*.py", "*/*.py") for path in root.glob(pattern)):
        name = str(path.relative_to(root))
        if "site-packages" in name or "test" in name:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        split = {0: "validation", 1: "test"}.get(int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20, "train")
        splits[split] += [json.dumps({"text": piece}) + "\n" for piece in pieces if len(piece) > SHORTEST]
    for split, lines in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder)


def domain_of(text: int) -> str:
    return DOMAINS[text % 2]


def seeds_of(text: int) -> list[int]:
    """The repeats on a text, by their seeds."""
    return [text * SEEDS + k for k in range(SEEDS)]


def study(text: int, ahead: bool) -> StudyConfig:
    """What the laws see, or, `ahead`, what they are judged on: other seeds, other data order, the same held-out texts."""
    source = source_of(domain_of(text))
    data = {"source": source, "train_examples": 8000, "eval_examples": 48, "max_length": 256, "seed": text}
    budget = {"tokens": TOKENS, "evaluate_from": TOKENS / 8, "evaluate_ratio": 2**0.5}
    base: dict[str, Any] = {"data": data, "training": {**budget, "learning_rate": 5e-3, "batch_tokens": BATCH_TOKENS}}
    named = {"name": "ahead" if ahead else "calibration", "base": base, "stack": 2 * SEEDS}
    if not ahead:
        cells = [{"model": model, "method.rank": rank} for model, rank in CELLS]
        runs = [{**cell, "seed": len(CELLS) * seed + number} for number, cell in enumerate(cells) for seed in seeds_of(text)]
        return parse(StudyConfig, {**named, "own_seeds": False, "runs": runs})
    near, far = FACTORS
    long = {"training.tokens": far * TOKENS, "training.evaluate_from": near * TOKENS, "training.evaluate_ratio": far / near}
    middle = {"training.tokens": MIDDLE_TOKENS, "training.evaluate_from": MIDDLE_TOKENS}
    cells = ({"model": "nano-440k", **long}, {"model": "nano-150k", **middle})
    base["method"] = {"name": "lora", "rank": RANK}
    return parse(StudyConfig, {**named, "runs": [{**cell, "seed": AHEAD + seed} for cell in cells for seed in seeds_of(text)]})


def folders(text: int) -> tuple[Path, Path]:
    """Where the studies of a text lie, and where the runs that they are judged on."""
    return FOLDER / f"text-{text}", FOLDER / f"text-{text}-ahead"


def trained(text: int) -> float:
    """Processor seconds that it took to train what is missing of the repeats on one text."""
    started = time.process_time()
    for ahead, folder in enumerate(folders(text)):
        run_study(study(text, bool(ahead)), folder, quiet=True)
    return time.process_time() - started


def repeats(text: int) -> Iterator[tuple[int, Table, Table]]:
    """(seed, what the law sees, what it is judged on) for each repeat on a text whose runs are finished."""
    try:
        table, ahead = (studied(read(folder)) for folder in folders(text))
    except UserError as absent:
        print(f"text {text}: not judged yet: {absent}")
        return
    own = {model: np.unique(ahead["seed"][ahead["model"] == model]) for model in np.unique(ahead["model"])}
    for k, seed in enumerate(seeds_of(text)):
        mine = [ahead["seed"][row] in own[ahead["model"][row]][k : k + 1] for row in range(len(ahead))]
        later = ahead.where(np.array(mine, dtype=bool))
        if len(later) == len(FACTORS) + 1:
            yield seed, table.where(table["seed"] // len(CELLS) == seed), later


def judged(text: int) -> Iterator[dict[str, Any]]:
    """The prediction for every measurement of the longer runs, from one study alone."""
    columns = {"n": "body_parameters", "d": "tokens", "p": "trainable_parameters", "u": "unique_tokens", "c": "flops"}
    for seed, seen, ahead in repeats(text):
        fitted = fit(seen, seed=seed)
        places = {short: ahead[name] for short, name in columns.items()}
        low, high = fitted.interval(places)
        factors = ahead["flops"] / seen["flops"].max()
        for row, value in enumerate(fitted.predict(places)):
            loss, factor = float(ahead["loss"][row]), float(factors[row])
            yield {
                "seed": seed,
                "text": text,
                "domain": domain_of(text),
                "model": str(ahead["model"][row]),
                "law": fitted.law,
                "factor": min(FACTORS, key=lambda named: abs(np.log(named / factor))),
                "flops_over_largest_fitted": factor,
                "predicted": float(value),
                "interval": [float(low[row]), float(high[row])],
                "measured": loss,
                "relative_error": abs(float(value) / loss - 1),
                "signed_error": float(value) / loss - 1,
                "inside_interval": bool(low[row] <= loss <= high[row]),
            }


def averaged(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    errors = [row["relative_error"] for row in rows]
    widths = [(row["interval"][1] - row["interval"][0]) / row["predicted"] for row in rows]
    return {
        "predictions": len(rows),
        "inside": statistics.fmean(row["inside_interval"] for row in rows),
        "below": statistics.fmean(row["measured"] < row["interval"][0] for row in rows),
        "median_relative_error": statistics.median(errors),
        "median_signed_error": statistics.median(row["signed_error"] for row in rows),
        "largest_relative_error": max(errors),
        "median_interval_width": statistics.median(widths),
    }


def main() -> None:
    global FOLDER
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--train", action="store_true")
    only.add_argument("--judge", action="store_true")
    given = parser.parse_args()
    FOLDER = given.folder
    torch.set_num_threads(1)
    texts = range(1, given.texts + 1)
    for text in () if given.judge else texts:
        print(f"text {text}: {trained(text):.0f} s of processor time", flush=True)
    if given.train:
        return
    rows = [row for text in texts for row in judged(text)]
    by_factor = {str(factor): averaged([row for row in rows if row["factor"] == factor]) for factor in FACTORS}
    by_domain = {domain: averaged([row for row in rows if row["domain"] == domain]) for domain in DOMAINS}
    repeats_seen = len({row["seed"] for row in rows})
    measured = {"repeats": repeats_seen, "all": averaged(rows), "by_factor": by_factor, "by_domain": by_domain, "rows": rows}
    print(json.dumps({name: value for name, value in measured.items() if name != "rows"}, indent=1))
    record("calibration", measured)


if __name__ == "__main__":
    main()
