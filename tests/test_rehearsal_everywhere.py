"""Every architecture of transformers, made small: it is priced, or one line says why not; nothing hangs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.estimate import typical
from isolora.cost.flops import TWO_CLASSES, rehearse
from isolora.cost.memory import peak
from isolora.errors import UserError

torch.set_num_threads(1)
SECONDS = 60
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k"), 2),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 66),
    "moe_intermediate_size": 24,
    "vocab_size": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TASKS = ("causal-lm", "token-classification", "sequence-classification", "question-answering", "summarization", "preference")
SAMPLE = ("modernbert", "llama", "bart", "deberta-v2", "olmoe", "gemma3_text", "electra", "bloom", "albert", "t5")
"""Heads drawn by loops, masks that ask for values, experts, layers of several kinds, layers that share their weights."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Of processor time, so that a busy machine hangs nothing."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def small(kind: str, **changed: Any) -> Any:
    """A small configuration of this kind; None where transformers cannot make one: several models in one, or no defaults."""
    try:
        plain = CONFIG_MAPPING[kind]()
        own = {
            name: value
            for name, value in (SMALL | changed).items()
            if hasattr(plain, name) and value != "absent" and not isinstance(getattr(plain, name), list)
        }
        return CONFIG_MAPPING[kind](**own)
    except Exception:
        return None


def written(kind: str, folder: Path) -> bool:
    """Whether there is a small configuration of this kind, in the folder then."""
    found = small(kind)
    try:
        found.save_pretrained(folder)
    except Exception:
        return False
    return True


def priced(kind: str, task: str, folder: Path) -> str:
    """ "priced", or the one line that says why not."""
    try:
        config = parse(RunConfig, {"model": str(folder), "task": task, "training": {"steps": 1}})
        ledger, shape = rehearse(config), typical(models.bound_task(config, TWO_CLASSES), 2, 16)
        assert ledger.flops(shape).total > 0
        assert peak(config, shape).total > 0
    except UserError as refusal:
        return str(refusal)
    return "priced"


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_price_or_one_line(kind: str, tmp_path: Path) -> None:
    assert written(kind, tmp_path)
    with at_most(SECONDS * len(TASKS)):
        answers = {priced(kind, task, tmp_path) for task in TASKS}
    assert "priced" in answers
    assert not any("\n" in answer for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(CONFIG_MAPPING) - set(SAMPLE)))
def test_a_price_or_one_line_of_every_architecture(kind: str, tmp_path: Path) -> None:
    if written(kind, tmp_path):
        with at_most(SECONDS * len(TASKS)):
            assert not any("\n" in priced(kind, task, tmp_path) for task in TASKS)
