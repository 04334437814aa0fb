"""The certificate: a good adapter passes, and every way to break one is caught by the check that is there for it."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from isolora.adapters import CERTIFICATE, RECORD, plain
from isolora.adapters import record as records
from isolora.certify import CHECKS, Certificate, certify
from isolora.config import MethodConfig
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


@pytest.fixture(autouse=True)
def one_process(request: pytest.FixtureRequest) -> None:
    """Tests that ask for `fresh_process` have plain PEFT in one of its own."""
    if "fresh_process" not in request.fixturenames:
        request.getfixturevalue("plain_peft_here")


@pytest.fixture
def fresh_process() -> None:
    """Plain PEFT in a process of its own."""


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """Base, texts and adapter in a place of their own; returns the adapter's folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "out" / "adapter"
    record = json.loads((folder / RECORD).read_text().replace(str(made), str(tmp_path)))
    records.write_record(folder, record)
    return folder


def failed(certificate: Certificate) -> dict[str, str]:
    """What was seen, by name of the checks that failed."""
    assert [check.name for check in certificate.checks] == list(CHECKS)
    assert certificate.passed == (not certificate.failed)
    return certificate.failed


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], covered: bool = False) -> None:
    """Change the adapter's tensors; covered: enter the new hash and digest too, as someone would who knows of them."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if covered:
        edit(folder, covered=True, files=entered(folder) | {WEIGHTS: sha256(folder / WEIGHTS)})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def edit(folder: Path, covered: bool = False, **changes: Any) -> None:
    record = json.loads((folder / RECORD).read_text()) | changes
    if covered:
        record["digest"] = records.digest(record)
    (folder / RECORD).write_text(json.dumps(record))


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


def lose(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(iter(tensors))]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.unknown.lora_A.weight"] = torch.ones(2, 2)


def climb(tensors: dict[str, torch.Tensor]) -> None:
    tensors["/etc/passwd"] = torch.ones(2)


def spoil(value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors[next(name for name in tensors if "lora_B" in name)].view(-1)[0].fill_(value)


@pytest.mark.parametrize(
    ("change", "check", "seen"),
    [
        (lose, "tensors", "is missing"),
        (add, "tensors", "unknown.lora_A.weight"),
        (climb, "outside", "tensor name '/etc/passwd'"),
        (spoil(math.nan), "finite", "not finite: "),
        (spoil(math.inf), "finite", "not finite: "),
    ],
)
def test_tensors_that_are_not_as_they_should(
    change: Callable[[dict[str, torch.Tensor]], Any], check: str, seen: str, copied: Path
) -> None:
    """With hash and digest made to fit; what else depends on the tensors fails too."""
    rewrite(copied, change, covered=True)
    found = failed(certify(copied))
    assert seen in found[check]
    assert not found.keys() & {"record", "hashes", "base"}


def test_another_base_is_caught(copied: Path) -> None:
    """Certified once before, so that nothing remembered of the old base may answer for the new one."""
    assert failed(certify(copied)) == {}
    model = tiny.llama()
    model.model.embed_tokens.weight.data += 0.01
    model.save_pretrained(copied.parents[1] / "model")
    found = failed(certify(copied))
    assert found.keys() == {"base", "score"}
    assert "trained on" in found["base"]


def changed(folder: Path, key: str, value: Any) -> dict[str, Any]:
    """The run's configuration with one key of its training changed."""
    config = json.loads((folder / RECORD).read_text())["config"]
    return dict(config | {"training": config["training"] | {key: value}})


def test_a_changed_record_is_caught_although_nothing_depends_on_it(copied: Path) -> None:
    """The learning rate decided the weights and decides no score any more."""
    edit(copied, config=changed(copied, "learning_rate", 1e-4))
    assert failed(certify(copied)).keys() == {"record"}
    edit(copied, covered=True, config=changed(copied, "learning_rate", 5e-2))
    assert failed(certify(copied)) == {}


@pytest.mark.parametrize("factor", [1.001, 0.5])
def test_a_recorded_loss_that_was_not_reached_is_caught(factor: float, copied: Path) -> None:
    loss = json.loads((copied / RECORD).read_text())["loss"]
    edit(copied, loss=loss * factor)
    assert failed(certify(copied)).keys() == {"record", "score"}
    edit(copied, covered=True, loss=loss * factor)
    assert failed(certify(copied)).keys() == {"score"}


def test_other_held_out_texts_are_caught(copied: Path) -> None:
    config = json.loads((copied / RECORD).read_text())["config"]
    edit(copied, covered=True, config=config | {"data": config["data"] | {"seed": 3}})
    assert failed(certify(copied)).keys() == {"score"}


@pytest.mark.parametrize("scaling", [{"lora_alpha": 8}, {"use_rslora": True}])
def test_another_scaling_is_caught(scaling: dict[str, Any], copied: Path) -> None:
    """A quieter adapter is whole and loads; only hash and score know."""
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scaling))
    assert failed(certify(copied)).keys() == {"hashes", "score"}


@pytest.mark.parametrize("value", ["/etc/passwd", "../../elsewhere", "C:\\windows", "~/keys", "\\\\server\\share"])
def test_a_setting_that_leads_out_is_caught(value: str, copied: Path) -> None:
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": value}))
    assert failed(certify(copied)) == {
        "hashes": "changed: adapter_config.json",
        "outside": f"adapter_config.json names {value!r}",
    }


