"""Training speed beside Hugging Face's Trainer with PEFT: real tokens a second, alternating in one process, medians with spread.

"Documented" is what PEFT's pages show: adapter dropout 0.1, random batches, logging. "Tuned" groups texts by length, has no
dropout and logs nothing; of the batches that transformers' sampler makes of all examples, a few are drawn, since the first ones
are the longest. Both get the same examples, the same adapter and as many padded tokens a step as ours. Stacks take fewer
steps, by the number of their members. About eleven minutes on one core; `--quick` proves that everything runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from record import record
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.calibration import product_rate
from isolora.runs.prepared import PreparedRun
from isolora.runs.workspace import Workspace
from isolora.tasks.base import IGNORED, Examples
from isolora.training.stack import Stack
from isolora.training.training_run import loaded_stack

SECTIONS = {"completion": " {{ section }}", "template": "{{ description }} Section:"}
WORKS: dict[str, dict[str, Any]] = {
    "nano-1m causal-lm": {"model": "nano-1m", "task": "causal-lm", "data": {"source": "debian-descriptions"}},
    "nano-1m instruction": {
        "model": "nano-1m",
        "task": {"name": "instruction", "score_examples": 5, **SECTIONS},
        "data": {"source": "debian-descriptions"},
    },
    "MiniLM token classification": {
        "model": "minilm-l6",
        "task": "token-classification",
        "data": {"source": "pii-synthetic", "max_length": 256},
    },
    "SmolLM2-135M causal-lm": {
        "model": "smollm2-135m",
        "task": "causal-lm",
        "data": {"source": "debian-descriptions", "train_examples": 600},
    },
    "SmolLM2-135M synopses": {
        "model": "smollm2-135m",
        "task": "summarization",
        "data": {"source": "debian-descriptions", "train_examples": 600},
    },
}


@dataclass(frozen=True)
class Extent:
    """How much of a work is measured. members: of stacks; steps: of a run on its own; rounds: of all contestants."""

    batch_tokens: int
    members: tuple[int, ...]
    steps: int
    rounds: int


EXTENTS = {
    "nano-1m": Extent(2048, (1, 4, 8), 12, 3),
    "minilm-l6": Extent(1024, (1, 4), 6, 3),
    "smollm2-135m": Extent(512, (1, 4), 3, 2),
}
FEWEST_STEPS = 2
SKIPPED = 1
"""Steps at the beginning that are not counted."""


@dataclass(frozen=True)
class Speed:
    """Of one go. flops: by the ledger, 0 for others than us, whose padding differs."""

    tokens: int
    seconds: float
    flops: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def extent(work: str) -> Extent:
    return EXTENTS[WORKS[work]["model"]]


def run_of(work: str, seed: int = 0) -> RunConfig:
    given = WORKS[work]
    data = {"train_examples": 2000, "eval_examples": 20, **given["data"]}
    training = {"steps": 10_000, "batch_tokens": extent(work).batch_tokens, "evaluate_from": 10**9}
    method = {"name": "lora", "rank": 8}
    return parse(RunConfig, {**given, "data": data, "method": method, "training": training, "seed": seed})


def ours(work: str, members: int, steps: int) -> Speed:
    """A stack of so many members, all of its tokens counted."""
    configs = [run_of(work, seed) for seed in range(members)]
    with loaded_stack(configs, [str(seed) for seed in range(members)], Workspace()) as (stack, _, _):
        stack.attached.train(True)
        for _ in range(SKIPPED):
            stack.step()
        before, started = consumed(stack), time.perf_counter()
        for _ in range(steps):
            stack.step()
        seconds, after = time.perf_counter() - started, consumed(stack)
    return Speed(int(after[0] - before[0]), seconds, after[1] - before[1])


def consumed(stack: Stack) -> tuple[float, float]:
    """(real tokens, FLOPs) of all members so far."""
    return (
        sum(member.progress.tokens for member in stack.members),
        sum(member.progress.flops for member in stack.members),
    )


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples as Hugging Face wants them: a language model's labels stand where the tokens are and are shifted by the model."""

    def __init__(self, examples: Examples, shifted: bool, order: list[int]) -> None:
        self.examples, self.shifted, self.order = examples, shifted, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = self.order[place]
        span = slice(self.examples.starts[number], self.examples.starts[number + 1])
        labels = self.examples.labels[span]
        if self.shifted:
            labels = np.concatenate([[IGNORED], labels[:-1]])
        return {"input_ids": self.examples.ids[span], "labels": labels, "length": len(labels)}


