"""Adapters and bases of strangers: whatever their files say, an answer or one line comes within seconds, nothing runs, nothing is
read or written outside the folder. The longer search is benchmarks/fuzz_adapters.py; what it once found stands here."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import isolora
from isolora import registry
from isolora.adapters import record as records
from isolora.adapters.export import EXPORTS, export_adapter
from isolora.certify import certify
from isolora.config import DataConfig, MethodConfig, parse
from isolora.errors import UserError
from isolora.methods import targets
from isolora.methods.adapter_files import DEEPEST, MOST_JSON_BYTES
from isolora.training import train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SECONDS = 5.0
HANGS = "(([a-z_.0-9]+)+)+#"
DEEP = json.loads("[" * 500 + "]" * 500)

ADAPTER: list[dict[str, Any]] = [
    *({"r": value} for value in (10**9, -1, 0, "8", None, 1.5, True, [4], float("nan"))),
    *({"lora_alpha": value} for value in (0, -3, "16", float("nan"), float("inf"), 10**400, {})),
    *({"lora_dropout": value} for value in (1.0, -0.1, "x", float("nan"))),
    *({"target_modules": value} for value in (None, "", [], [""], ["nope"], ["q_proj", "nope"], ["q_proj", 7], 5, {"a": 1}, "(")),
    *({"target_modules": value} for value in (HANGS, "x" * 10**5, "../../..", [HANGS], DEEP)),
    *({"peft_type": value} for value in ("XLORA", "nope", None, 3, ["LORA"], "IA3")),
    *({"init_lora_weights": value} for value in ("pissa", "/etc/passwd", {"x": 1})),
    *({"rank_pattern": {HANGS: 2}}, {"alpha_pattern": {"q_proj": float("nan")}}, {"layer_replication": [[0, 10**9]]}),
    *(
        {"modules_to_save": ["lm_head"]},
        {"exclude_modules": True},
        {"exclude_modules": [3]},
        {"exclude_modules": HANGS},
        {"layers_to_transform": [10**9]},
        {"use_dora": True},
    ),
    *({"auto_mapping": {"base_model_class": "system", "parent_library": "os"}}, {"task_type": []}, {"revision": "../.."}),
]
RECORD: list[dict[str, Any]] = [
    *({"config": value} for value in (3, None, [], "x", DEEP)),
    *({"labels": value} for value in (7, [1], {"a": "b"}, "ab")),
    *({key: value} for key in ("files", "origins", "metrics", "run", "loss", "base", "format") for value in (3, None, ["x"])),
]
CONFIG: list[dict[str, Any]] = [
    *(
        {"model": value}
        for value in (10**9, "", "..", "/dev/zero", "/dev/stdin", "http://x/y", "a\0b", "x" * 5000, "\ud800", None)
    ),
    *({"task": value} for value in ("nope", 3, {"name": "causal-lm", "stride": -1}, {"name": ["x"]})),
    *({"method": value} for value in ("nope", "prefix", "peft:", "peft:" + "x" * 999, {"name": "lora", "rank": 10**9}, [])),
    *({"new_tokens": value} for value in (["w5"], [""], 3, ["a"])),
    *({"seed": 10**30}, {"trust_remote_code": True}, {"unknown": 1}, {"data": 3}, {"training": {}}),
]
BASE: list[dict[str, Any]] = [
    *({"num_hidden_layers": value} for value in (10**9, 10**5, -1, 0, 3, "2", None, 1e9)),
    *({"hidden_size": value} for value in (10**9, 0, -16, 15, "x")),
    *({"vocab_size": value} for value in (10**12, 10**7, 0, -1, 60)),
    *({"num_attention_heads": value} for value in (0, 3, 10**9)),
    *({"max_position_embeddings": value} for value in (0, -1, 10**12, "x")),
    *(
        {"intermediate_size": 10**10},
        {"head_dim": 10**9},
        {"num_key_value_heads": 0},
        {"rope_theta": "x"},
        {"pad_token_id": 10**9},
    ),
    *({"model_type": value} for value in ("nope", "gpt2", "bert", 3, None, "\0")),
    *({"dtype": "nope"}, {"architectures": ["os"]}, {"tie_word_embeddings": "x"}, {"hidden_act": "nope"}, {"rope_parameters": 3}),
    *({"quantization_config": {"quant_method": "nope"}}, {"quantization_config": 3}, {"rms_norm_eps": "x"}, {"eos_token_id": {}}),
    *({"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"}, {"deep": DEEP}),
]


@pytest.fixture
def folder(made: Path, tmp_path: Path, plain_peft_here: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`adapter` and its base `model` in a place of their own; patterns have a second."""
    monkeypatch.setattr(targets, "SECONDS", 1.0)
    shutil.copytree(made / "adapter", tmp_path / "adapter")
    shutil.copytree(made.parent / "model", tmp_path / "model")
    edit(tmp_path / "adapter" / "isolora.json", lambda record: record["config"].update(model=str(tmp_path / "model")))
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def answers_or_refuses(folder: Path) -> str:
    """Load, export, certify: what was refused, in one line each, or nothing."""
    said = []
    verbs: tuple[Callable[[], Any], ...] = (
        lambda: isolora.load(folder / "adapter"),
        lambda: export_adapter(folder / "adapter", "peft", folder / "exported"),
    )
    for verb in verbs:
        started = time.monotonic()
        try:
            verb()
        except UserError as refusal:
            said.append(str(refusal))
        assert time.monotonic() - started < SECONDS
    assert all(0 < len(line) < 7000 and "\n" not in line for line in said)
    return "; ".join(said)


