"""Many adapters on one base: each answers as it does alone, by name and side by side in one batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from isolora import adapters
from isolora.adapters import AdapterPool
from isolora.adapters.generation import Sampling
from isolora.config import MethodConfig
from isolora.errors import ConfigError
from isolora.store import Store
from isolora.training import train, train_stack

torch.set_num_threads(1)
COUNT = 16


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sixteen trained adapters of ranks 1 to 8 on one tiny base."""
    folder = tmp_path_factory.mktemp("sixteen")
    first = tiny.from_files(folder, steps=6, learning_rate=5e-2)
    method = first.method.model_dump()
    configs = [
        first.model_copy(update={"seed": seed, "method": MethodConfig(**method | {"rank": 1 + seed % 8})})
        for seed in range(COUNT)
    ]
    names = train_stack(configs, Store(folder / "out"), "grid", quiet=True)
    return {f"a{number}": folder / "out" / "adapters" / name for number, name in enumerate(names)}


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_a_mixed_batch_equals_sixteen_separate_ones(sixteen: dict[str, Path]) -> None:
    ids = tiny.ids(rows=COUNT, length=12)
    pool = AdapterPool(sixteen)
    with pool.rows(list(sixteen)):
        mixed = logits(pool.base.model, ids)
    alone = torch.cat([logits(adapters.load(place).base.model, ids[k : k + 1]) for k, place in enumerate(sixteen.values())])
    assert (mixed - alone).abs().max() <= 1e-6
    assert (alone - logits(adapters.bare_base(sixteen["a0"]).model, ids)).abs().max() > 0.1


def test_rows_may_name_their_adapters_in_any_order(sixteen: dict[str, Path]) -> None:
    pool, ids = AdapterPool(sixteen), tiny.ids(rows=5)
    order = ["a3", "a1", "a1", "a3", "a9"]
    with pool.rows(order):
        mixed = logits(pool.base.model, ids)
    for row, name in enumerate(order):
        with pool.use(name):
            assert (logits(pool.base.model, ids)[row] - mixed[row]).abs().max() <= 1e-5


def test_swapping_moves_no_weights(sixteen: dict[str, Path]) -> None:
    pool = AdapterPool(sixteen)
    before = {name: (parameter.data_ptr(), parameter._version) for name, parameter in pool.base.model.named_parameters()}
    for name in sixteen:
        with pool.use(name):
            logits(pool.base.model, tiny.ids())
    after = {name: (parameter.data_ptr(), parameter._version) for name, parameter in pool.base.model.named_parameters()}
    assert after == before


def test_one_batch_writes_for_all(sixteen: dict[str, Path]) -> None:
    prompts = {"a0": "w5 w13 w37", "a7": "w5", "a15": "w8 w22"}
    how = Sampling(max_new_tokens=5)
    written = AdapterPool(sixteen).generate(prompts, how)
    assert written == {name: adapters.load(sixteen[name]).generate(prompt, 5) for name, prompt in prompts.items()}
    assert len(set(written.values())) > 1


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a" * 65, "ä", "a\n"])
def test_names_are_plain(name: str, sixteen: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="is not of 1 to 64 letters, digits, _ or -"):
        AdapterPool({name: sixteen["a0"]})


def test_an_unknown_name_is_one_line(sixteen: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"unknown adapter 'a99'; did you mean"):
        AdapterPool(sixteen).use("a99")


def test_another_base_is_one_line(sixteen: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(sixteen["a1"], tmp_path / "other"))
    record = json.loads((other / adapters.RECORD).read_text())
    (other / adapters.RECORD).write_text(json.dumps(record | {"base": "another"}))
    with pytest.raises(ConfigError, match=r"adapters: b differs from a in its base weights$"):
        AdapterPool({"a": sixteen["a0"], "b": other})


def test_a_method_that_trains_the_base_itself_cannot_be_resident(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=2).model_copy(update={"method": MethodConfig(name="full")})
    train(config, tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match="adapters: adapters of method full cannot live side by side"):
        AdapterPool({"a": tmp_path / "out"})


def test_heads_of_other_sizes_swap_and_do_not_mix(tmp_path: Path) -> None:
    """Two classes and three on one encoder."""
    folders = {}
    for name, classes in (("two", 2), ("three", 3)):
        rows = [{"text": tiny.words(6, seed), "label": f"c{seed % classes}"} for seed in range(40)]
        (tmp_path / name).mkdir()
        config = tiny.from_rows(tmp_path / name, "bert", "sequence-classification", rows, steps=4, learning_rate=5e-2)
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(tmp_path / name / "model", tmp_path / "model")
        train(config.model_copy(update={"model": str(tmp_path / "model")}), tmp_path / name / "out", quiet=True)
        folders[name] = tmp_path / name / "out"
    pool, ids = AdapterPool(folders), tiny.ids()
    for name, folder in folders.items():
        with pool.use(name):
            found = logits(pool.base.model, ids)
        expected = logits(adapters.load(folder).base.model, ids)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-6
    with pytest.raises(ConfigError, match="heads of different sizes cannot share a batch"):
        pool.rows(["two", "three"])
