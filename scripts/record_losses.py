"""Record the losses of a set of small runs bit for bit, so that a refactor can be compared with what was there before it.

    python scripts/record_losses.py before.json        (on the old commit)
    python scripts/record_losses.py after.json --against before.json

Every task, every method of our own, some of PEFT's, a stack of four, the Trainer backends, and a resume in the middle; packaged
models and data only, about three minutes on two cores. Uses the public surface alone, so that the script runs on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SMALL = (
    "model=nano-55k",
    "data.train_examples=300",
    "data.eval_examples=20",
    "data.max_length=96",
    "data.on_error=skip",  # conversations longer than that have nothing to learn
    "training.batch_tokens=512",
    "training.tokens=6000",
    "training.evaluate_from=2000",
)
TASKS = {
    "causal-lm": ["data.source=debian-descriptions"],
    "causal-lm-packed": ["data.source=debian-descriptions", "task={name: causal-lm, packing: true}"],
    "causal-lm-mixed": [
        "data.source=debian-descriptions",
        "data.mix=[{source: general-english, share: 0.3}]",
        "forgetting={examples: 10}",
    ],
    "token-classification": ["task=token-classification", "data.source=pii-synthetic"],
    "sequence-classification": ["task=sequence-classification", "data.source=debian-descriptions"],
    "question-answering": ["task=question-answering", "data.source=debian-questions", "data.max_length=256"],
    "summarization": ["task=summarization", "data.source=debian-descriptions"],
    "conversation": ["task=conversation", "data.source=debian-conversations"],
    "preference": ["task=preference", "data.source=debian-preferences"],
    "instruction": [
        "task={name: instruction, max_new_tokens: 4, score_examples: 5, completion: ' {{ section }}', "
        "template: '{{ description }} Section:'}",
        "data.source=debian-descriptions",
    ],
}
METHODS = {
    "lora-dropout": ["method={name: lora, rank: 8, dropout: 0.1}"],
    "qlora": ["method={name: qlora, rank: 4}"],
    "adalora": ["method={name: adalora}"],
    "prefix": ["method={name: prefix}"],
    "p-tuning": ["method={name: p-tuning}"],
    "prompt": ["method={name: prompt}"],
    "llama-adapter": ["method={name: llama-adapter}"],
    "bottleneck": ["method={name: bottleneck}"],
    "selective": ["method={name: selective, train: norms}"],
    "full": ["method={name: full}"],
    "vera": ["method={name: 'peft:VERA'}"],
    "new-tokens": ["new_tokens=['<one>', '<two>']"],
    "accumulation": ["training.accumulation=2", "training.clip_norm=0.5", "training.schedule=cosine", "training.warmup_steps=3"],
    "checkpointing": ["training.gradient_checkpointing=true"],
    "bfloat16": ["training.precision=bfloat16"],
}
TRAINERS = {
    "hf": ["training.trainer=hf"],
    "sft": ["training.trainer=sft", "task=conversation", "data.source=debian-conversations"],
    "dpo": ["training.trainer=dpo", "task=preference", "data.source=debian-preferences"],
}
STUDY = """
name: recorded
base:
  model: nano-55k
  data: {source: debian-descriptions, train_examples: 300, eval_examples: 20, max_length: 96}
  training: {tokens: 6000, batch_tokens: 512, evaluate_from: 2000}
grid: {method.rank: [2, 4, 8, 16]}
stack: 4
"""


def points(folder: Path) -> list[list[Any]]:
    """[run's number, tokens, padding, FLOPs, loss, measures] of every evaluation, floats to the last bit."""
    import isolora

    rows = isolora.Store(folder).points()
    names = list(dict.fromkeys(row["run"] for row in rows))
    return [
        [
            names.index(row["run"]),
            *(row[name] for name in ("tokens", "padding_tokens")),
            *(float(row[name]).hex() for name in ("flops", "loss")),
            json.loads(row["metrics"]),
        ]
        for row in rows
    ]


def recorded(wanted: str) -> dict[str, list[list[Any]]]:
    import isolora

    found: dict[str, list[list[Any]]] = {}
    sets = {**TASKS, **{name: ["data.source=debian-descriptions", *words] for name, words in {**METHODS, **TRAINERS}.items()}}
    with tempfile.TemporaryDirectory() as aside:
        for name, words in sets.items():
            if wanted in name:
                found[name] = one(Path(aside) / name, [*SMALL, *words])
                print(name, len(found[name]), found[name][-1][1:5] if found[name] else "-", file=sys.stderr, flush=True)
        if wanted in "stack-of-four":
            (Path(aside) / "study.yaml").write_text(STUDY)
            isolora.run_study(isolora.load_study(Path(aside) / "study.yaml"), Path(aside) / "stack")
            found["stack-of-four"] = points(Path(aside) / "stack")
        if wanted in "resumed":
            found["resumed"] = killed_and_resumed(Path(aside) / "resumed")
    return found


def one(folder: Path, words: list[str]) -> list[list[Any]]:
    import isolora

    isolora.train(isolora.load_run(None, words), folder, quiet=True)
    return points(folder)


def killed_and_resumed(folder: Path) -> list[list[Any]]:
    """A run whose process is killed at its first checkpoint, then finished by another."""
    words = [*SMALL, "data.source=debian-descriptions", "training.tokens=20000", "training.checkpoint_seconds=0.0001"]
    code = f"import isolora; isolora.train(isolora.load_run(None, {words!r}), {str(folder)!r}, quiet=True)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and not any(folder.glob("checkpoints/*/step-*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return one(folder, words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="a file of an earlier commit; exit status 1 where anything differs")
    parser.add_argument("--only", default="", help="part of a run's name")
    given = parser.parse_args()
    found = recorded(given.only)
    given.out.write_text(json.dumps(found, indent=1))
    if given.against is None:
        return 0
    before = json.loads(given.against.read_text())
    differing = [name for name in found if name in before and before[name] != json.loads(json.dumps(found[name]))]
    print(f"{len(found)} runs, {sum(map(len, found.values()))} points; differing: {', '.join(differing) or 'none'}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