def test_a_link_that_leads_out_is_caught(copied: Path) -> None:
    moved = copied.parent / WEIGHTS
    (copied / WEIGHTS).rename(moved)
    (copied / WEIGHTS).symlink_to(moved)
    found = failed(certify(copied))
    assert found["outside"] == f"link {WEIGHTS} leads to {moved}"
    assert "a link that leads out of the folder" in found["tensors"]


def test_hashes_cover_all_files_and_nothing_outside(copied: Path) -> None:
    whole = entered(copied)
    edit(copied, covered=True, files={})
    assert "adapter_config.json, adapter_model.safetensors" in failed(certify(copied))["hashes"]
    secret = copied.parent / "secret"
    secret.write_text("secret")
    edit(copied, covered=True, files={**whole, "../secret": sha256(secret)})
    assert failed(certify(copied)) == {"hashes": "changed: ../secret", "outside": "file name '../secret'"}
    edit(copied, covered=True, files=whole)
    (copied / "adapter_extra.bin").write_text("new")
    assert failed(certify(copied)) == {"hashes": "changed: adapter_extra.bin"}


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_config.json"])
def test_a_lost_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink()
    found = failed(certify(copied))
    assert found["hashes"] == f"changed: {name}"
    assert found.keys() >= {"hashes", "tensors", "peft", "merged", "score"}


def test_a_lost_base_fails_what_needs_it(copied: Path) -> None:
    shutil.rmtree(copied.parents[1] / "model")
    assert failed(certify(copied)).keys() >= {"base", "tensors", "peft", "merged", "score"}


@pytest.mark.parametrize(
    ("method", "not_applicable"),
    [
        ({"name": "bottleneck"}, {"peft", "merged"}),
        ({"name": "selective", "train": "norms"}, {"peft"}),
        ({"name": "selective", "train": r"\w+\..*norm.*"}, {"peft"}),
        ({"name": "full"}, {"peft"}),
        ({"name": "adalora"}, set()),
        ({"name": "prefix"}, {"merged"}),
        ({"name": "llama-adapter"}, {"merged"}),
        ({"name": "peft:vera"}, set()),
        ({"name": "lora", "targets": ["embed_tokens", "q_proj"]}, set()),
    ],
)
def test_every_method_is_certified_by_what_it_can(method: dict[str, Any], not_applicable: set[str], tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=4).model_copy(update={"method": MethodConfig(**method)})
    train(config, tmp_path / "out", quiet=True)
    certificate = certify(tmp_path / "out")
    assert failed(certificate) == {}
    assert {check.name for check in certificate.checks if check.passed is None} == not_applicable


@pytest.mark.parametrize(
    ("kind", "task", "row"),
    [
        ("bert", "sequence-classification", lambda seed: {"text": tiny.words(6, seed), "label": f"c{seed % 3}"}),
        ("llama", "sequence-classification", lambda seed: {"text": tiny.words(6, seed), "label": f"c{seed % 3}"}),
        ("bart", "summarization", lambda seed: {"document": tiny.words(9, seed), "summary": tiny.words(3, seed)}),
        ("t5", "summarization", lambda seed: {"document": tiny.words(9, seed), "summary": tiny.words(3, seed)}),
    ],
)
def test_every_kind_of_model_is_certified(kind: str, task: str, row: Callable[[int], dict[str, Any]], tmp_path: Path) -> None:
    """Heads are part of the adapter; an encoder-decoder is asked on both sides."""
    config = tiny.from_rows(tmp_path, kind, task, [row(seed) for seed in range(40)], steps=4, learning_rate=5e-2)
    train(config, tmp_path / "out", quiet=True)
    certificate = certify(tmp_path / "out")
    assert failed(certificate) == {}
    assert not [check.name for check in certificate.checks if check.passed is None]


def test_a_folder_without_an_adapter_gets_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no adapter made by isolora here"):
        certify(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", [{"name": "lora", "rank": 2}, {"name": "prompt", "virtual_tokens": 4}])
def test_plain_peft_is_asked_in_a_process_of_its_own(method: dict[str, Any], fresh_process: None, tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=4).model_copy(update={"method": MethodConfig(**method)})
    train(config, tmp_path / "out", quiet=True)
    assert failed(certify(tmp_path / "out")) == {}


def test_plain_peft_knows_nothing_of_isolora() -> None:
    """The file imports none of it, neither itself nor as a script."""
    tree = ast.parse(Path(plain.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in names if name.startswith("isolora")]


@pytest.mark.parametrize(
    ("config", "left"), [({}, True), ({"quantization_config": {"load_in_4bit": True}}, False), (None, False)]
)
def test_plain_peft_looks_for_quantised_layers_where_there_may_be_some(
    config: dict[str, Any] | None, left: bool, tmp_path: Path
) -> None:
    """With bitsandbytes comes torch's compiler: 0.9 of 4.7 processor seconds. Of a base on the hub nothing is known before."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with mock.patch.dict(sys.modules):
        plain.leave_bitsandbytes(str(tmp_path))
        assert (sys.modules.get("bitsandbytes", sys) is None) == left


def test_what_plain_peft_cannot_load_is_one_line(fresh_process: None, copied: Path) -> None:
    path = copied / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": "16"}))
    assert "plain PEFT: TypeError: " in failed(certify(copied))["peft"]
