"""The frozen base in bfloat16: half the weights, adapters in float32, the same arithmetic afterwards, no other run renamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate.state import AcceleratorState

from isolora import adapters, evaluation
from isolora.config import RunConfig, load_run, parse
from isolora.cost.memory import peak
from isolora.errors import ConfigError
from isolora.ledger import BatchShape
from isolora.models import weights_of
from isolora.runs.prepared import PreparedRun
from isolora.training import train

torch.set_num_threads(1)
HALVED = {"precision": "bfloat16", "base_precision": "bfloat16"}
METHODS = ("lora", "bottleneck", "prompt", "prefix", "adalora", "p-tuning", "peft:ia3")


@pytest.fixture(autouse=True)
def precision_forgotten() -> Iterator[None]:
    """accelerate remembers a process's precision; other tests make stacks without asking for one."""
    yield
    AcceleratorState._reset_state()


def test_no_run_of_before_has_another_name() -> None:
    """Recorded from the release before the key was there."""
    assert parse(RunConfig, {}).identity() == IDENTITY
    one, other = (tiny.run(precision="bfloat16", base_precision=kept) for kept in ("float32", "bfloat16"))
    assert one.identity() != other.identity()
    assert weights_of(one).identity() != weights_of(other).identity(), "they share no base in memory"
    assert weights_of(tiny.run()).identity() == weights_of(tiny.run(precision="bfloat16")).identity()


IDENTITY = "37622ee734c55dd2"


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_train_in_float32_on_a_halved_base(name: str, kind: str, tmp_path: Path) -> None:
    run = tiny.from_files(tmp_path, method={"name": name}, **HALVED)
    run = run.model_copy(update={"model": tiny.save(tmp_path / kind, tiny.MODELS[kind]())})
    with PreparedRun.load(run) as prepared:
        attached = prepared.attach([run])
        trained = {id(weight) for weight in attached.tensors(0)}
        assert {weight.dtype for weight in attached.tensors(0)} == {torch.float32}
        own = [weight for weight in prepared.base.model.parameters() if id(weight) not in trained]
        assert torch.bfloat16 in {weight.dtype for weight in own}
    result = train(run, tmp_path / "out", quiet=True)
    assert result["state"] == "complete"
    measured = evaluation.evaluate(tmp_path / "out")
    near = 1e-3 if name == "p-tuning" else 1e-6  # which is saved as the vectors that its encoder gave
    assert measured["loss"] == pytest.approx(result["loss"], rel=near), "measured by the arithmetic that scored it"


def test_a_new_head_stays_in_float32(tmp_path: Path) -> None:
    rows = [{"text": tiny.words(6, seed), "label": "even" if seed % 2 else "odd"} for seed in range(40)]
    run = tiny.from_rows(tmp_path, "roberta_classifier", "sequence-classification", rows, **HALVED)
    with PreparedRun.load(run) as prepared:
        kept = {name: weight.dtype for name, weight in prepared.base.model.named_parameters()}
    assert {dtype for name, dtype in kept.items() if name.startswith("classifier.")} == {torch.float32}
    assert {dtype for name, dtype in kept.items() if not name.startswith("classifier.")} == {torch.bfloat16}
    result = train(run, tmp_path / "out", quiet=True)
    assert evaluation.evaluate(tmp_path / "out")["loss"] == pytest.approx(result["loss"], rel=1e-6)


def test_the_adapter_writes_and_leaves_for_a_full_base(tmp_path: Path) -> None:
    train(tiny.from_files(tmp_path, **HALVED), tmp_path / "out", quiet=True)
    adapter = adapters.load(tmp_path / "out")
    assert adapter.base.model.dtype == torch.bfloat16
    assert isinstance(adapter.generate("w5 w6", max_new_tokens=4), str)
    full = adapters.load(tmp_path / "out", full_precision=True)
    assert {weight.dtype for weight in full.base.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", ["full", {"name": "selective", "train": "norms"}])
def test_a_method_that_trains_the_base_itself_is_refused(method: Any, tmp_path: Path) -> None:
    run = tiny.from_files(tmp_path, method=method if isinstance(method, dict) else {"name": method}, **HALVED)
    with pytest.raises(ConfigError, match=r"training.base_precision: method \w+ trains the base's own weights"):
        train(run, tmp_path / "out", quiet=True)


def test_it_computes_in_bfloat16_too() -> None:
    with pytest.raises(ConfigError, match=r"base_precision: .*set training.precision=bfloat16 \(got float32\)"):
        tiny.run(base_precision="bfloat16")


def test_predicted_memory_is_that_of_halved_weights() -> None:
    """nano-1m's weights: 4 bytes each, then 2; nothing that is trained is smaller."""
    words = ["model=nano-1m", "training.tokens=1000", "training.precision=bfloat16"]
    shape = BatchShape(4, 32, 124)
    full = peak(load_run(None, words), shape)
    half = peak(load_run(None, [*words, "training.base_precision=bfloat16"]), shape)
    assert half.weights == pytest.approx(full.weights / 2, rel=0.01)
    assert (half.adapter, half.gradients, half.optimiser) == (full.adapter, full.gradients, full.optimiser)
    assert half.total < full.total
