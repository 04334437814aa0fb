"""How honest are the intervals? Twenty small studies, other seeds and held-out texts each, over two domains of text.

Each repeat is a study of three bases and two ranks, and two longer runs that the law never sees: the largest base up to 10 x the
study's largest compute, measured at 4 x on its way, and the middle base at 4 x. Domains alternate: package descriptions, and the
source code of Python's own library, cut into pieces, split by file. Finished runs stay in the folder, so that a second call
only fits and judges again; delete it to train anew. `--train` trains and judges nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from isolora.config import StudyConfig, parse
from isolora.fit import fit, studied
from isolora.study.running import run_study
from isolora.table import read

FOLDER = Path("runs/calibration")
REPEATS = 20
DOMAINS = ("descriptions", "code")
TOKENS = 32_768
RANK = 8
FACTORS = (4, 10)
MIDDLE_TOKENS = 8.5 * TOKENS
"""A token of the middle base costs 2.1 to 2.2 times less than one of the largest: 4 x the largest compute."""
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


def study(seed: int, ahead: bool) -> StudyConfig:
    """What the law sees, or, `ahead`, what it is judged on: other seeds, other data order, the same held-out texts."""
    data = {"source": source_of(DOMAINS[seed % 2]), "train_examples": 8000, "eval_examples": 80, "max_length": 256, "seed": seed}
    training = {"tokens": TOKENS, "learning_rate": 5e-3, "batch_tokens": 512, "evaluate_from": 4096, "evaluate_ratio": 2**0.5}
    base = {"data": data, "training": training, "seed": seed}
    if not ahead:
        grid = {"model": ["nano-440k", "nano-150k", "nano-55k"], "method.rank": [2, RANK]}
        return parse(StudyConfig, {"name": "calibration", "base": base, "grid": grid})
    near, far = FACTORS
    long = {"training.tokens": far * TOKENS, "training.evaluate_from": near * TOKENS, "training.evaluate_ratio": far / near}
    middle = {"training.tokens": MIDDLE_TOKENS, "training.evaluate_from": MIDDLE_TOKENS}
    runs = [{"model": "nano-440k", **long}, {"model": "nano-150k", **middle}]
    base["method"] = {"name": "lora", "rank": RANK}
    return parse(StudyConfig, {"name": "ahead", "base": base, "runs": runs})


def trained(seed: int) -> float:
    """Seconds that it took to train what is missing of one repeat."""
    started = time.perf_counter()
    for ahead in (False, True):
        run_study(study(seed, ahead), FOLDER / f"{seed}{'-ahead' if ahead else ''}", quiet=True)
    return time.perf_counter() - started


def judged(seed: int) -> list[dict[str, Any]]:
    """The prediction for every measurement of the longer runs, from the study alone."""
    table, ahead = studied(read(FOLDER / str(seed))), read(FOLDER / f"{seed}-ahead")
    fitted = fit(table, seed=seed)
    columns = {"n": "body_parameters", "d": "tokens", "p": "trainable_parameters", "u": "unique_tokens", "c": "flops"}
    places = {short: ahead[name] for short, name in columns.items()}
    low, high = fitted.interval(places)
    largest = table["flops"].max()
    rows = zip(ahead["model"], ahead["flops"] / largest, fitted.predict(places), low, high, ahead["loss"], strict=True)
    return [
        {
            "seed": seed,
            "domain": DOMAINS[seed % 2],
            "model": str(model),
            "law": fitted.law,
            "factor": min(FACTORS, key=lambda named: abs(np.log(named / factor))),
            "flops_over_largest_fitted": float(factor),
            "predicted": float(value),
            "interval": [float(below), float(above)],
            "measured": float(loss),
            "relative_error": abs(float(value / loss - 1)),
            "inside_interval": bool(below <= loss <= above),
        }
        for model, factor, value, below, above, loss in rows
        if factor > 2
    ]


def averaged(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    errors = [row["relative_error"] for row in rows]
    widths = [(row["interval"][1] - row["interval"][0]) / row["predicted"] for row in rows]
    return {
        "predictions": len(rows),
        "inside": statistics.fmean(row["inside_interval"] for row in rows),
        "below": statistics.fmean(row["measured"] < row["interval"][0] for row in rows),
        "median_relative_error": statistics.median(errors),
        "largest_relative_error": max(errors),
        "median_interval_width": statistics.median(widths),
    }


def main() -> None:
    global FOLDER
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--train", action="store_true")
    given = parser.parse_args()
    FOLDER = given.folder
    torch.set_num_threads(1)
    for seed in range(1, given.repeats + 1):
        print(f"repeat {seed}: {trained(seed):.0f} s", flush=True)
    if given.train:
        return
    rows = [row for seed in range(1, given.repeats + 1) for row in judged(seed)]
    by_factor = {str(factor): averaged([row for row in rows if row["factor"] == factor]) for factor in FACTORS}
    by_domain = {domain: averaged([row for row in rows if row["domain"] == domain]) for domain in DOMAINS}
    measured = {"repeats": given.repeats, "all": averaged(rows), "by_factor": by_factor, "by_domain": by_domain, "rows": rows}
    print(json.dumps({name: value for name, value in measured.items() if name != "rows"}, indent=1))
    record("calibration", measured)


if __name__ == "__main__":
    main()
