"""Tiny random models, examples and runs for the tests; made on the fly, no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from isolora import registry
from isolora.config import DataConfig, RunConfig, parse
from isolora.ledger import GROUPS, PHASES, TERMS, Ledger
from isolora.store import Point
from isolora.tasks._base import Examples
from isolora.tasks.causal_lm import next_tokens

if TYPE_CHECKING:
    from isolora.training.loop import Stack

VOCABULARY = 61
LLAMA = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
BERT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
COEFFICIENTS = np.zeros((len(PHASES), len(GROUPS), TERMS))
COEFFICIENTS[:3, -1, :5] = [0.0, 10.0, 1.0, 5.0, 0.0]
PRICE = Ledger(
    coefficients=COEFFICIENTS,
    trainable_parameters=7,
    body_parameters=11,
    model_parameters=13,
)


def llama(**changes: Any) -> Any:
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.2, **(LLAMA | changes))
    return seeded(LlamaForCausalLM, config)


def gpt2(**changes: Any) -> Any:
    return seeded(GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, initializer_range=0.2, **(GPT2 | changes)))


def bert(**changes: Any) -> Any:
    return seeded(BertForMaskedLM, BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **(BERT | changes)))


def bert_classifier(**changes: Any) -> Any:
    return seeded(BertForSequenceClassification, BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **(BERT | changes)))


MODELS = {"llama": llama, "gpt2": gpt2, "bert": bert, "bert_classifier": bert_classifier}


def seeded(kind: Any, config: Any) -> Any:
    torch.manual_seed(7)
    return kind(config).eval()


def save(folder: Path, model: Any) -> str:
    """A model's folder with a word-level tokenizer, as `from_pretrained` wants it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def ids(rows: int = 3, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Entries from 2 on: 0 is padding and 1 unknown."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def examples(lengths: Sequence[int], seed: int = 0) -> Examples:
    """Texts in which most words determine the next one, so that there is something to learn; with causal labels."""
    rng = np.random.default_rng(seed)
    parts = []
    for length in lengths:
        part = [int(rng.integers(2, VOCABULARY))]
        while len(part) < length:
            part.append(2 + (part[-1] * 3) % (VOCABULARY - 2) if rng.random() < 0.8 else int(rng.integers(2, VOCABULARY)))
        parts.append(part)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate(parts).astype(np.int32)
    return next_tokens(Examples(flat, flat, starts))


def run(seed: int = 0, method: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    budget = {} if {"tokens", "steps", "epochs", "flops"} & training.keys() else {"steps": 6}
    given = {"batch_tokens": 48, "learning_rate": 1e-2, "warmup_steps": 2, "evaluate_from": 100, **budget, **training}
    return parse(RunConfig, {"seed": seed, "method": {"rank": 4, **(method or {})}, "training": given})


def texts(path: Path, count: int = 60) -> Path:
    """A text file whose paragraphs are learnable documents of 5 to 12 words."""
    rows = [examples([5 + seed % 8], seed=seed).ids for seed in range(count)]
    path.write_text("\n\n".join(" ".join(f"w{entry}" for entry in row) for row in rows) + "\n")
    return path


def from_files(folder: Path, **changes: Any) -> RunConfig:
    """A run whose base model and texts lie in `folder`; `changes` are those of `run`."""
    model = save(folder / "model", llama())
    data = DataConfig(source=str(texts(folder / "texts.txt")), eval_examples=5)
    return run(**changes).model_copy(update={"model": model, "data": data})


def stack(
    configs: Sequence[RunConfig],
    points: list[Point] | None = None,
    model: Any = None,
    train: Examples | None = None,
    held_out: Examples | None = None,
    price: Ledger = PRICE,
) -> Stack:
    """A stack on a tiny LLaMA; its points are added to `points`."""
    from accelerate import Accelerator

    from isolora.data import Documents
    from isolora.models import Base
    from isolora.training.batches import Stream
    from isolora.training.loop import Stack
    from isolora.training.member import Member
    from isolora.training.prepare import Prepared

    rng = np.random.default_rng(1)
    train = train or examples(rng.integers(4, 17, 40).tolist())
    held_out = held_out or examples([5, 9, 12], seed=2)
    method = registry.load("method", configs[0].method.name)
    settings = [method.settings(config.method.fields()) for config in configs]
    attached = method.attach(model or llama(), settings, [config.seed for config in configs])
    members = [
        Member(config, attached.groups(k), Stream(train.lengths, config.training.batch_tokens, config.seed), price)
        for k, config in enumerate(configs)
    ]
    names = [f"run-{k}" for k in range(len(configs))]
    accelerator = Accelerator(cpu=True)
    task = registry.load("task", "causal-lm")
    written = points if points is not None else []
    base = Base("tiny", attached.model, None, 0, 0, 64)
    ready = Prepared(base, task, train, held_out, Documents(pa.table({"text": []}), "{text}"))
    return Stack(ready, attached, members, names, 0, accelerator, written.extend)
