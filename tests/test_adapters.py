"""An adapter's life: loaded from its folder, made to write, handed over to others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from isolora import adapters
from isolora.errors import ConfigError, DataError
from isolora.training import train

torch.set_num_threads(1)
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
PROMPT = "w5 w13 w37"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, its adapter trained far enough to matter."""
    folder = tmp_path_factory.mktemp("made")
    ended = train(tiny.from_files(folder, steps=12, learning_rate=5e-2), folder / "out", quiet=True)
    assert ended["state"] == "DONE"
    return folder / "out"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """An adapter's folder to spoil."""
    return Path(shutil.copytree(made / "adapter", tmp_path / "adapter"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tiny.ids()).logits


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spoil(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / adapters.RECORD).read_text())
    (folder / adapters.RECORD).write_text(json.dumps({**record, **changes}))


def test_loads_from_its_run_and_from_its_own_folder(made: Path) -> None:
    whole, own = adapters.load(made), adapters.load(made / "adapter")
    assert whole.folder == own.folder == made / "adapter"
    assert torch.equal(logits(whole.base.model), logits(own.base.model))
    bare = logits(adapters.bare_base(made / "adapter").model)
    assert (logits(own.base.model) - bare).abs().max() > 0.1
    assert not own.base.model.training


def test_greedy_writing_takes_the_likeliest_entry(made: Path) -> None:
    adapter = adapters.load(made)
    ids = adapter.base.tokenizer(PROMPT, return_tensors="pt").input_ids
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, adapter.base.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    expected = adapter.base.tokenizer.decode(ids[0, 3:], skip_special_tokens=True)
    assert adapter.generate(PROMPT, max_new_tokens=6) == expected
    assert adapter.generate(PROMPT, max_new_tokens=6, seed=9) == expected


def test_sampling_follows_its_seed(made: Path) -> None:
    adapter = adapters.load(made)
    written = [adapter.generate(PROMPT, 12, temperature=1.5, seed=seed) for seed in (0, 0, 1, 2)]
    assert written[0] == written[1]
    assert len(set(written)) == 3


def test_writing_ends_with_the_models_positions(made: Path) -> None:
    adapter = adapters.load(made)
    assert len(adapter.generate(" ".join(["w5"] * 60), 80).split()) == 4
    with pytest.raises(ConfigError, match="prompt: 64 tokens leave no room in the model's 64 positions") as caught:
        adapter.generate(" ".join(["w5"] * 64))
    one_line(caught)


def test_an_empty_prompt_needs_a_token_to_start_with(made: Path) -> None:
    adapter = adapters.load(made)
    with pytest.raises(ConfigError, match="prompt: empty"):
        adapter.generate("")
    adapter.base.tokenizer.bos_token = "w7"
    assert adapter.generate("", 5) == adapter.generate("w7", 5)


def test_merged_export_is_a_plain_model(made: Path, tmp_path: Path) -> None:
    place = adapters.export(made, "merged", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(place)
    difference = (logits(plain) - logits(adapters.load(made).base.model)).abs().max()
    assert difference <= 1e-5
    assert not [name for name in plain.state_dict() if "lora" in name]
    assert AutoTokenizer.from_pretrained(place)("w5 nonsense")["input_ids"] == [5, 1]


def test_peft_export_loads_in_peft(made: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    place = adapters.export(made, "peft", tmp_path / "peft")
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    theirs = PeftModel.from_pretrained(adapters.bare_base(made / "adapter").model, str(place))
    assert (logits(theirs) - logits(adapters.load(made).base.model)).abs().max() <= 1e-5


def test_exports_never_mix_with_what_is_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in (tmp_path / "full", tmp_path / "full" / "note"):
        with pytest.raises(ConfigError, match="is not an empty folder") as caught:
            adapters.export(made, "peft", taken)
        one_line(caught)
    assert (tmp_path / "full" / "note").read_text() == "mine"
    adapters.export(made, "peft", tmp_path / "empty")
    with pytest.raises(ConfigError, match="did you mean 'merged'"):
        adapters.export(made, "merge", tmp_path / "new")


@pytest.mark.parametrize("to", adapters.EXPORTS)
def test_what_does_not_load_is_not_handed_over(to: str, copied: Path, tmp_path: Path) -> None:
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no readable adapter_model\.safetensors") as caught:
        adapters.export(copied, to, tmp_path / "out")
    one_line(caught)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_an_adapter_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no adapter made by isolora here") as caught:
            adapters.load(folder)
        one_line(caught)


def test_one_of_several_adapters_has_to_be_named(made: Path, tmp_path: Path) -> None:
    for name in ("b", "a"):
        shutil.copytree(made / "adapter", tmp_path / "adapters" / name)
    with pytest.raises(DataError, match=r"holds 2 adapters; name one of them, for example .*adapters/a$"):
        adapters.load(tmp_path)
    assert adapters.load(tmp_path / "adapters" / "b").folder.name == "b"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"config": 3}', '{"config": {"modle": "x"}}', "\xff"])
def test_a_broken_record_is_one_line(text: str, copied: Path) -> None:
    (copied / adapters.RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"isolora\.json: ") as caught:
        adapters.load(copied)
    one_line(caught)


def test_names_in_the_record_lead_nowhere_else(copied: Path, tmp_path: Path) -> None:
    """What is copied, read or written lies in the adapter's folder, whatever `files` and `run` say."""
    (tmp_path / "secret").write_text("secret")
    spoil(copied, run="../../escaped", files={"../secret": "0", "/etc/passwd": "0"})
    place = adapters.export(copied, "peft", tmp_path / "deep" / "peft")
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "deep", "secret"]


def test_a_record_cannot_ask_for_remote_code(tmp_path):
    config = {"model": "nano-55k", "training": {"tokens": 1000}, "trust_remote_code": True}
    (tmp_path / "isolora.json").write_text(json.dumps({"config": config}))
    assert adapters.read_record(tmp_path)[0].trust_remote_code is False
