"""An adapter handed over: what others load, what is refused, and what they are told."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from life import logits
from person import one_line
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_merging import TIED
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as told

from isolora import adapters
from isolora.adapters import plain, round_trip
from isolora.adapters.export import EXPORTS
from isolora.config import MethodConfig, RunConfig, parse
from isolora.errors import ConfigError, DataError
from isolora.evaluation import evaluate
from isolora.store import Store
from isolora.training import train, train_stack
from isolora.training.checkpoint_export import export
from isolora.training.progress_bar import ProgressBar

torch.set_num_threads(1)
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
WORKING = {"selective": {"train": "norms"}}  # the tiny LLaMA has no biases
PEFT_FOLDER = ["README.md", "adapter_config.json", "adapter_model.safetensors", "isolora.json"]


def spoil(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / adapters.RECORD).read_text())
    (folder / adapters.RECORD).write_text(json.dumps({**record, **changes}))


def cut_off(configs: Sequence[RunConfig], folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that is killed after some steps."""
    done: list[int] = []

    def update(self: ProgressBar, *_: Any) -> None:
        done.append(1)
        if len(done) == steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ProgressBar, "update", update)
        with pytest.raises(KeyboardInterrupt):
            train_stack(configs, Store(folder), "train", quiet=True)


def front_matter(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_merged_export_is_a_plain_model(made: Path, tmp_path: Path) -> None:
    place = export(made, "merged", tmp_path / "merged").folder
    plain = AutoModelForCausalLM.from_pretrained(place)
    difference = (logits(plain) - logits(adapters.load(made).base.model)).abs().max()
    assert difference <= 1e-5
    assert not [name for name in plain.state_dict() if "lora" in name]
    assert AutoTokenizer.from_pretrained(place)("w5 nonsense")["input_ids"] == [5, 1]


@pytest.mark.parametrize("to", ["merged", "peft"])
def test_transformers_speaks_afterwards_as_before(to: str, made: Path, tmp_path: Path) -> None:
    """Who exports from a notebook wants the warnings of what comes next."""
    level, bar = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity_info()
    told.enable_progress_bar()
    try:
        export(made, to, tmp_path / to)
        assert (told.get_verbosity(), told.is_progress_bar_enabled()) == (told.INFO, True)
    finally:
        told.set_verbosity(level)
        if not bar:
            told.disable_progress_bar()


def test_peft_export_loads_in_peft(made: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    place = export(made, "peft", tmp_path / "peft").folder
    assert sorted(path.name for path in place.iterdir()) == PEFT_FOLDER
    theirs = PeftModel.from_pretrained(adapters.bare_base(made / "adapter").model, str(place))
    assert (logits(theirs) - logits(adapters.load(made).base.model)).abs().max() <= 1e-5


def test_exports_never_mix_with_what_is_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "empty").mkdir()
    for taken in (tmp_path / "full", tmp_path / "full" / "note"):
        with pytest.raises(ConfigError, match="is not an empty folder") as caught:
            export(made, "peft", taken)
        one_line(caught)
    assert (tmp_path / "full" / "note").read_text() == "mine"
    export(made, "peft", tmp_path / "empty")
    with pytest.raises(ConfigError, match="did you mean 'merged'"):
        export(made, "merge", tmp_path / "new")


@pytest.mark.parametrize("to", EXPORTS)
def test_what_does_not_load_is_not_handed_over(to: str, copied: Path, tmp_path: Path) -> None:
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no readable adapter_model\.safetensors") as caught:
        export(copied, to, tmp_path / "out")
    one_line(caught)
    assert not (tmp_path / "out").exists()


def test_names_in_the_record_lead_nowhere_else(copied: Path, tmp_path: Path) -> None:
    """What is copied, read or written lies in the adapter's folder, whatever `files` and `run` say."""
    (tmp_path / "secret").write_text("secret")
    spoil(copied, run="../../escaped", files={"../secret": "0", "/etc/passwd": "0"})
    place = export(copied, "peft", tmp_path / "deep" / "peft").folder
    assert sorted(path.name for path in place.iterdir()) == PEFT_FOLDER
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "deep", "secret"]


@pytest.mark.parametrize("changes", [{"metrics": 3}, {"verification": {"predicted": 1}}, {"origins": "hub"}, {"labels": 7}])
def test_a_record_that_makes_no_card_is_one_line(changes: dict[str, Any], copied: Path, tmp_path: Path) -> None:
    spoil(copied, **changes)
    with pytest.raises(DataError, match=r"isolora\.json: ") as caught:
        export(copied, "merged", tmp_path / "merged")
    one_line(caught)
    assert not (tmp_path / "merged").exists()


def test_every_export_has_a_card_of_its_own_kind(made: Path, tmp_path: Path) -> None:
    found = {to: front_matter(export(made, to, tmp_path / to).folder)["library_name"] for to in EXPORTS}
    assert found == {"merged": "transformers", "peft": "peft"}


