"""The ledger beside what others say of the same training steps: HF Trainer, DeepSpeed, 6ND; and what known models cost.

HF Trainer trains random weights on the CPU, each batch padded to its longest text, and torch's counter watches: the ledger is
proved on the very steps on which it is compared. LLaMA-7B's steps have the same shapes and no weights. DeepSpeed is asked where
it has been put, which leaves .venv as it is:

    .venv/bin/pip install --no-deps --no-build-isolation --target .build/deepspeed deepspeed hjson py-cpuinfo msgpack einops ninja
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from record import record
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.flops import rehearse
from isolora.data import load_documents
from isolora.ledger import BatchShape, Flops, Ledger

Batch = dict[str, Tensor]

DEEPSPEED = Path(__file__).resolve().parents[1] / ".build" / "deepspeed"
STEPS, ROWS, LONGEST, RANK, VIRTUAL_TOKENS = 2, 2, 160, 16, 20
TRAINED = {"roberta-base": "sequence-classification", "HuggingFaceTB/SmolLM2-135M": "causal-lm"}
SHAPE_ALONE = {"huggyllama/llama-7b": "causal-lm"}
PEFT_TASKS = {"sequence-classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"name": "lora", "rank": RANK},
    "prompt tuning": {"name": "prompt", "virtual_tokens": VIRTUAL_TOKENS},
    "last layer": {"name": "selective", "train": "layers", "layers": "last 1"},
}
RULES = ("HF Trainer total_flos", "DeepSpeed profiler x 3", "6ND, all weights", "6ND, without embeddings")
PRICED = {
    **dict.fromkeys(("roberta-base", "roberta-large"), "token-classification"),
    "facebook/bart-large-xsum": "summarization",
    **dict.fromkeys(("gpt2", "microsoft/DialoGPT-large", "bigscience/bloom-1b7", "huggyllama/llama-7b"), "causal-lm"),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "causal-lm",
}
MEASURED = """
import json, resource, subprocess, sys
answer = json.loads(subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True).stdout)
own = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({**answer, "processor_seconds": own.ru_utime + own.ru_stime, "program_bytes": own.ru_maxrss * 1024}))
"""
"""A small process around the measured one, whose peak memory Linux would else start at what this one holds."""


def run_of(model: str, method: str) -> RunConfig:
    return parse(RunConfig, {"model": model, "task": (TRAINED | SHAPE_ALONE)[model], "method": METHODS[method]})


def batches(model: str) -> list[Batch]:
    """Packaged texts by a packaged tokenizer, padded to the longest of their batch; a label for each token, or for each text."""
    tokenizer = models.load_tokenizer(RunConfig(model="nano-1m"))
    texts = list(islice(load_documents(RunConfig().data).train.texts, STEPS * ROWS))
    rows = [torch.tensor(tokenizer(text, truncation=True, max_length=LONGEST).input_ids) for text in texts]
    padded = [_padded(rows[first : first + ROWS]) for first in range(0, len(rows), ROWS)]
    each_text = PEFT_TASKS[run_of(model, "LoRA").task.name] == "SEQ_CLS"
    return [step | {"labels": step["labels"][:, 0]} for step in padded] if each_text else padded


def _padded(rows: list[Tensor]) -> Batch:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, 0, -100)}


def theirs(model: str, method: str) -> Any:
    """The model, random on the CPU or an empty shape, as transformers and PEFT prepare it for training."""
    config = run_of(model, method)
    task = models.bound_task(config, ("0", "1"))
    architecture, kind = models.load_architecture(config, task), PEFT_TASKS[config.task.name]
    with torch.device("cpu" if model in TRAINED else "meta"):
        plain = getattr(transformers, task.auto_class(architecture)).from_config(architecture, dtype=torch.float32)
        if method == "LoRA":
            return get_peft_model(plain, LoraConfig(r=RANK, target_modules="all-linear", task_type=kind))
        if method == "prompt tuning":
            prompt = PromptTuningConfig(num_virtual_tokens=VIRTUAL_TOKENS, num_transformer_submodules=1, task_type=kind)
            return get_peft_model(plain, prompt)
    last = f".{architecture.num_hidden_layers - 1}."
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(last in name or name.startswith("classifier"))
    return plain


def exact(price: Ledger, steps: list[Batch]) -> float:
    """FLOPs with logits for every label, padding's too, as transformers computes them; isolora's own loop leaves those out."""
    shapes = (BatchShape(*step["input_ids"].shape, step["labels"].numel()) for step in steps)
    return sum((price.flops(shape) for shape in shapes), Flops()).total


def trained(model: str, method: str, steps: list[Batch]) -> tuple[float, int]:
    """(HF Trainer's total_flos, FLOPs that torch counts) of a real run over the batches, attention in plain products."""
    with tempfile.TemporaryDirectory() as folder:
        quiet: dict[str, Any] = {"report_to": [], "save_strategy": "no"}
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=1, use_cpu=True, **quiet
        )
        trainer = transformers.Trainer(theirs(model, method), arguments, lambda rows: rows[0], steps)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            trainer.train()
    return trainer.state.total_flos, counter.get_total_flops()