@pytest.mark.parametrize("change", ADAPTER, ids=lambda change: str(change)[:60])
def test_adapter_configurations(change: dict[str, Any], folder: Path) -> None:
    edit(folder / "adapter" / "adapter_config.json", lambda config: config.update(change))
    answers_or_refuses(folder)


@pytest.mark.parametrize("change", RECORD, ids=lambda change: str(change)[:60])
def test_records(change: dict[str, Any], folder: Path) -> None:
    edit(folder / "adapter" / "isolora.json", lambda record: record.update(change))
    answers_or_refuses(folder)


@pytest.mark.parametrize("change", CONFIG, ids=lambda change: str(change)[:60].encode("ascii", "replace").decode())
def test_runs_in_records(change: dict[str, Any], folder: Path) -> None:
    edit(folder / "adapter" / "isolora.json", lambda record: record["config"].update(change))
    answers_or_refuses(folder)


@pytest.mark.parametrize("change", BASE, ids=lambda change: str(change)[:60])
def test_base_configurations(change: dict[str, Any], folder: Path) -> None:
    (folder / "model" / "evil.py").write_text("open('evil-ran', 'w')\nclass Evil: ...\n")
    edit(folder / "model" / "config.json", lambda config: config.update(change))
    said = answers_or_refuses(folder)
    assert not list(folder.rglob("evil-ran"))
    assert not Path("evil-ran").exists()
    numbers = [value for value in change.values() if isinstance(value, int)]
    if any(value >= 10**7 for value in numbers) and "num_attention_heads" not in change:
        assert said or change.keys() <= {"max_position_embeddings", "pad_token_id"}, "a model of that size is not built"


def header(head: Any, data: bytes = b"", length: int | None = None) -> bytes:
    written = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + data


