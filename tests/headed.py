"""What a test asks of any task with a head of its own, on any architecture: learnt, measured again, priced and stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isolora import models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig
from isolora.cost.flops import experts_by_choice, rehearse, task_batch
from isolora.evaluation import evaluate
from isolora.ledger import BatchShape
from isolora.runs.batches import collate
from isolora.runs.prepared import PreparedRun
from isolora.store import Store
from isolora.tasks.base import Batch
from isolora.training import train, train_stack

ENCODERS = ("roberta_classifier", "bert_classifier")
DECODERS = ("gpt2", "llama", "mixtral", "bloom")
SHAPES = ((3, 11, 20), (2, 29, 57), (5, 7, 35))
"""(rows, length, labels); none is rehearsed."""


def tokenizer(framed: bool = True, typed: bool = False) -> Any:
    """Words w7 to w60, and `undoing` in three pieces; framed: [CLS] and [SEP] around; typed: a pair's second text is marked."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<unk>", "[CLS]", "[SEP]")
    pieces = (*special, "un", "##do", "##ing", *(f"w{number}" for number in range(7, tiny.VOCABULARY)))
    made = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if framed:
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, [("[CLS]", 2), ("[SEP]", 3)])
    names = ["input_ids", "token_type_ids", "attention_mask"] if typed else ["input_ids", "attention_mask"]
    tokens = {"cls_token": "[CLS]", "sep_token": "[SEP]"} if framed else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", model_input_names=names, **tokens)


def a_run(folder: Path, kind: str, task: dict[str, Any], rows: Sequence[dict[str, Any]], **changes: Any) -> RunConfig:
    """A run of a task on a tiny architecture; `rows` hold its columns."""
    model = tiny.ARCHITECTURES[kind]()
    model.config.eos_token_id = 3  # what BART and T5 look for
    model.save_pretrained(folder / "model")
    tokenizer(kind not in DECODERS, kind in ENCODERS[1:]).save_pretrained(folder / "model")
    data = DataConfig(source=tiny.json_lines(folder / "rows.jsonl", rows), eval_examples=10)
    own = {"model": str(folder / "model"), "data": data, "task": TaskConfig.model_validate(task)}
    return tiny.run(**{"batch_tokens": 200, **changes}).model_copy(update=own)


def is_learnt_and_comes_back(config: RunConfig, folder: Path) -> dict[str, float]:
    """Train; the loss falls, and the adapter's folder gives loss and scores back. Returns the scores."""
    ended = train(config, folder / "out", quiet=True)
    assert ended["loss"] < 0.7 * Store(folder / "out").points()[0]["loss"]
    again = evaluate(folder / "out", repeats=20)
    assert again["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert again["metrics"] == pytest.approx(again["recorded_metrics"], rel=1e-6)
    return dict(again["metrics"])


def in_a_stack_as_alone(config: RunConfig, folder: Path) -> None:
    """With a neighbour of another seed, another rank and another rate of its head."""
    training = config.training.model_copy(update={"head_learning_rate_ratio": 2.0})
    second = config.model_copy(update={"seed": 1, "method": tiny.run(method={"rank": 2}).method, "training": training})
    store = Store(folder / "together")
    for name, member in zip(train_stack([config, second], store, "grid", quiet=True), (config, second), strict=True):
        train(member, folder / name, quiet=True)
        together, alone = ([point["loss"] for point in kept.points(name)] for kept in (store, Store(folder / name)))
        assert together == pytest.approx(alone, rel=1e-5)
        assert together[-1] < together[0]


def costs_what_torch_counts(config: RunConfig, labels: tuple[str, ...]) -> None:
    task, ledger = models.bound_task(config, labels), rehearse(config, labels)
    base, method = models.load_base(config, task), registry.load_plug_in("method", "lora")
    experts_by_choice(base.model)
    attached = method.attach(base.model, [method.settings(config.method.fields())], [0], heads=True)
    attached.train(True)
    for sizes in SHAPES:
        shape = BatchShape(sizes[0], sizes[1], sizes[2] if task.labels_per_row is None else sizes[0])
        assert ledger.flops(shape).total == pytest.approx(counted(attached.model, task, shape), rel=1e-3), sizes


def counted(model: Any, task: Any, shape: BatchShape) -> int:
    """FLOPs of a real step on the CPU, attention done in plain products."""
    batch = task_batch(task, shape, "cpu")
    ended = torch.cat([batch.input_ids[:, 1:], torch.full_like(batch.input_ids[:, :1], 3)], 1)
    addmm = {torch.ops.aten.addmm_: lambda _, a, b, **more: 2 * a[0] * a[1] * b[1]}  # the product in place, unknown to torch's
    counter = FlopCounterMode(display=False, custom_mapping=addmm)
    with sdpa_kernel(SDPBackend.MATH), counter:
        task.loss(model, replace(batch, input_ids=ended)).objective.backward()
    return counter.get_total_flops()


def batches(config: RunConfig) -> tuple[Any, Any, Batch, list[Batch]]:
    """(task, loaded model, all held-out examples as one padded batch, each as a batch of its own)."""
    with PreparedRun.load(config) as run:
        held_out = run.examples.held_out.examples
        numbers = np.arange(len(held_out))
        alone = [collate(held_out, numbers[i : i + 1], np.ones(1, np.float32), 0) for i in numbers]
        return run.task, run.base.model, collate(held_out, numbers, np.ones(len(numbers), np.float32), 0), alone