def told(model: str, method: str, steps: list[Batch]) -> float:
    """What HF Trainer would add up over the batches of a model that it cannot train here."""
    asked = SimpleNamespace(model=theirs(model, method))
    return sum(transformers.Trainer.floating_point_ops(asked, step) for step in steps)


def profiled(model: str, method: str) -> float | None:
    """FLOPs by DeepSpeed's rule: the forward pass as measured, the backward pass twice that. None where there is no DeepSpeed."""
    if not DEEPSPEED.is_dir():
        return None
    path = os.pathsep.join(filter(None, [str(DEEPSPEED), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, "profile", model, method]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path})
    return 3 * float(answer.stdout.splitlines()[-1])


def profile(model: str, method: str) -> None:
    """In a process of its own, since DeepSpeed replaces torch's functions: print the forward pass's FLOPs."""
    from deepspeed.profiling.flops_profiler import FlopsProfiler

    network, total = theirs(model, method), 0.0
    for step in batches(model):
        ids, mask = step["input_ids"].to(network.device), step["attention_mask"] if model in TRAINED else None
        profiler = FlopsProfiler(network)
        profiler.start_profile()
        with torch.no_grad():
            network(input_ids=ids, attention_mask=mask)
        total += profiler.get_total_flops()
        profiler.end_profile()
    print(total)


def compared(model: str, method: str) -> dict[str, Any]:
    """Exact FLOPs of the steps and what each rule says, over the exact."""
    steps, started = batches(model), time.perf_counter()
    price = rehearse(run_of(model, method))
    seconds = time.perf_counter() - started
    whole, tokens = exact(price, steps), sum(int(step["attention_mask"].sum()) for step in steps)
    total_flos, counted = trained(model, method, steps) if model in TRAINED else (told(model, method, steps), None)
    six = (6 * weights * tokens for weights in (price.model_parameters, price.body_parameters))
    says = dict(zip(RULES, (total_flos, profiled(model, method), *six), strict=True))
    return {
        "model": model,
        "method": method,
        "exact_flops": whole,
        "torch_counted_over_exact": counted and counted / whole,
        "rules_over_exact": {rule: flops and flops / whole for rule, flops in says.items()},
        "rehearsal_seconds": seconds,
    }


def priced(model: str) -> dict[str, Any]:
    """`isolora cost` of LoRA on every linear layer for one step of one sequence, in a process of its own."""
    program = str(Path(sys.executable).with_name("isolora"))
    words = [f"model={model}", f"task={PRICED[model]}", f"method.rank={RANK}", "batch=1", "length=512", "--json"]
    started = time.perf_counter()
    answer = json.loads(subprocess.check_output([sys.executable, "-c", MEASURED, program, "cost", *words]))
    kept = ("all_parameters", "trainable_parameters", "flops_per_token", "tokens", "processor_seconds", "program_bytes")
    seconds = time.perf_counter() - started
    return {"model": model, "task": PRICED[model], **{name: answer[name] for name in kept}, "seconds": seconds}


def table(rows: list[list[str]]) -> str:
    """Markdown, the first row its heading, numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|---|" + "---:|" * (len(rows[0]) - 2), *lines[1:]])


def comparison(results: list[dict[str, Any]]) -> str:
    """What is shown is each rule's FLOPs over the exact."""
    rows = [["model", "method", "exact FLOPs", "torch's counter", *RULES]]
    for row in results:
        counted = row["torch_counted_over_exact"]
        ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in row["rules_over_exact"].values()]
        proof = "" if counted is None else f"{counted:.6f}"
        rows.append([row["model"].split("/")[-1], row["method"], f"{row['exact_flops']:.4g}", proof, *ratios])
    return table(rows)


def prices(results: list[dict[str, Any]]) -> str:
    rows = [["model", "task", "parameters", "trained", "FLOPs per token", "seconds", "program's memory"]]
    for row in results:
        counts = [f"{row['all_parameters']:,}", f"{row['trainable_parameters']:,}", f"{row['flops_per_token']:.3g}"]
        own = [f"{row['seconds']:.0f}", f"{row['program_bytes'] / 2**20:,.0f} MiB"]
        rows.append([row["model"].split("/")[-1], row["task"], *counts, *own])
    return table(rows)


def main() -> None:
    compares = [compared(model, method) for model in TRAINED | SHAPE_ALONE for method in METHODS]
    costs = [priced(model) for model in PRICED]
    tables = {"comparison": comparison(compares), "prices": prices(costs)}
    print(*tables.values(), sep="\n\n")
    if not DEEPSPEED.is_dir():
        print(f"DeepSpeed is not in {DEEPSPEED}: its column is empty")
    shapes = [list(step["input_ids"].shape) for step in batches("roberta-base")]
    record("ledger", {"batches": shapes, "comparison": compares, "prices": costs, "markdown": tables})


if __name__ == "__main__":
    profile(*sys.argv[2:]) if sys.argv[1:2] == ["profile"] else main()
