"""Causal language modelling: packed documents do not see each other, windows predict every token once, bytes are counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM

from isolora import models, registry
from isolora.config import RunConfig, TaskConfig, parse
from isolora.cost.estimate import cost
from isolora.errors import ConfigError
from isolora.evaluation import evaluate
from isolora.runs.batches import collate
from isolora.runs.prepared import PreparedRun
from isolora.store import Store
from isolora.tasks.base import IGNORED, Batch, Examples, predicted_bytes
from isolora.tasks.causal import plain_head
from isolora.tasks.causal_lm import (
    encode,
    keeps_documents_apart,
    next_tokens,
    packed,
    packed_positions,
    token_windows,
)
from isolora.tasks.pairs import Pair, decoder_examples
from isolora.training import train

torch.set_num_threads(1)
LENGTHS = [5, 9, 1, 7, 12, 3]
DECODERS = {
    "EleutherAI/pythia-70m": {},
    "google/gemma-2-2b": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "head_dim": 8},
    "google/gemma-3-1b-pt": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "head_dim": 8},
    "mistralai/Mistral-7B-v0.1": {"sliding_window": 4},
    "Qwen/Qwen2.5-0.5B": {},
    "Qwen/Qwen3-0.6B": {"head_dim": 8},
    "Qwen/Qwen3-30B-A3B": {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
}
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 61}


def bound(**settings: Any) -> Any:
    task = registry.load_plug_in("task", "causal-lm")
    return task.bound(task.Settings(**settings))


def batch_of(examples: Examples) -> Batch:
    return collate(examples, np.arange(len(examples)), np.ones(len(examples), np.float32), 0)


def other(kind: str) -> Any:
    """A small model of a published architecture."""
    config = models.load_architecture(RunConfig(model=kind))
    keys = {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 64}
    for key, value in {**SMALL, **keys, **DECODERS[kind]}.items():
        setattr(config, key, value)
    return tiny.seeded(AutoModelForCausalLM.from_config, config)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", *DECODERS])
def test_packed_documents_are_the_documents_alone(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]() if kind in tiny.ARCHITECTURES else other(kind)
    examples, task = tiny.examples(LENGTHS), bound(packing=True)
    rows = packed(examples, 16)
    assert rows.lengths.tolist() == [15, 7, 15]
    with torch.no_grad():
        alone = bound().loss(model, batch_of(examples)).row_losses.double()
        together = task.loss(model, batch_of(rows)).row_losses.double()
        contaminated = bound().loss(model, batch_of(rows)).row_losses.double()
    expected = torch.stack([alone[:3].sum(), alone[3], alone[4:].sum()])
    assert together.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert contaminated.tolist() != pytest.approx(expected.tolist(), rel=1e-4), "without the settings they do see each other"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_changing_one_packed_document_leaves_the_others_loss_alone(kind: str, changed: int) -> None:
    model, examples = tiny.ARCHITECTURES[kind](), tiny.examples([6, 8, 5])
    ids, place = examples.ids.copy(), slice(*examples.starts[changed : changed + 2])
    ids[place] = (ids[place] + 7) % tiny.VOCABULARY
    losses = []
    for version in (examples, next_tokens(Examples(ids, ids, examples.starts))):
        batch = batch_of(packed(version, 64))
        assert len(batch.input_ids) == 1
        batch.target_rows[:] = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 7, 4]))
        batch = Batch(**{**vars(batch), "row_weights": torch.ones(3)})
        with torch.no_grad():
            losses.append(bound(packing=True).loss(model, batch).row_losses.double())
    difference = (losses[0] - losses[1]).abs()
    assert difference[[row for row in range(3) if row != changed]].max() <= 1e-6
    assert difference[changed] > 0.1


def test_positions_start_anew_with_every_document() -> None:
    positions = packed_positions(batch_of(packed(tiny.examples([3, 1, 4, 2]), 8)))
    assert positions[:, :2].tolist() == [[0, 1], [0, 1]]
    assert positions[0].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]


def test_a_model_without_positions_of_its_own_cannot_pack() -> None:
    architecture = tiny.bloom().config
    assert bound().auto_class(architecture) == "AutoModelForCausalLM"
    with pytest.raises(ConfigError, match=r"task\.packing: bloom cannot start its positions anew"):
        bound(packing=True).auto_class(architecture)


def opt() -> Any:
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    return tiny.seeded(OPTForCausalLM, OPTConfig(vocab_size=tiny.VOCABULARY, max_position_embeddings=64, init_std=0.2, **sizes))


@pytest.mark.parametrize(
    ("model", "apart"),
    [(tiny.llama, True), (tiny.gpt2, True), (tiny.mistral, True), (tiny.mixtral, True), (opt, False)],
)
def test_a_model_that_takes_positions_and_lets_documents_see_each_other_cannot_pack(model: Any, apart: bool) -> None:
    """OPT takes positions and makes its mask without them: another document ahead moved a loss by 2.9 nats, unsaid."""
    assert keeps_documents_apart(model()) is apart
    bound(packing=False).check_model(model())
    if apart:
        bound(packing=True).check_model(model())
    else:
        with pytest.raises(ConfigError, match=r"^task\.packing: opt lets packed documents see each other; use task\.packing=no$"):
            bound(packing=True).check_model(model())


def test_a_run_that_would_pack_so_is_refused(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    model = tiny.save(tmp_path / "opt", opt(), eos_token="w60")
    packing = TaskConfig.model_validate({"name": "causal-lm", "packing": True})
    with pytest.raises(ConfigError, match=r"^task\.packing: opt"):
        PreparedRun.load(config.model_copy(update={"model": model, "task": packing}))


@pytest.mark.parametrize(("length", "stride"), [(20, 3), (20, 7), (20, 1), (8, 3), (9, 7), (2, 3), (1, 3)])
def test_windows_predict_every_token_once(length: int, stride: int) -> None:
    text = tiny.examples([length, 4])
    cut = token_windows(text, 8, stride)
    assert cut.lengths.max() <= 8
    assert cut.documents is not None
    for number in range(2):
        own = [slice(cut.starts[row], cut.starts[row + 1]) for row in np.flatnonzero(cut.documents == number)]
        said = [label for row in own for label in cut.labels[row] if label != IGNORED]
        assert said == text.ids[text.starts[number] + 1 : text.starts[number + 1]].tolist()
    seen = [np.flatnonzero(cut.labels[start:stop] != IGNORED) for start, stop in zip(cut.starts, cut.starts[1:], strict=False)]
    later = [places[0] for row, places in enumerate(seen) if row and cut.documents[row] == cut.documents[row - 1]]
    assert all(first >= 8 - stride - 1 for first in later), "and has at least that much before it"


def test_a_wide_stride_is_all_the_context_that_fits() -> None:
    """Stride 1: each token behind the first window is predicted from the 7 before it, as one by one."""
    model, text = tiny.llama(), tiny.examples([14])
    cut = token_windows(text, 8, 1)
    with torch.no_grad():
        losses = bound(stride=1).loss(model, batch_of(cut)).row_losses
        for place in range(8, 14):
            logits = model(input_ids=torch.tensor(text.ids[None, place - 7 : place].astype(np.int64))).logits[0, -1]
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor(int(text.ids[place])))
            assert float(losses[place - 7]) == pytest.approx(float(expected), rel=1e-5)


def test_bits_per_byte_by_hand() -> None:
    """`w5 w17 w3` and an end: what is predicted is `w17 w3`, 6 bytes, and the end, 0 bytes."""
    tokenizer = tiny.tokenizer(eos_token="w60")
    documents = tiny.documents([{"text": "w5 w17 w3"}, {"text": "w5 w4"}])
    documents = type(documents)(documents.table, "{text}")
    examples = bound().examples(documents, tokenizer, 64)
    assert predicted_bytes(examples, tokenizer) == 6 + 2
    assert bound().restated(0.5, examples, tokenizer) == pytest.approx(
        {"perplexity": math.exp(0.5), "bits_per_byte": 0.5 * 5 / (8 * math.log(2))}
    )


def test_bytes_are_those_of_the_texts_less_their_first_tokens() -> None:
    tokenizer = models.load_tokenizer(RunConfig())
    texts = ["naïve café, 東京 and 😀", "plain text\n\nwith  spaces "]
    documents = tiny.documents([{"text": text} for text in texts])
    documents = type(documents)(documents.table, "{text}")
    first = [len(tokenizer.decode(tokenizer(text).input_ids[:1]).encode()) for text in texts]
    whole = sum(len(text.encode()) for text in texts)
    assert predicted_bytes(bound().examples(documents, tokenizer, 64), tokenizer) == whole - sum(first)
    assert predicted_bytes(bound(stride=2).examples(documents, tokenizer, 5), tokenizer) >= whole - sum(first)
    assert predicted_bytes(bound(packing=True).examples(documents, tokenizer, 64), tokenizer) == whole - sum(first)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"packing": True, "stride": 8}, "task: packing and stride exclude each other"),
        ({"stride": 0}, r"task\.stride: Input should be greater than or equal to 1 \(got 0\)"),
    ],
)
def test_settings_that_do_not_go(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(RunConfig, {"task": {"name": "causal-lm", **settings}})


def test_a_stride_is_shorter_than_a_window() -> None:
    with pytest.raises(ConfigError, match=r"task\.stride: 8 leaves gaps between windows of 8 tokens \(valid: 1 to 7\)"):
        token_windows(tiny.examples([20]), 8, 8)


def test_a_prompt_begins_as_texts_do() -> None:
    assert bound().prompt_ids("w5 w6", tiny.tokenizer("w3 $A w60"), 64) == [3, 5, 6]


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_needs_a_decoder(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"model: {kind} is an encoder(-decoder)?; this task needs a decoder"):
        bound().auto_class(tiny.ARCHITECTURES[kind]().config)


def test_heads_that_are_more_than_a_product() -> None:
    assert plain_head(tiny.llama().requires_grad_(False))
    assert not plain_head(tiny.llama()), "a head that is trained"
    assert not plain_head(other("google/gemma-2-2b").requires_grad_(False)), "its logits are capped"


@pytest.mark.parametrize(("settings", "max_length"), [({"packing": True}, 9), ({"packing": True}, 40), ({"stride": 3}, 9)])
def test_learns_in_packs_and_windows_and_is_measured_again(settings: dict[str, Any], max_length: int, tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=30, learning_rate=2e-2, batch_tokens=128)
    task = TaskConfig.model_validate({"name": "causal-lm", **settings})
    data = config.data.model_copy(update={"max_length": max_length})
    config = config.model_copy(update={"task": task, "data": data})
    with PreparedRun.load(config) as run:
        assert (len(run.examples.train) < len(run.documents.train)) == (max_length > 9)
    ended = train(config, tmp_path / "out", quiet=True)
    assert ended["loss"] < 0.95 * Store(tmp_path / "out").points()[0]["loss"]
    assert cost(config).flops.total == pytest.approx(ended["flops"], rel=1e-12)
    again = evaluate(tmp_path / "out")
    assert again["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert again["metrics"] == pytest.approx(again["recorded_metrics"], rel=1e-6)
    assert again["metrics"]["perplexity"] == pytest.approx(math.exp(ended["loss"]), rel=1e-5)


def test_no_second_beginning_and_no_second_end() -> None:
    """Of texts, prompts and completions that bring the special tokens along."""
    tokenizer = tiny.tokenizer("w2 $A", bos_token="w2", eos_token="w60")
    assert encode(["w5", "w2 w5", "w2 w2 w5", "w5 w60"], tokenizer, 9).ids.tolist() == [2, 5, 60, 2, 5, 60, 2, 2, 5, 60, 2, 5, 60]
    assert bound().prompt_ids("w2 w5", tokenizer, 9) == bound().prompt_ids("w5", tokenizer, 9) == [2, 5]
    plain, begun = Pair("", "w5 w6", "w7"), Pair("", "w2 w5 w6", "w7 w60")
    both = decoder_examples([plain, begun], tokenizer, 16, 8)
    assert both.ids.tolist() == [2, 5, 6, 7, 60] * 2
    assert both.labels.tolist() == [IGNORED, IGNORED, 7, 60, IGNORED] * 2


def test_a_text_that_repeats_the_beginning_without_a_frame_is_kept() -> None:
    tokenizer = tiny.tokenizer(bos_token="w2")
    assert encode(["w2 w2 w5"], tokenizer, 9).ids.tolist() == [2, 2, 5]
