"""Every example in examples/ on real data: its score before and after training, beside a floor that needs no training.

python benchmarks/bench_examples.py [NAME ...]: these examples alone. The record's other rows stay, each with its date and commit.
A run that has ended is measured again and not trained again; seconds are those of training alone.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, moment, record

from isolora.config import load_run
from isolora.evaluation import evaluate
from isolora.metrics.direction import larger_is_better
from isolora.metrics.entities import entity_scores
from isolora.metrics.rouge import rouge_scores
from isolora.runs.document_loader import RunDocuments
from isolora.training import train

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDER = Path("runs/examples")
Columns = Mapping[str, list[Any]]


def commonest_tags(train: Columns, test: Columns) -> float:
    """Token F1 where each word has the tag it mostly had in training, unknown words O."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in zip(train["tokens"], train["tags"], strict=True):
        for word, tag in zip(words, tags, strict=True):
            seen[word][tag] += 1
    commonest = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    return entity_scores(test["tags"], [[commonest.get(word, "O") for word in words] for words in test["tokens"]])["token_f1"]


def commonest_of(column: str) -> Callable[[Columns, Columns], float]:
    """Accuracy of the value that is commonest in training."""

    def accuracy(train: Columns, test: Columns) -> float:
        commonest = Counter(train[column]).most_common(1)[0][0]
        return float(np.mean([value == commonest for value in test[column]]))

    return accuracy


def never_an_answer(train: Columns, test: Columns) -> float:
    """Exact match of saying that no text answers."""
    return float(np.mean([not answers["text"] for answers in test["answers"]]))


def lead_words(train: Columns, test: Columns) -> float:
    """ROUGE-L of a document's first words, as many as score best on some training documents."""

    def score(data: Columns, count: int) -> float:
        leads = [" ".join(text.split()[:count]) for text in data["document"]]
        return rouge_scores(data["summary"], leads)["rougeL"]

    some = {column: train[column][:500] for column in ("document", "summary")}
    return score(test, max(range(4, 25, 2), key=lambda count: score(some, count)))


def by_length(train: Columns, test: Columns) -> float:
    """Accuracy of the longer answer, or of the shorter one, whichever was mostly the better in training."""

    def longer(data: Columns) -> float:
        return float(np.mean([len(c) > len(r) for c, r in zip(data["chosen"], data["rejected"], strict=True)]))

    return longer(test) if longer(train) > 0.5 else 1 - longer(test)


@dataclass(frozen=True)
class Example:
    """measure: the task's main score; floor: what is reached without a model, None where the base model is the floor."""

    measure: str
    floor: Callable[[Columns, Columns], float] | None = None
    called: str = "the base model"


TESTED = {
    "lora": Example("bits_per_byte"),
    "token-classification": Example("token_f1", commonest_tags, "each word's commonest tag"),
    "sequence-classification": Example("accuracy", commonest_of("label"), "the commonest section"),
    "question-answering": Example("exact", never_an_answer, "never an answer"),
    "summarization": Example("rougeL", lead_words, "lead words"),
    "conversation": Example("perplexity"),
    "preference": Example("reward_accuracy", by_length, "by length"),
    "instruction": Example("exact_match", commonest_of("section"), "the commonest section"),
}
"""An example's file -> what it is measured by."""


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Train the example, in a folder of its own within this one, and score it: a row of the table."""
    config, example = load_run(EXAMPLES / f"{name}.yaml"), TESTED[name]
    folder = folder / f"{name}-{config.identity()}"
    ended = train(config, folder, quiet=True)
    trained, untrained = (evaluate(folder, bare=bare)["metrics"][example.measure] for bare in (False, True))
    documents = RunDocuments.load(config)
    texts = documents.train, documents.held_out
    return {
        "example": name,
        "task": config.task.name,
        "model": config.model,
        "trainer": config.training.trainer,
        "data": config.data.source,
        "measure": example.measure,
        "floor": untrained if example.floor is None else example.floor(*(part.fields for part in texts)),
        "floor_is": example.called,
        "untrained": untrained,
        "score": trained,
        "seconds": ended["seconds"],
        **moment(),
    }


def gain(row: Mapping[str, Any], over: str) -> float:
    """How much better the score is than "floor" or "untrained", positive where it is."""
    difference = float(row["score"] - row[over])
    return difference if larger_is_better(row["measure"]) else -difference


def line(row: Mapping[str, Any]) -> str:
    numbers = " | ".join(f"{row[name]:.3f}" for name in ("floor", "untrained", "score"))
    words = " | ".join(str(row[name]) for name in ("task", "model", "trainer", "data", "measure", "floor_is"))
    return f"| {words} | {numbers} | {row['seconds']:.0f} |"


def main(names: Sequence[str]) -> None:
    path = RESULTS / "examples.json"
    rows = {row["example"]: row for row in json.loads(path.read_text())["measured"]["examples"]} if path.is_file() else {}
    for name in names or TESTED:
        rows[name] = measured(name, FOLDER)
        print(line(rows[name]), flush=True)
        record("examples", {"examples": [rows[name] for name in TESTED if name in rows]})


if __name__ == "__main__":
    main(sys.argv[1:])