BROKEN = {
    "empty": b"",
    "text": b"not tensors at all",
    "short": b"\1\0\0",
    "header beyond the file": header({}, length=10**6),
    "header of 2**63 bytes": header({}, length=2**63),
    "header is no JSON": header(b"{{{{"),
    "header is a list": header([1, 2]),
    "header is deep": header(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "no tensors": header({"__metadata__": {"format": "pt"}}),
    "offsets beyond the data": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "offsets backwards": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "shape of 10**30": header({"a": {"dtype": "F32", "shape": [10**10, 10**10, 10**10], "data_offsets": [0, 4]}}, b"1234"),
    "negative shape": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "unknown type": header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "names that climb": header({"../../a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "data in nobody's name": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("peft:VERA", "r"),
        ("peft:LOHA", "r"),
        ("adalora", "init_r"),
        ("prompt", "num_virtual_tokens"),
        ("llama-adapter", "adapter_len"),
        *(("p-tuning", field) for field in ("token_dim", "num_layers", "num_attention_heads")),
        ("prefix", "token_dim"),
    ],
)
def test_sizes_that_no_tensor_has_take_no_memory(name: str, field: str, tmp_path: Path) -> None:
    method = registry.load_plug_in("method", name)
    method.attach(tiny.llama(), [method.settings({"r": 2} if name.startswith("peft:") else {})], [0]).save(0, tmp_path)
    edit(tmp_path / "adapter_config.json", lambda config: config.update({field: 10**8}))
    with pytest.raises(UserError, match=rf"{field}: 100,000,000 is larger than any saved tensor is long"):
        method.load(tiny.llama(), tmp_path)


@pytest.mark.parametrize("where", ["adapter/adapter_model.safetensors", "model/model.safetensors"])
@pytest.mark.parametrize("broken", BROKEN)
def test_broken_safetensors(broken: str, where: str, folder: Path) -> None:
    (folder / where).write_bytes(BROKEN[broken])
    assert answers_or_refuses(folder)
    certificate = certify(folder / "adapter")
    assert not certificate.passed


@pytest.mark.parametrize("where", ["adapter/adapter_model.safetensors", "model/model.safetensors"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_refused_unread(name: str, where: str, folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(folder / "evil-ran"),)

    (folder / where).unlink()
    (folder / where).with_name(name).write_bytes(pickle.dumps(Evil()))
    assert f"{name} is a pickle, which can run code" in answers_or_refuses(folder)
    assert not certify(folder / "adapter").passed
    assert not (folder / "evil-ran").exists()


@pytest.mark.parametrize("name", ["isolora.json", "adapter_config.json"])
def test_settings_have_bounds(name: str, folder: Path) -> None:
    path = folder / "adapter" / name
    whole = path.read_text()
    path.write_text(" " * (MOST_JSON_BYTES + 1))
    assert "bytes of settings" in answers_or_refuses(folder)
    path.write_text(json.dumps({**json.loads(whole), "x": ["\ud800"]}))
    assert f"no readable {name} (half of a character" in answers_or_refuses(folder)
    path.write_bytes(b"[" * 10**6)
    assert "no readable" in answers_or_refuses(folder)
    path.write_text(json.dumps({**json.loads(whole), "x": json.loads("[" * DEEPEST + "]" * DEEPEST)}))
    assert "levels of nesting" in answers_or_refuses(folder)


PLACES = ("adapter/isolora.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model/config.json")


@pytest.mark.parametrize("where", [*PLACES, "model/model.safetensors", "model/tokenizer.json", "adapter/README.md"])
def test_pipes_are_not_waited_for(where: str, folder: Path) -> None:
    (folder / where).unlink()
    os.mkfifo(folder / where)
    said = answers_or_refuses(folder)
    assert said or where.endswith("README.md")
    if not where.endswith("isolora.json"):
        certify(folder / "adapter")


@pytest.mark.parametrize("where", PLACES[:3])
def test_links_out_of_the_folder_are_not_followed(where: str, folder: Path) -> None:
    """A stranger's `adapter_config.json` could be a link to somebody's keys, copied into what is exported."""
    (folder / where).rename(folder / "elsewhere")
    (folder / where).symlink_to(folder / "elsewhere")
    assert "a link that leads out of the folder" in answers_or_refuses(folder)
    assert not (folder / "exported").exists()


def test_other_files_that_are_links_are_not_exported(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    (folder / "adapter" / "notes.txt").symlink_to(folder / "secret")
    export_adapter(folder / "adapter", "peft", folder / "exported")
    assert "notes.txt" not in {path.name for path in (folder / "exported").iterdir()}


def test_a_hub_snapshot_of_links_is_read(folder: Path) -> None:
    """The hub's cache: `snapshots/REVISION` is made of links to `blobs` beside it."""
    blobs, snapshot = folder / "hub" / "blobs", folder / "hub" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    shutil.copytree(folder / "adapter", blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert isolora.load(snapshot).record["format"] == "peft"


def test_a_folder_that_is_a_link_out_is_not_taken_for_the_runs_adapter(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "adapter").symlink_to(folder / "adapter")
    with pytest.raises(UserError, match="no adapter made by isolora here"):
        certify(folder / "run")
    assert not (folder / "adapter" / "certificate.json").exists()


@pytest.mark.parametrize("name", ["certificate.json", ".certificate.json.{pid}", "README.md", "isolora.json"])
def test_nothing_is_written_through_a_link(name: str, folder: Path) -> None:
    victim, path = folder / "victim", folder / "adapter" / name.format(pid=os.getpid())
    victim.write_text("mine")
    if name == "isolora.json":
        shutil.copy(path, folder / "kept")
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    if name == "isolora.json":
        records.write_record(folder / "adapter", json.loads((folder / "kept").read_text()))
    else:
        certify(folder / "adapter")
        records.amend(folder / "adapter", note="x")
    assert victim.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions")
def test_a_folder_that_cannot_be_written_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(UserError, match=r"certificate\.json: cannot be written \(Permission denied\)"):
        certify(folder / "adapter")


@pytest.mark.parametrize("to", EXPORTS)
def test_tensor_names_lead_nowhere(to: str, folder: Path) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    save_file({**load_file(path), "../../../evil": torch.ones(2), "/evil": torch.ones(2)}, path)
    before = sorted(str(found) for found in folder.rglob("*"))
    with pytest.raises(UserError, match="evil"):
        export_adapter(folder / "adapter", to, folder / "exported")
    assert sorted(str(found) for found in folder.rglob("*")) == before


def test_a_base_named_by_a_relative_path_is_found_beside_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from another folder, it said: did you mean 'huggyllama/llama-7b'."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    config = tiny.from_files(Path("bases"), steps=2).model_copy(update={"model": "bases/model"})
    train(config, Path("runs/a"), quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    place = tmp_path / "project" / "runs" / "a"
    assert isolora.load(place).config.model == str(tmp_path / "project" / "bases" / "model")
    shutil.move(tmp_path / "project", tmp_path / "moved")
    assert isolora.load(tmp_path / "moved" / "runs" / "a").attached
    model = tiny.llama()
    model.model.norm.weight.data += 1
    model.save_pretrained(tmp_path / "moved" / "bases" / "model")
    with pytest.raises(UserError, match=r"local folder 'bases/model' when .* neither here nor beside the adapter") as caught:
        isolora.load(tmp_path / "moved" / "runs" / "a")
    assert "huggyllama" not in str(caught.value)


@pytest.mark.parametrize("source", ["texts/*.txt", "texts/a.txt"])
def test_data_named_by_a_relative_path_are_found_beside_the_adapter(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from another folder, it said that there is no such file."""
    (tmp_path / "project" / "texts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    config = tiny.from_files(Path(), steps=2)
    shutil.move("texts.txt", "texts/a.txt")
    shutil.copy("texts/a.txt", "other.txt")
    given = {"source": source, "mix": [{"source": "other.txt", "share": 0.2}]}
    config = config.model_copy(update={"data": parse(DataConfig, {**config.data.model_dump(), **given})})
    loss = train(config, Path("runs/a"), quiet=True)["loss"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.move(tmp_path / "project", tmp_path / "moved")
    assert isolora.evaluate(tmp_path / "moved" / "runs" / "a", repeats=0)["loss"] == pytest.approx(loss, rel=1e-6)
    assert isolora.load(tmp_path / "moved" / "runs" / "a").config.data.mix[0].source == str(tmp_path / "moved" / "other.txt")
    shutil.rmtree(tmp_path / "moved" / "texts")
    assert isolora.load(tmp_path / "moved" / "runs" / "a").attached
    with pytest.raises(UserError, match="texts"):
        isolora.evaluate(tmp_path / "moved" / "runs" / "a", repeats=0)


def test_a_strangers_pattern_of_data_searches_no_disk(folder: Path) -> None:
    edit(folder / "adapter" / "isolora.json", lambda record: record["config"]["data"].update(source="**/*/**/*/nothing-*.txt"))
    started = time.monotonic()
    assert isolora.load(folder / "adapter").attached
    assert time.monotonic() - started < SECONDS


ONCE = [
    # (method, file, change): what the fuzz target found
    (
        "adalora",
        "adapter/adapter_config.json",
        lambda value: value["rank_pattern"].update({key: [{}] for key in value["rank_pattern"]}),
    ),
    ("adalora", "adapter/adapter_config.json", lambda value: value.update(rank_pattern=7)),
    ("lora", "model/tokenizer_config.json", lambda value: value.update(pad_token="\0")),
    ("lora", "model/tokenizer_config.json", lambda value: value.update(model_max_length="~")),
    ("lora", "model/tokenizer.json", lambda value: value["model"]["vocab"].update(w9="x")),
    ("lora", "model/generation_config.json", lambda value: value.update(eos_token_id=["q", "r"])),
    ("lora", "model/generation_config.json", lambda value: value.update(output_hidden_states="%s")),
    ("lora", "model/generation_config.json", lambda value: value.update(bos_token_id=1e308)),
]


def test_a_tokenizer_that_knows_more_than_the_model_is_exported(folder: Path) -> None:
    """The scores to compare were asked of a token without an embedding."""
    edit(folder / "model" / "tokenizer_config.json", lambda value: value.update(pad_token="beyond"))
    assert answers_or_refuses(folder) == ""


@pytest.mark.parametrize(("method", "where", "change"), ONCE)
def test_once_found(method: str, where: str, change: Callable[[Any], Any], tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=4)
    train(config.model_copy(update={"method": MethodConfig(name=method)}), tmp_path / "out", quiet=True)
    shutil.move(tmp_path / "out" / "adapter", tmp_path / "adapter")
    edit(tmp_path / where, change)
    said = ""
    try:
        isolora.load(tmp_path / "adapter").generate("w5", max_new_tokens=2)
    except UserError as refusal:
        said = str(refusal)
    assert "\n" not in said