def drawn(lengths: Any, rows: int, grouped: bool, count: int) -> list[int]:
    """Examples of so many whole batches of a pass, drawn at random; grouped: by length, as transformers' sampler does."""
    generator = torch.Generator().manual_seed(0)
    order = get_length_grouped_indices(lengths.tolist(), rows, generator=generator) if grouped else None
    order = torch.randperm(len(lengths), generator=generator).tolist() if order is None else order
    batches = [order[start : start + rows] for start in range(0, len(order) - rows + 1, rows)]
    chosen = torch.randperm(len(batches), generator=generator)[:count].tolist()
    return [number for batch in chosen for number in batches[batch]]


def padded(rows: list[dict[str, Any]], pad_id: int) -> dict[str, Tensor]:
    def column(name: str, fill: int) -> Tensor:
        parts = [torch.from_numpy(np.asarray(row[name], np.int64)) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)

    lengths = torch.tensor([row["length"] for row in rows])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {"input_ids": column("input_ids", pad_id), "labels": column("labels", IGNORED), "attention_mask": mask}


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.moments.append(time.perf_counter())


def hugging_face(work: str, tuned: bool, steps: int) -> Speed:
    config = run_of(work)
    with PreparedRun.load(config) as run:
        examples, causal = run.examples.train, run.task.auto_class(run.task.architecture) == "AutoModelForCausalLM"
        for module in run.base.model.modules():  # transformers' own code in place of ours
            vars(module).pop("forward", None)
        dropout = 0.0 if tuned else 0.1
        adapter = LoraConfig(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=linear_names(run.base.model))
        model = get_peft_model(run.base.model, adapter)
        rows_a_step = max(1, int(extent(work).batch_tokens / examples.lengths.mean()))
        counted: list[int] = []

        def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            counted.append(sum(row["length"] for row in rows))
            return padded(rows, run.base.pad_id)

        arguments = TrainingArguments(
            output_dir="/tmp/isolora-bench",
            max_steps=steps + SKIPPED,
            per_device_train_batch_size=rows_a_step,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            logging_steps=10**6 if tuned else 1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        clock = Clock()
        rows = Rows(examples, causal, drawn(examples.lengths, rows_a_step, tuned, steps + SKIPPED))
        Trainer(model, arguments, data_collator=collate, train_dataset=rows, callbacks=[clock]).train()
        model.unload()
    return Speed(sum(counted[SKIPPED : steps + SKIPPED]), clock.moments[-1] - clock.moments[SKIPPED - 1])


def linear_names(model: Any) -> list[str]:
    """What our `all-linear` adapts."""
    body = set(model.base_model.modules())
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module in body]


def contestants(work: str, steps: int) -> dict[str, Callable[[], Speed]]:
    return {
        "HF documented": lambda: hugging_face(work, False, steps),
        "HF tuned": lambda: hugging_face(work, True, steps),
        **{
            f"ours, {count} members": lambda count=count: ours(work, count, max(FEWEST_STEPS, steps // count))  # type: ignore[misc]
            for count in extent(work).members
        },
    }


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(work: str, steps: int, rounds: int) -> dict[str, Any]:
    """Contestants take turns; medians, and the lowest and highest.

    A share of the peak counts the FLOPs that our ledger has for a real token, whoever trains it: what a contestant gains by
    leaving work out and what he loses by padding is in it. The peak over HF tuned is the most that any loop could reach.
    """
    found: dict[str, list[Speed]] = {}
    for _ in range(rounds):
        for name, go in contestants(work, steps).items():
            found.setdefault(name, []).append(go())
    alone = found[f"ours, {min(extent(work).members)} members"]
    peak_tokens = product_rate(run_of(work)) / statistics.median(speed.flops / speed.tokens for speed in alone)
    rates = {name: [speed.tokens_per_second for speed in speeds] for name, speeds in found.items()}
    rates["peak"] = [peak_tokens]
    reference = statistics.median(rates["HF tuned"])
    return {
        name: {
            "tokens_per_second": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "over_hf_tuned": statistics.median(values) / reference,
            "share_of_peak": statistics.median(values) / peak_tokens,
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two steps of each, nothing recorded")
    parser.add_argument("--only", default="", help="part of a work's name")
    given = parser.parse_args()
    present = models.packaged_models() | models.fetched()
    works = [work for work in WORKS if given.only in work and WORKS[work]["model"] in present]
    found: dict[str, Any] = {}
    with one_thread():
        for work in works:
            steps, rounds = (2, 1) if given.quick else (extent(work).steps, extent(work).rounds)
            found[work] = measured(work, steps, rounds)
            for name, values in found[work].items():
                rate, ratio, share = (values[key] for key in ("tokens_per_second", "over_hf_tuned", "share_of_peak"))
                print(f"{work:<30}{name:<18}{rate:>10,.0f} tokens/s  {ratio:.2f} x tuned  {share:.0%} of the peak", flush=True)
    if not given.quick:
        record("speed", {"extents": {name: asdict(extent) for name, extent in EXTENTS.items()}, "threads": 1, "works": found})


if __name__ == "__main__":
    main()
