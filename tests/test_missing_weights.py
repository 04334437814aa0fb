"""What a checkpoint lacks is random at loading: it is kept with the adapter, so that plain PEFT computes the same, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining, LlamaModel

from isolora import adapters, models
from isolora.adapters import plain, round_trip
from isolora.adapters.record import beyond_peft
from isolora.certify import certify
from isolora.config import MethodConfig, RunConfig, parse
from isolora.errors import ConfigError
from isolora.methods import missing_weights
from isolora.training import train
from isolora.training.checkpoint_export import export

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


def a_run(folder: Path, method: dict[str, Any]) -> RunConfig:
    """A classifier on a BERT that was saved as a masked language model, without a pooler."""
    rows = [{"text": tiny.words(6, seed), "label": f"c{seed % 3}"} for seed in range(40)]
    config = tiny.from_rows(folder, "bert", "sequence-classification", rows, steps=4, learning_rate=5e-2)
    return config.model_copy(update={"method": MethodConfig(**method)})


@pytest.mark.parametrize(
    "method",
    [
        {"name": "lora", "rank": 2},  # the pooler is adapted as well
        {"name": "lora", "rank": 2, "targets": ["query"]},
        {"name": "adalora", "targets": ["query", "bert.pooler.dense"]},
        {"name": "prompt", "virtual_tokens": 4},
        {"name": "peft:VERA", "r": 2},
        {"name": "peft:IA3"},
        {"name": "selective", "train": "norms"},
        {"name": "bottleneck"},
        {"name": "full"},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_every_method_keeps_them(method: dict[str, Any], tmp_path: Path) -> None:
    config = a_run(tmp_path, method)
    train(config, tmp_path / "out", quiet=True)
    place = tmp_path / "out" / "adapter"
    base = adapters.bare_base(place)
    assert missing_weights.missing(base.model).keys() == POOLER
    kept = [name for name in load_file(place / "adapter_model.safetensors") if "pooler" in name and "lora" not in name]
    assert len(kept) == 2
    torch.manual_seed(5)  # plain loading draws its own
    if beyond_peft(place) == "":
        live = adapters.load(place)
        theirs = plain.loaded(**round_trip.request(place), adapter=str(place))
        assert (
            round_trip.largest_difference(
                round_trip.adapter_scores(live), plain.plain_scores(theirs, round_trip.probe_on_device(live.base))
            )
            <= 1e-5
        )


def test_the_certificate_shares_no_seed_with_the_loader(
    plain_peft_here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An adapter whose file has no pooler, as from before, passed: it was checked on the seeded base."""
    train(a_run(tmp_path, {"name": "lora", "rank": 2, "targets": ["query"]}), tmp_path / "out", quiet=True)
    assert certify(tmp_path / "out").failed == {}
    monkeypatch.undo()  # from here on plain PEFT is asked in a process of its own, with a seed of its own
    path = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "pooler" not in name}, path)
    failed = certify(tmp_path / "out").failed
    assert failed.keys() == {"hashes", "tensors", "peft"}
    assert "pooler" in failed["tensors"]
    assert float(failed["peft"].split()[-1]) > 1e-2
    assert adapters.load(tmp_path / "out").attached, "it still loads here, where the draw is the same"


def test_an_export_of_it_is_refused_by_peft_and_merges(tmp_path: Path) -> None:
    train(a_run(tmp_path, {"name": "lora", "rank": 2, "targets": ["query"]}), tmp_path / "out", quiet=True)
    export(tmp_path / "out", "peft", tmp_path / "peft")
    export(tmp_path / "out", "merged", tmp_path / "merged")
    path = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if "pooler" not in name}, path)
    with pytest.raises(ValueError, match="loaded by PEFT alone, the adapter computes something else") as caught:
        export(tmp_path / "out", "peft", tmp_path / "again")
    one_line(caught)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "model", "out", "peft", "rows.jsonl"]


def loaded(folder: Path, task: str) -> models.Base:
    config = parse(RunConfig, {"model": str(folder), "task": task})
    return models.load_base(config, models.bound_task(config, ("a", "b")))


def test_what_is_whole_lacks_nothing(tmp_path: Path) -> None:
    tiny.save(tmp_path, tiny.seeded(BertForPreTraining, tiny.bert().config))
    assert missing_weights.missing(loaded(tmp_path, "sequence-classification").model) == {}


@pytest.mark.parametrize("case", ["no head", "other shape", "other architecture"])
def test_a_base_that_would_be_random_is_refused(case: str, tmp_path: Path) -> None:
    model = tiny.seeded(LlamaModel, tiny.llama().config) if case == "no head" else tiny.llama()
    tiny.save(tmp_path, model)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    if case == "other shape":
        tensors["model.norm.weight"] = torch.ones(8)
    if case == "other architecture":
        tensors = {f"x.{name}": tensor for name, tensor in tensors.items() if "lm_head" not in name}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"^model: ") as caught:
        loaded(tmp_path, "causal-lm")
    one_line(caught)


def test_another_shape_below_a_new_head_is_refused(tmp_path: Path) -> None:
    """A new head may have any shape; the body was given random weights without a word as well."""
    tiny.save(tmp_path, tiny.bert())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"] = torch.ones(50, 16)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"word_embeddings\.weight has another shape in the weights"):
        loaded(tmp_path, "sequence-classification")