@pytest.mark.parametrize(
    ("method", "to", "expected"),
    [
        ("bottleneck", "merged", "share the adapter's own folder"),
        ("bottleneck", "peft", "share the adapter's own folder"),
        ("selective", "peft", "use --to merged"),
    ],
)
def test_what_a_method_cannot_do_is_one_line_with_the_way_that_works(method: str, to: str, expected: str, tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=2).model_copy(
        update={"method": MethodConfig(name=method, **WORKING.get(method, {}))}
    )
    train(config, tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match=expected) as caught:
        export(tmp_path / "out", to, tmp_path / "exported")
    assert f"method {method}" in one_line(caught)
    assert not (tmp_path / "exported").exists()


def test_tensors_that_peft_does_not_read_are_not_handed_to_it(copied: Path, tmp_path: Path) -> None:
    shutil.copy(copied / "adapter_model.safetensors", copied / "adapter_new_tokens.safetensors")
    with pytest.raises(ConfigError, match=r"PEFT's format has no place for adapter_new_tokens\.safetensors; use --to merged"):
        export(copied, "peft", tmp_path / "peft")


def test_a_packaged_base_is_said_to_need_its_folder(tmp_path: Path) -> None:
    from peft import PeftModel

    from isolora.models import locate

    config = parse(RunConfig, {"model": "nano-55k", "data": {"train_examples": 20, "eval_examples": 2}, "training": {"steps": 2}})
    train(config, tmp_path / "out", quiet=True)
    done = export(tmp_path / "out", "peft", tmp_path / "peft")
    assert done.warnings == (
        "PEFT cannot find the base nano-55k by its name: give it the folder isolora.models.locate('nano-55k')",
    )
    card = (done.folder / "README.md").read_text()
    assert 'base = AutoModelForCausalLM.from_pretrained(locate("nano-55k"))' in card
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(locate("nano-55k"), dtype="float32"), done.folder)
    assert (logits(theirs) - logits(adapters.load(tmp_path / "out").base.model)).abs().max() <= 1e-5


