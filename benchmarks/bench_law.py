"""Time to a law: the demo's grid of points and their held-out losses, whole makespan with start-up, got in three ways.

(a) a loop over transformers' Trainer and PEFT, a run for every point, tuned (float32, length grouping, no dropout, no logging);
(b) the same with evaluations along one constant-rate run per cell, as an expert would do it;
(c) `isolora study`.

Each starts fresh processes, with nothing kept from before. The laws fitted to each table are compared on the points of the
largest budgets. `--quick` goes through all three with one rank, fewer points and few texts, and records nothing.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from record import record

import isolora

QUICK = "--quick" in sys.argv
MODELS, RANKS = ("nano-55k", "nano-150k", "nano-440k"), ((4,) if QUICK else (4, 16))
MARKS = tuple(round(4096 * 2 ** (k / 2)) for k in range(4 if QUICK else 8))
"""Tokens at which a held-out loss is wanted: 4,096 to 46,341."""
RATE, BATCH_TOKENS, EXAMPLES, HELD_OUT, LENGTH = 5e-3, 512, 300 if QUICK else 6000, 80, 256
STUDY = {
    "name": "law",
    "base": {
        "data": {"source": "debian-descriptions", "train_examples": EXAMPLES, "eval_examples": HELD_OUT, "max_length": LENGTH},
        "training": {
            "tokens": MARKS[-1],
            "batch_tokens": BATCH_TOKENS,
            "learning_rate": RATE,
            "evaluate_from": MARKS[0],
            "evaluate_ratio": 2**0.5,
            "evaluate_between": HELD_OUT // 4,
        },
    },
    "grid": {"model": list(MODELS), "method.rank": list(RANKS)},
}
WORKERS = 2


def ours(folder: Path) -> None:
    (folder / "study.yaml").write_text(json.dumps(STUDY))
    words = ["study", str(folder / "study.yaml"), "--out", str(folder / "study"), "--workers", str(WORKERS)]
    environment = {**os.environ, "ISOLORA_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "isolora", *words], check=True, capture_output=True, env=environment)


def trainer_runs(folder: Path, along: bool) -> None:
    """Cells in as many processes as ours; along: one run a cell, evaluated on its way, in place of a run for every point."""
    cells = [
        (model, rank, MARKS if along else (mark,))
        for model, rank in product(MODELS, RANKS)
        for mark in MARKS[: 1 if along else None]
    ]
    shares = [cells[worker::WORKERS] for worker in range(WORKERS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--worker"]
    started = [
        subprocess.Popen(
            [*words, json.dumps(share), str(folder / f"points-{number}.json"), *(["--quick"] * QUICK)], env=environment
        )
        for number, share in enumerate(shares)
    ]
    assert not any(process.wait() for process in started)


def worker(cells: list[Any], out: Path) -> None:
    """One loop over Trainer and PEFT, the texts tokenised once, each base loaded for each run as scripts do."""
    points = [point for model, rank, marks in cells for point in trainer_run(model, rank, marks)]
    out.write_text(json.dumps(points))


@cache
def tokenised(model_name: str) -> tuple[Any, Any, Any]:
    """(tokenizer, training rows, held-out rows) of one process, the same texts as ours."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from isolora import load_run
    from isolora.models import locate
    from isolora.runs.document_loader import RunDocuments

    words = [f"model={model_name}", *(f"data.{key}={value}" for key, value in STUDY["base"]["data"].items())]  # type: ignore[index]
    documents = RunDocuments.load(load_run(None, words))
    tokenizer = AutoTokenizer.from_pretrained(locate(model_name))
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def rows(texts: list[str]) -> Dataset:
        ended = [text + tokenizer.eos_token for text in texts]
        return Dataset.from_dict(dict(tokenizer(ended, truncation=True, max_length=LENGTH)))

    return tokenizer, rows(documents.train.texts), rows(documents.held_out.texts)


def trainer_run(model_name: str, rank: int, marks: tuple[int, ...]) -> list[dict[str, Any]]:
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from isolora.models import locate

    tokenizer, train, held_out = tokenised(model_name)
    mean = sum(map(len, train["input_ids"])) / len(train)
    rows = max(1, round(BATCH_TOKENS / mean))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(locate(model_name), dtype="float32")  # float16, as published, is slow on a CPU
    model = get_peft_model(base, config)
    steps = [max(1, round(mark / (rows * mean))) for mark in marks]

    class AtMarks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_evaluate = state.global_step in steps

    with tempfile.TemporaryDirectory() as aside:
        arguments = TrainingArguments(
            output_dir=aside,
            max_steps=steps[-1],
            per_device_train_batch_size=rows,
            per_device_eval_batch_size=2 * rows,
            learning_rate=RATE,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            train_sampling_strategy="group_by_length",
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        trainer = Trainer(model, arguments, collator, train, held_out, callbacks=[AtMarks()])
        trainer.train()
        losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    n = sum(
        p.numel() for name, p in model.named_parameters() if "lora" not in name and "embed" not in name and "lm_head" not in name
    )
    return [
        {"n": n, "rank": rank, "d": mark, "model": model_name, "method": "lora", "loss": loss, "flops": 4 * n * mark}
        for mark, loss in zip(marks, losses, strict=True)
    ]


def held_out_error(source: Path, mapping: dict[str, str]) -> float:
    """Mean relative error of the law on the points of the largest budget, which it has not seen."""
    import numpy as np

    table = isolora.read(source, mapping)
    largest = table["tokens"] >= 0.99 * MARKS[-1]
    law = isolora.fit_law(table.where(~largest), law="additive", bootstrap=0, holdout="none")
    predicted = law.predict({"n": table["body_parameters"][largest], "d": table["tokens"][largest]})
    centre = predicted[0] if isinstance(predicted, tuple) else predicted
    return float(np.abs(np.asarray(centre) / table["loss"][largest] - 1).mean())


def main() -> None:
    if "--worker" in sys.argv:
        worker(json.loads(sys.argv[2]), Path(sys.argv[3]))
        return
    compileall.compile_dir(str(Path(isolora.__file__).parent), quiet=2)  # as pip does; the libraries are compiled already
    rows = {}
    with tempfile.TemporaryDirectory() as aside:
        for name, act in (
            ("isolora study", ours),
            ("trainer, one run a cell", lambda folder: trainer_runs(folder, along=True)),
            ("trainer, one run a point", lambda folder: trainer_runs(folder, along=False)),
        ):
            folder = Path(aside) / name.replace(" ", "-").replace(",", "")
            folder.mkdir()
            started = time.perf_counter()
            act(folder)
            rows[name] = {"seconds": time.perf_counter() - started, "error": error_of(folder)}
            print(name, rows[name], flush=True)
    seconds = {name: row["seconds"] for name, row in rows.items()}
    ratios = {name: value / seconds["isolora study"] for name, value in seconds.items()}
    print(ratios)
    if not QUICK:
        record("law", {"points": len(MODELS) * len(RANKS) * len(MARKS), "workers": WORKERS, "rows": rows, "over_ours": ratios})


def error_of(folder: Path) -> float:
    if (folder / "study").is_dir():
        return held_out_error(folder / "study", {})
    points = [point for file in sorted(folder.glob("points-*.json")) for point in json.loads(file.read_text())]
    (folder / "points.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return held_out_error(folder / "points.jsonl", {})


if __name__ == "__main__":
    main()
