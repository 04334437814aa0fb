"""500 or 3,000 labelled rows? A small study of a local CSV answers it, and both answers are trained.

Package descriptions stand for tickets, their sections for queues. Three base models see 500 and 3,000 rows; a law of the loss and
one of 1 - accuracy are fitted, and each plans for 500 and for 3,000 rows. Finished runs are kept in runs/tickets.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from record import record

from isolora.config import StudyConfig, parse
from isolora.plan import Limits, NoRecommendation
from isolora.study.running import run_study
from isolora.study.study_recommendation import advise, largest_fitted_flops
from isolora.table import read

FOLDER = Path("runs/tickets")
QUEUES = 8
ROWS = {"train": 3000, "validation": 400, "test": 100}
EXAMPLES = (500, 3000)
TARGETS = ("loss", "accuracy")
TOKENS = 100_000
TIMES_LARGEST = 2.0
"""Budget over the largest run of the study."""


def tickets(folder: Path) -> Path:
    """CSV files of labelled rows of the most frequent sections, in the splits of the packaged data."""
    folder.mkdir(parents=True, exist_ok=True)
    packaged = Path(str(resources.files("isolora"))) / "assets" / "debian-descriptions"
    queues: list[str] = []
    for split, count in ROWS.items():
        rows = pq.read_table(packaged / f"{split}.parquet").to_pylist()
        queues = queues or [name for name, _ in Counter(row["section"] for row in rows).most_common(QUEUES)]
        kept = [row for row in rows if row["section"] in queues]
        chosen = kept[:: max(1, len(kept) // count)][:count]  # spread over the file, which is sorted by name
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("text", "label"), *((row["description"], row["section"]) for row in chosen)])
    return folder


def study(data: Path) -> StudyConfig:
    training = {
        "tokens": TOKENS,
        "learning_rate": 5e-3,
        "batch_tokens": 1024,
        "evaluate_from": TOKENS // 16,
        "evaluate_ratio": 1.4,
    }
    base = {
        "task": "sequence-classification",
        "data": {"source": str(data), "eval_examples": ROWS["validation"], "max_length": 64, "on_error": "skip"},
        "method": {"name": "lora", "rank": 8},
        "training": training,
    }
    grid = {"model": ["nano-55k", "nano-150k", "nano-440k"], "data.train_examples": [500, 3000]}
    return parse(StudyConfig, {"name": "tickets", "base": base, "grid": grid})


def answered(examples: int, target: str) -> dict[str, Any]:
    """The plan for so many rows, trained."""
    try:
        table = read(FOLDER)
        budget = f"{TIMES_LARGEST * largest_fitted_flops(table, target):g}flops"
        advice = advise(FOLDER, table, budget, limits=Limits(examples), target=target)
    except NoRecommendation as refusal:
        return {"examples": examples, "target": target, "refused": refusal.reason}
    proof, plan = advice.verified(quiet=True), advice.recommendation
    chosen = {"model": plan.model, "tokens": plan.tokens, "distinct_examples": plan.examples, "passes": round(plan.epochs, 2)}
    return {"examples": examples, **chosen, **{key: value for key, value in proof.to_json().items() if key != "adapter"}}


def main() -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    run_study(study(tickets(FOLDER / "data")), FOLDER, quiet=True)
    rows = [answered(examples, target) for target in TARGETS for examples in EXAMPLES]
    for row in rows:
        print(row)
    record("tickets", {"seconds": time.perf_counter() - started, "rows": rows})


if __name__ == "__main__":
    main()
