"""The certificate: a good adapter passes, and every way to break one is caught by the check that is there for it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from isolora.adapters import RECORD
from isolora.certify import CERTIFICATE, CHECKS, Check, certify
from isolora.errors import DataError
from isolora.training import train

torch.set_num_threads(1)
WEIGHTS = "adapter_model.safetensors"
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    train(tiny.from_files(folder, steps=12, learning_rate=5e-2), folder / "out", quiet=True)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Base, texts and adapter in a place of their own; returns the adapter's folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "out" / "adapter" / RECORD
    record.write_text(record.read_text().replace(str(made), str(tmp_path)))
    return record.parent


def failed(checks: list[Check]) -> dict[str, str]:
    """What was seen, by name of the checks that failed."""
    assert [check.name for check in checks] == list(CHECKS)
    return {check.name: check.seen for check in checks if not check.passed}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], covered: bool = False) -> None:
    """Change the adapter's tensors; covered: enter the new hash too, as someone would who knows of it."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if covered:
        edit(folder, files=entered(folder) | {WEIGHTS: hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()})


def edit(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, **changes}))


def entered(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / RECORD).read_text())["files"])


def test_a_good_adapter_passes_and_says_so(copied: Path) -> None:
    assert failed(certify(copied)) == {}
    written = json.loads((copied / CERTIFICATE).read_text())
    assert written["passed"] is True
    assert {check["name"]: check["seen"] for check in written["checks"]}["hashes"] == "2 files as written"
    assert failed(certify(copied.parent)) == {}, "again, from the run's folder, with the certificate lying there"


def test_a_flipped_bit_is_a_changed_hash(copied: Path) -> None:
    data = bytearray((copied / WEIGHTS).read_bytes())
    data[-4] ^= 1  # the last bit of a weight: too small for any other check
    (copied / WEIGHTS).write_bytes(data)
    assert failed(certify(copied)) == {"hashes": f"changed: {WEIGHTS}"}
    assert json.loads((copied / CERTIFICATE).read_text())["passed"] is False


def test_a_missing_tensor_is_named(copied: Path) -> None:
    lost = next(iter(load_file(copied / WEIGHTS)))
    rewrite(copied, lambda tensors: tensors.pop(lost), covered=True)
    found = failed(certify(copied))
    assert found.keys() == {"peft", "merged", "score"}
    assert all(f"{lost} is missing" in seen for seen in found.values())


def test_another_base_is_caught(copied: Path) -> None:
    """Certified once before, so that nothing remembered of the old base may answer for the new one."""
    assert failed(certify(copied)) == {}
    model = tiny.llama()
    model.model.embed_tokens.weight.data += 0.01
    model.save_pretrained(copied.parents[1] / "model")
    found = failed(certify(copied))
    assert found.keys() == {"base", "score"}
    assert "trained on" in found["base"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_named(value: float, copied: Path) -> None:
    name = next(name for name in load_file(copied / WEIGHTS) if "lora_B" in name)
    rewrite(copied, lambda tensors: tensors[name].view(-1)[0].fill_(value), covered=True)
    found = failed(certify(copied))
    assert found["finite"] == f"not finite: {name}"
    assert found.keys() == {"finite", "peft", "merged", "score"}


@pytest.mark.parametrize("factor", [1.001, 0.5])
def test_a_recorded_loss_that_was_not_reached_is_caught(factor: float, copied: Path) -> None:
    loss = json.loads((copied / RECORD).read_text())["loss"]
    edit(copied, loss=loss * factor)
    assert failed(certify(copied)).keys() == {"score"}


def test_other_held_out_texts_are_caught(copied: Path) -> None:
    config = json.loads((copied / RECORD).read_text())["config"]
    edit(copied, config=config | {"data": config["data"] | {"seed": 3}})
    assert failed(certify(copied)).keys() == {"score"}


@pytest.mark.parametrize("scaling", [{"lora_alpha": 8}, {"use_rslora": True}])
def test_another_scaling_is_caught(scaling: dict[str, Any], copied: Path) -> None:
    """A quieter adapter is whole and loads; only hash and score know."""
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scaling))
    assert failed(certify(copied)).keys() == {"hashes", "score"}


def test_hashes_cover_all_files_and_nothing_outside(copied: Path) -> None:
    whole = entered(copied)
    edit(copied, files={})
    assert "adapter_config.json, adapter_model.safetensors" in failed(certify(copied))["hashes"]
    secret = copied.parent / "secret"
    secret.write_text("secret")
    edit(copied, files={**whole, "../secret": hashlib.sha256(b"secret").hexdigest()})
    assert failed(certify(copied)) == {"hashes": "changed: ../secret"}


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_a_lost_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink()
    found = failed(certify(copied))
    assert found["hashes"] == f"changed: {name}"
    assert found.keys() >= {"hashes", "peft", "merged", "score"}


def test_a_lost_base_fails_what_needs_it(copied: Path) -> None:
    shutil.rmtree(copied.parents[1] / "model")
    assert failed(certify(copied)).keys() == {"base", "peft", "merged", "score"}


def test_a_folder_without_an_adapter_gets_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no adapter made by isolora here"):
        certify(tmp_path)
    assert not list(tmp_path.iterdir())