def test_a_checkpoint_is_handed_over_with_the_loss_of_its_averaged_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is cut off after its second evaluation; its point of that step is the measure."""
    config = tiny.from_files(tmp_path, steps=40, learning_rate=5e-2, evaluate_ratio=1.5)
    cut_off([config], tmp_path / "out", 12, monkeypatch)
    points = {point["step"]: point["loss"] for point in Store(tmp_path / "out").points()}
    step = max(points)
    done = export(tmp_path / "out", "peft", tmp_path / "peft", checkpoint=step)
    _, record = adapters.read_record(done.folder)
    assert (record["step"], record["loss"]) == (step, pytest.approx(points[step], abs=1e-12))
    assert evaluate(done.folder)["loss"] == pytest.approx(points[step], abs=1e-6)
    with pytest.raises(DataError, match=rf"no checkpoint of step 3 \(it has those of steps \d+, {step}\)") as caught:
        export(tmp_path / "out", "peft", tmp_path / "other", checkpoint=3)
    one_line(caught)


def test_a_checkpoint_of_several_runs_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny.from_files(tmp_path, steps=40, learning_rate=5e-2)
    second = first.model_copy(update={"seed": 1})
    cut_off([first, second], tmp_path / "out", 12, monkeypatch)
    step = max(point["step"] for point in Store(tmp_path / "out").points())
    names = [row["run"] for row in Store(tmp_path / "out").runs()]
    with pytest.raises(DataError, match="--run: the checkpoint holds 2 runs; name one of") as caught:
        export(tmp_path / "out", "merged", tmp_path / "merged", checkpoint=step)
    assert all(name in one_line(caught) for name in names)
    done = export(tmp_path / "out", "peft", tmp_path / "peft", checkpoint=step, run=names[1])
    config, record = adapters.read_record(done.folder)
    assert (record["run"], config.seed) == (names[1], 1)
    assert record["loss"] == Store(tmp_path / "out").points(names[1])[-1]["loss"]


def test_kept_checkpoints_of_a_finished_run_are_handed_over(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=12, evaluate_from=60, keep_checkpoints=True)
    ended = train(config, tmp_path / "out", quiet=True)
    steps = sorted(int(place.name.removeprefix("step-")) for place in (tmp_path / "out").glob("checkpoints/*/step-*"))
    assert len(steps) > 2
    assert steps[-1] == 12
    points = {point["step"]: point["loss"] for point in Store(tmp_path / "out").points()}
    for step in (steps[0], 12):
        export(tmp_path / "out", "peft", tmp_path / f"peft-{step}", checkpoint=step)
        assert f"{points[step]:.4f}" in (tmp_path / f"peft-{step}" / "README.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in Path(ended["adapter"]).iterdir()}
    assert train(config, tmp_path / "out", quiet=True)["loss"] == ended["loss"], "asked for again, nothing is done again"
    assert {path: path.stat().st_mtime_ns for path in Path(ended["adapter"]).iterdir()} == before


@pytest.mark.parametrize(("scale", "allowed"), [(1.0, 1.1e-4), (30.0, 4e-4)])
def test_rounding_grows_with_the_logits(scale: float, allowed: float) -> None:
    """Right merges of bases with large logits were refused: 1.6e-4 apart at logits of 21, where 1e-4 was allowed."""
    assert round_trip.tolerance(scale * torch.tensor([-1.0, 0.5])) == pytest.approx(allowed)


@pytest.mark.parametrize(("kind", "method"), [("llama", "lora"), ("gpt2", "lora"), ("llama", "adalora")])
def test_a_tied_head_that_was_adapted_is_exported_as_it_was_trained(kind: str, method: str, tmp_path: Path) -> None:
    """Logits of the written folder differed by 5.9 where the adapter itself moves them by 2.3."""
    tiny.save(tmp_path / "model", TIED[kind]())
    config = tiny.from_files(tmp_path / "other", steps=12, learning_rate=5e-2)
    config = config.model_copy(
        update={"model": str(tmp_path / "model"), "method": MethodConfig(name=method, targets=["lm_head"])}
    )
    train(config, tmp_path / "out", quiet=True)
    place = export(tmp_path / "out", "merged", tmp_path / "merged").folder
    plain = AutoModelForCausalLM.from_pretrained(place)
    assert (logits(plain) - logits(adapters.load(tmp_path / "out").base.model)).abs().max() <= 1e-5
    assert plain.config.tie_word_embeddings is False


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("said", [True, False], ids=["in config.json", "in the weights alone"])
def test_a_merged_export_keeps_the_precision_of_its_base(precision: torch.dtype, said: bool, tmp_path: Path) -> None:
    """It was written in float32, twice the size, without a word."""
    config = tiny.from_files(tmp_path, steps=12, learning_rate=1e-2)
    base = tmp_path / "model"
    tiny.llama().to(precision).save_pretrained(base)
    if not said:
        described = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({key: value for key, value in described.items() if key != "dtype"}))
    train(config, tmp_path / "out", quiet=True)
    done = export(tmp_path / "out", "merged", tmp_path / "merged")
    sizes = [(place / "model.safetensors").stat().st_size for place in (base, done.folder)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    written = AutoModelForCausalLM.from_pretrained(done.folder)
    assert written.dtype == precision
    (warning,) = done.warnings
    assert warning.startswith(
        f"merged in float32, written in {str(precision)[6:]} like the base: rounding moves logits by at most"
    )
    lost = (logits(written.float()) - logits(adapters.load(tmp_path / "out").base.model)).abs().max()
    assert 0 < lost < 0.1


def test_rounding_that_would_overflow_is_refused(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=2)
    tiny.llama().to(torch.float16).save_pretrained(tmp_path / "model")
    train(config, tmp_path / "out", quiet=True)
    path = tmp_path / "out" / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 1e3 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(DataError, match=r"weight is not finite in float16; it is not exported") as caught:
        export(tmp_path / "out", "merged", tmp_path / "merged")
    one_line(caught)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("to", EXPORTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_exported(value: float, to: str, copied: Path, tmp_path: Path) -> None:
    path = copied / "adapter_model.safetensors"
    tensors = load_file(path)
    next(tensor for name, tensor in tensors.items() if "lora_B" in name).view(-1)[0] = value
    save_file(tensors, path)
    with pytest.raises(DataError, match="not finite") as caught:
        export(copied, to, tmp_path / "new" / "deep" / "out")
    one_line(caught)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["adapter"], "nor are folders on the way to it"


@pytest.mark.parametrize("to", EXPORTS)
def test_what_computes_something_else_is_not_kept(to: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason; here the tokens are scored with another weight after writing."""
    own = plain.loaded

    def other(*given: Any, **options: Any) -> Any:
        model = own(*given, **options)
        next(weight for name, weight in model.named_parameters() if "norm" in name).data.mul_(1.01)
        return model

    monkeypatch.setattr(plain, "loaded", other)
    with pytest.raises(DataError, match=r"computes something else \(logits differ by .*\); nothing was written") as caught:
        export(copied, to, tmp_path / "out")
    one_line(caught)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    failure: Exception, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(ConfigError, match=r"--out: .* cannot be written \(.*No space left") as caught:
        export(copied, "merged", tmp_path / "out")
    one_line(caught)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize("out", ["note/below", "x" * 300, "link/below", "nul\0l"])
def test_a_place_that_cannot_be_written_is_one_line(out: str, made: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "note")
    with pytest.raises(ConfigError, match=r"^--out: ") as caught:
        export(made, "peft", tmp_path / out)
    one_line(caught)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["link", "note"]


def test_a_link_as_the_place_is_followed_by_choice_and_kept(made: Path, tmp_path: Path) -> None:
    """The person's own link to another disk, say."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    export(made, "peft", tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == PEFT_FOLDER
