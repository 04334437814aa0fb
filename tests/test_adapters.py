"""An adapter loaded from its folder and made to write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from life import logits
from person import one_line

from isolora import adapters
from isolora.adapters import record as records
from isolora.adapters.generation import Sampling
from isolora.config import MethodConfig
from isolora.errors import ConfigError, DataError
from isolora.store import Store
from isolora.training import train

torch.set_num_threads(1)
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
PROMPT = "w5 w13 w37"


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


@pytest.mark.parametrize("name", ["prefix", "prompt", "llama-adapter", "bottleneck"])
def test_every_method_writes_what_it_holds_likeliest(name: str, tmp_path: Path) -> None:
    """With keys and values kept between steps the same as without; virtual tokens take their share of the 64 positions."""
    config = tiny.from_files(tmp_path, steps=6, learning_rate=5e-2).model_copy(update={"method": MethodConfig(name=name)})
    train(config, tmp_path / "out", quiet=True)
    adapter = adapters.load(tmp_path / "out")
    ids = adapter.base.tokenizer(PROMPT, return_tensors="pt").input_ids
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, adapter.attached.model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert adapter.generate(PROMPT, 5) == adapter.base.tokenizer.decode(ids[0, 3:], skip_special_tokens=True)
    assert adapter.writer.positions == (44 if name in ("prefix", "prompt") else 64)


def test_an_encoder_decoder_answers_what_its_encoder_has_read(tmp_path: Path) -> None:
    rows = [{"document": tiny.words(9, seed), "summary": tiny.words(3, seed)} for seed in range(40)]
    config = tiny.from_rows(tmp_path, "bart", "summarization", rows, steps=6, learning_rate=5e-2)
    train(config, tmp_path / "out", quiet=True)
    adapter = adapters.load(tmp_path / "out")
    source = torch.tensor([adapter.task.prompt_ids("w5 w13 w37", adapter.base.tokenizer, 64)])
    target = torch.tensor([[adapter.base.model.config.decoder_start_token_id]])
    for _ in range(5):
        with torch.no_grad():
            scores = adapter.base.model(input_ids=source, decoder_input_ids=target).logits
        target = torch.cat([target, scores[:, -1:].argmax(-1)], 1)
    assert adapter.generate("w5 w13 w37", 5) == adapter.base.tokenizer.decode(target[0, 1:], skip_special_tokens=True)
    assert len(adapter.writer.ids([[5] * 64], Sampling(80))[0]) == 63, "the prompt takes none of the answer's positions"


def test_a_model_that_writes_nothing_says_so(tmp_path: Path) -> None:
    rows = [{"text": tiny.words(6, seed), "label": f"c{seed % 2}"} for seed in range(40)]
    config = tiny.from_rows(tmp_path, "bert", "sequence-classification", rows, steps=2)
    train(config, tmp_path / "out", quiet=True)
    with pytest.raises(
        ConfigError, match="generate: BertForSequenceClassification scores texts and writes none; isolora classify"
    ):
        adapters.load(tmp_path / "out").generate("w5")


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


def test_a_folder_without_an_adapter_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="no adapter made by isolora here") as caught:
            adapters.load(folder)
        one_line(caught)


def several(made: Path, folder: Path, losses: dict[str, object], **changes: object) -> None:
    """Copies of an adapter whose records say other losses; `changes` are made to the data of the last one."""
    for name, loss in losses.items():
        place = folder / "adapters" / name
        shutil.copytree(made / "adapter", place)
        facts = json.loads((place / adapters.RECORD).read_text())
        facts["config"]["data"] |= changes if name == list(losses)[-1] else {}
        (place / adapters.RECORD).write_text(json.dumps(facts | {"loss": loss}))


def test_of_several_adapters_the_best_is_taken_and_said(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several(made, tmp_path, {"b": 3.5, "a": 4.0, "broken": None})
    assert adapters.find_adapter(tmp_path) == tmp_path / "adapters" / "b"
    said = capsys.readouterr().err
    assert said.startswith(f"isolora: {tmp_path} holds 3 adapters; taken: ")
    assert said.endswith(f"loss 3.5000, {tmp_path}/adapters/b\n")
    assert adapters.load(tmp_path / "adapters" / "a").folder.name == "a"


@pytest.mark.parametrize(
    ("losses", "changes", "why"),
    [
        ({"b": 3.5, "a": 4.0}, {"eval_examples": 3}, "measured on different data"),
        ({"b": None, "a": True}, {}, "without a held-out loss"),
    ],
)
def test_adapters_that_cannot_be_compared_have_to_be_named(
    losses: dict[str, object], changes: dict[str, object], why: str, made: Path, tmp_path: Path
) -> None:
    several(made, tmp_path, losses, **changes)
    with pytest.raises(DataError, match=rf"holds 2 adapters {why}; name one of them, for example .*adapters/a$"):
        adapters.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"config": 3}', '{"config": {"modle": "x"}}', "\xff"])
def test_a_broken_record_is_one_line(text: str, copied: Path) -> None:
    (copied / adapters.RECORD).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"isolora\.json") as caught:
        adapters.load(copied)
    one_line(caught)


def test_the_record_tells_what_the_run_cost_and_reached(made: Path) -> None:
    """The store's last point is the measure; the digest covers every field."""
    _, record = adapters.read_record(made / "adapter")
    point = Store(made).points()[-1]
    names = ("tokens", "padding_tokens", "unique_tokens", "step", "flops", "loss", "passes", "trainable_parameters")
    assert {name: record[name] for name in names} == {name: point[name] for name in names}
    assert record["origins"] == {"model": "folder", "data": "folder"}
    assert record["digest"] == records.digest(record)
    for key in record.keys() - {"digest"}:
        assert records.digest({**record, key: "other"}) != record["digest"]


def test_what_is_found_out_later_joins_the_record_and_its_digest(copied: Path) -> None:
    before = (copied / "README.md").read_text()
    measured = adapters.read_record(copied)[1]["metrics"]
    records.amend(copied, metrics={**measured, "accuracy": 0.75})
    _, record = adapters.read_record(copied)
    assert record["metrics"] == {**measured, "accuracy": 0.75}
    assert record["digest"] == records.digest(record)
    assert (copied / "README.md").read_text().replace("| `accuracy` | 0.75 |\n", "") == before


def test_a_record_cannot_ask_for_remote_code(tmp_path):
    config = {"model": "nano-55k", "training": {"tokens": 1000}, "trust_remote_code": True}
    (tmp_path / "isolora.json").write_text(json.dumps({"config": config}))
    assert adapters.read_record(tmp_path)[0].trust_remote_code is False
