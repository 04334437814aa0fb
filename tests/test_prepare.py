"""A run with a body: what it resolves to, what is shared between runs, and that nothing shared is out of date or left dirty."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from isolora import models
from isolora.config import MethodConfig, RunConfig
from isolora.errors import ConfigError, DataError
from isolora.runs.prepared import PreparedRun
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.training import train, train_stack
from isolora.training.interruption import handled
from isolora.training.stack import Stack


def base_of(config: RunConfig, workspace: Workspace) -> Any:
    with PreparedRun.load(config, workspace) as run:
        return run.base


def test_a_base_is_shared_until_it_changes(tmp_path: Path) -> None:
    config, workspace = tiny.from_files(tmp_path), Workspace()
    name, fingerprint = tiny.identity(config), models.fingerprint(config.model)
    first = base_of(config, workspace)
    assert base_of(config.model_copy(update={"seed": 1}), workspace) is first
    assert base_of(config, Workspace()) is not first, "nothing is kept outside a workspace"
    model = tiny.llama()
    model.model.embed_tokens.weight.data += 1
    model.save_pretrained(config.model)
    weight = base_of(config, workspace).model.model.embed_tokens.weight
    assert torch.equal(weight, first.model.model.embed_tokens.weight + 1)
    assert models.fingerprint(config.model) != fingerprint
    assert tiny.identity(config) != name


def test_a_base_is_lent_to_one_run_at_a_time(tmp_path: Path) -> None:
    config, workspace = tiny.from_files(tmp_path), Workspace()
    with PreparedRun.load(config, workspace) as one, PreparedRun.load(config, workspace) as other:
        assert one.base is not other.base


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_base_that_was_left_in_the_middle_is_not_used_again(failure: type[BaseException], tmp_path: Path) -> None:
    config, workspace = tiny.from_files(tmp_path), Workspace()

    def fail() -> None:
        with PreparedRun.load(config, workspace) as run:
            seen.append(run.base)
            run.attach([config])
            raise failure

    seen: list[Any] = []
    with pytest.raises(failure):
        fail()
    assert not [name for name, _ in seen[0].model.named_parameters() if "lora" in name], "the adapters are gone all the same"
    assert base_of(config, workspace) is not seen[0]


def test_an_interrupt_while_adapters_are_attached_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the layers are wrapped when Ctrl-C comes: nobody can detach them, so nobody gets this base again."""
    from isolora.methods import lora

    config, workspace = tiny.from_files(tmp_path), Workspace()
    with monkeypatch.context() as patched:
        patched.setattr(lora, "Heads", interrupt)
        with pytest.raises(KeyboardInterrupt), PreparedRun.load(config, workspace) as run:
            run.attach([config])
    with PreparedRun.load(config, workspace) as run:
        assert not [name for name, _ in run.base.model.named_parameters() if "lora" in name]


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_after_an_interrupted_one_is_the_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.from_files(tmp_path, steps=3)
    undisturbed = train(config, tmp_path / "undisturbed", quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "out", quiet=True)
    ended = train(config, tmp_path / "out", quiet=True)
    assert (ended["state"], ended["loss"]) == ("complete", undisturbed["loss"])


@pytest.mark.parametrize("method", [{"name": "lora", "rank": 4}, {"name": "peft:vera"}, {"name": "prefix"}], ids=str)
def test_a_signal_in_mid_training_leaves_the_pools_base_as_it_was(
    method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT at the third step; then, in the same process and from the same pool, another folder and the one that was cut."""
    config = tiny.from_files(tmp_path, steps=6).model_copy(update={"method": MethodConfig(**method)})
    train(config, tmp_path / "undisturbed", quiet=True)
    workspace, step = Workspace(), Stack.step

    def signalled(stack: Stack) -> Any:
        if stack.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(stack)

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", signalled)
        with pytest.raises(KeyboardInterrupt), handled():
            train_stack([config], Store(tmp_path / "cut"), "train", quiet=True, workspace=workspace)
    for folder in ("another", "cut"):
        train_stack([config], Store(tmp_path / folder), "train", quiet=True, workspace=workspace)
        assert digests(tmp_path / folder) == digests(tmp_path / "undisturbed")


def digests(folder: Path) -> dict[str, bytes]:
    """Tensors of the only adapter below a folder, by name."""
    [file] = folder.rglob("adapter_model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


def test_training_again_after_an_edit_sees_the_new_file(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=3)
    first = train(config, tmp_path / "first", quiet=True)
    source = Path(config.data.source)
    source.write_text(source.read_text().replace("w5", "w6"))
    second = train(config, tmp_path / "second", quiet=True)
    assert first["run"] != second["run"]
    assert first["loss"] != second["loss"]


def test_an_identity_is_of_settings_base_and_texts(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    data = config.data.model_copy(update={"seed": 1})
    names = [
        tiny.identity(run) for run in (config, config.model_copy(update={"seed": 1}), config.model_copy(update={"data": data}))
    ]
    assert len(set(names)) == 3
    often = config.training.model_copy(update={"checkpoint_seconds": 1.0})
    assert tiny.identity(config.model_copy(update={"training": often})) == names[0]


def test_examples_fit_the_model(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    assert tiny.prepared(config, max_length=7).train.lengths.max() == 7 < tiny.prepared(config).train.lengths.max()
    with pytest.raises(ConfigError, match=r"data\.max_length: 65 exceeds the model's 64 positions"):
        tiny.prepared(config, max_length=65)
    with pytest.raises(DataError, match=r"data\.max_length is 1, and it takes two"):
        tiny.prepared(config, max_length=1)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    folder = Path(config.model)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"]["vocab"] = {
        token: number + (400 if token == "w5" else 0) for token, number in settings["model"]["vocab"].items()
    }
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="has embeddings for 61 tokens, and its tokenizer gives token"):
        PreparedRun.load(config)
