"""New tokens: their rows are trained beside any method, kept, merged, and the base's own matrices never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
import transformers

import isolora
from isolora import registry
from isolora.certify import certify
from isolora.errors import ConfigError, DataError
from isolora.methods.adapter_files import NEW_TOKENS
from isolora.methods.new_tokens import NewTokens
from isolora.training import train

torch.set_num_threads(1)
FIRST, COUNT = tiny.VOCABULARY, 3
METHODS: dict[str, dict[str, Any]] = {"lora": {"rank": 4}, "bottleneck": {"size": 4}, "selective": {"train": "norms"}}
TIED = ("gpt2", "bert", "bloom", "bart", "t5")


def ids() -> torch.Tensor:
    """Two of the three new entries, and old ones."""
    found = tiny.ids()
    found[0, 2], found[1, 3] = FIRST, FIRST + 2
    return found


def attached_to(model: Any, name: str = "lora", seeds: tuple[int, ...] = (0,), **more: Any) -> NewTokens:
    method = registry.load_plug_in("method", name)
    settings = [method.settings(METHODS[name] | more)] * len(seeds)
    return NewTokens(method.attach(model, settings, seeds), FIRST, COUNT, seeds)


def learn(attached: NewTokens, steps: int = 20) -> tuple[float, float]:
    """First and last loss of a plain loop towards new entries."""
    optimizer = torch.optim.AdamW(attached.tensors(0), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = life.answers(attached.model, ids()).flatten(0, -2)
        loss = torch.nn.functional.cross_entropy(logits, torch.full((len(logits),), min(FIRST + 1, logits.shape[-1] - 1)))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS)
def test_the_whole_life(kind: str, name: str, tmp_path: Path) -> None:
    model = tiny.ARCHITECTURES[kind]()
    bare, before = life.frozen_answers(model), life.state(model)
    attached = attached_to(model, name)
    old = life.answers(model)
    vocabulary = bare.shape[-1] == FIRST
    assert old.shape[-1] == bare.shape[-1] + COUNT * vocabulary
    torch.testing.assert_close(old[..., : bare.shape[-1]], bare, rtol=0, atol=2e-6)
    first, last = learn(attached)
    assert last < 0.9 * first
    learnt = life.answers(model, ids()).detach()
    attached.save(0, tmp_path)

    base = tiny.ARCHITECTURES[kind]()
    loaded = NewTokens(registry.load_plug_in("method", name).load(base, tmp_path), FIRST, COUNT, [1])
    loaded.fill(0, tmp_path)
    assert torch.equal(life.answers(base, ids()), learnt)
    if name != "bottleneck":
        merged = loaded.merge(0)
        assert merged.config.vocab_size == FIRST + COUNT
        torch.testing.assert_close(life.answers(merged, ids()), learnt, rtol=0, atol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        again = type(merged).from_pretrained(tmp_path / "merged")
        torch.testing.assert_close(life.answers(again.eval(), ids()), learnt, rtol=0, atol=1e-5)
    attached.detach()
    assert life.same_state(model, before)


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_rows_by_hand(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    head = model.get_output_embeddings()
    attached = attached_to(model)
    assert set(attached.own) == ({"input"} if head is None or kind in TIED else {"input", "output"})
    embedding = model.get_input_embeddings()
    own = attached.own["input"].members[0]
    scale = getattr(embedding.base, "embed_scale", 1)
    torch.testing.assert_close(embedding(ids())[1, 3], own[2] * scale)
    assert torch.equal(embedding(tiny.ids()), embedding.base(tiny.ids()))
    base = embedding.weight.detach()
    assert (own - base.mean(0)).abs().max() < 0.1 * base.std(0).max()


def test_each_member_has_its_own() -> None:
    attached = attached_to(tiny.llama(), seeds=(4, 5))
    for member in (0, 1):
        for tensor in attached.tensors(member):
            tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(member))
    five = torch.cat([ids(), ids()[:2]])
    with attached.rows([(1, 0, 2), (0, 3, 5)]):
        stacked = life.answers(attached.model, five)
    for member, span in ((1, slice(0, 2)), (0, slice(3, 5))):
        with attached.rows([(member, 0, -1)]):
            torch.testing.assert_close(stacked[span], life.answers(attached.model, five[span]), rtol=0, atol=2e-6)
    with attached.rows(()):
        torch.testing.assert_close(stacked[2:3], life.answers(attached.model, five[2:3]), rtol=0, atol=2e-6)


def test_room_that_the_matrix_has_already_is_used() -> None:
    """Many published matrices are longer than their tokenizer; the new entries are the next ones, not those behind the matrix."""
    method = registry.load_plug_in("method", "lora")
    attached = NewTokens(method.attach(tiny.llama(), [method.settings({})], [0]), FIRST - 5, COUNT, [0])
    found = life.answers(attached.model, tiny.ids() % (FIRST - 2))
    assert found.shape[-1] == FIRST
    merged = attached.merge(0)
    assert merged.config.vocab_size == FIRST
    torch.testing.assert_close(life.answers(merged, tiny.ids() % (FIRST - 2)), found, rtol=0, atol=2e-6)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    attached = attached_to(tiny.llama())
    with pytest.raises(DataError, match=f"no readable {NEW_TOKENS}"):
        attached.fill(0, tmp_path)
    attached.save(0, tmp_path)
    method = registry.load_plug_in("method", "lora")
    longer = NewTokens(method.load(tiny.llama(), tmp_path), FIRST, COUNT + 1, [0])
    with pytest.raises(DataError, match=r"has no input of shape \(4, 16\)"):
        longer.fill(0, tmp_path)


def test_a_run_with_new_tokens_from_end_to_end(tmp_path: Path, plain_peft_here: None) -> None:
    """Trained by the loop, priced by the ledger, certified from the folder, merged with its longer tokenizer."""
    config = tiny.from_files(tmp_path, steps=40).model_copy(update={"new_tokens": ("<tool>", "w5w6")})
    source = Path(config.data.source)
    source.write_text(source.read_text().replace("w5", "<tool>"))
    ended = train(config, tmp_path / "out", quiet=True)
    adapter = Path(ended["adapter"])
    assert (adapter / NEW_TOKENS).is_file()
    assert not [vars(check) for check in certify(adapter).checks if check.passed is False]
    assert "<tool>" in isolora.load(adapter).base.tokenizer.get_vocab()
    merged = isolora.export(adapter, "merged", tmp_path / "merged").folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    model = transformers.AutoModelForCausalLM.from_pretrained(merged)
    entries = tokenizer("w9 <tool> w7", return_tensors="pt").input_ids
    assert entries[0, 1] == tiny.VOCABULARY
    ours = isolora.load(adapter).attached.model(input_ids=entries).logits
    torch.testing.assert_close(model(input_ids=entries).logits, ours[..., : tiny.VOCABULARY + 2], rtol=0, atol=1e-5)
    assert "new_tokens" in (adapter / "isolora.json").read_text()


@pytest.mark.parametrize(("tokens", "line"), [(("w5",), "'w5' is a token already"), (("<a>", "<a>"), "given twice")])
def test_tokens_that_are_not_new_are_said(tokens: tuple[str, ...], line: str, tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path).model_copy(update={"new_tokens": tokens})
    with pytest.raises(ConfigError, match=f"new_tokens: .*{line}"):
        train(config, tmp_path / "out", quiet=True)
