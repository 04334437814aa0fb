"""lm-evaluation-harness on live adapters against the model's own forward; LightEval by a command that stands in for it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from isolora import adapters
from isolora.cli import app
from isolora.errors import ConfigError, DataError, MissingExtra
from isolora.evaluation import harness, lighteval
from isolora.evaluation.harness import packaged_tasks
from isolora.training import train

START = 60  # the tokenizer's end of text, which the harness puts in front
TEXTS = [{"text": tiny.words(5 + seed, seed), "other": tiny.words(5 + seed, seed + 100)} for seed in range(6)]


def trained(folder: Path, **changes: Any) -> Path:
    rows = [{"text": tiny.words(5 + seed % 8, seed)} for seed in range(60)]
    config = tiny.from_rows(folder, "llama", "causal-lm", rows, steps=10, learning_rate=5e-2, **changes)
    train(config, folder / "out", quiet=True)
    return folder / "out"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"))


def include(folder: Path, **task: Any) -> Path:
    """A folder with one task, called mine, over TEXTS."""
    files = {"data_files": {"test": tiny.json_lines(folder / "texts.jsonl", TEXTS)}, "cache_dir": str(folder / "cache")}
    shared = {"task": "mine", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", "doc_to_text": ""}
    (folder / "mine.yaml").write_text(yaml.safe_dump(shared | task))
    return folder


@torch.no_grad()
def log_probability(adapter: adapters.Adapter, text: str) -> float:
    """Of all words behind START, in nats; virtual tokens come first and predict nothing."""
    ids = torch.tensor([START, *adapter.base.tokenizer(text).input_ids])
    with adapter.attached.rows([(0, 0, -1)]):
        logits = adapter.attached.model(input_ids=ids[None]).logits[0, -len(ids) :]
    return -float(cross_entropy(logits[:-1], ids[1:], reduction="sum"))


@pytest.mark.parametrize("method", [{}, {"targets": ["embed_tokens", "q_proj"]}, {"name": "prompt"}], ids=str)
def test_bits_per_byte_are_those_of_our_own_forward(tmp_path: Path, method: dict[str, Any]) -> None:
    """Also of a tied embedding with an adapter, and behind virtual tokens."""
    run = trained(tmp_path / "run", method=method)
    metrics = [{"metric": "bits_per_byte"}, {"metric": "byte_perplexity"}]
    place = include(tmp_path, output_type="loglikelihood_rolling", doc_to_target="{{text}}", metric_list=metrics)
    found = harness(run, ["mine"], place)["mine"]
    adapter = adapters.load(run)
    nats = -sum(log_probability(adapter, row["text"]) for row in TEXTS) / sum(len(row["text"].encode()) for row in TEXTS)
    assert found == pytest.approx({"bits_per_byte": nats / math.log(2), "byte_perplexity": math.exp(nats)}, rel=1e-4)


def test_choices_are_ranked_as_by_our_own_forward(run: Path, tmp_path: Path) -> None:
    choice = {
        "doc_to_choice": "{{[other, text]}}",
        "doc_to_target": 1,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    found = harness(run, ["mine"], include(tmp_path, output_type="multiple_choice", **choice))["mine"]
    adapter = adapters.load(run)
    right = [log_probability(adapter, row["text"]) > log_probability(adapter, row["other"]) for row in TEXTS]
    assert found["acc"] == sum(right) / len(TEXTS)
    assert 0 < found["acc_stderr"] < 0.3 or found["acc"] in (0, 1)


def test_packaged_tasks_find_their_data_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nano base writes English: it needs fewer bits for a byte than 3, and its cache is where ours is."""
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    config = ["model=nano-55k", "data.train_examples=20", "data.eval_examples=4", "training.steps=1"]
    done = CliRunner().invoke(app, ["train", *config, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert all(
        Path(file).is_file() for task in packaged_tasks().values() for file in task["dataset_kwargs"]["data_files"].values()
    )
    asked = ["eval", str(tmp_path / "run"), "--harness", ",".join(packaged_tasks()), "--limit", "8", "--json"]
    found = json.loads(CliRunner().invoke(app, asked).stdout)["harness"]
    assert found["debian-descriptions"]["bits_per_byte"] < 3
    assert found["debian-preferences"]["acc"] * 8 % 1 == 0
    assert (tmp_path / "cache" / "harness").is_dir()


def test_an_unknown_task_names_the_nearest_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among those of the harness itself too; reading its own thousands of files is left to the harness's tests."""
    from lm_eval import tasks

    class FewTasks:
        def __init__(self, include_path: Any = None, include_defaults: bool = True) -> None:
            self.all_tasks = ["hellaswag"] if include_defaults else []

    monkeypatch.setattr(tasks, "TaskManager", FewTasks)
    with pytest.raises(ConfigError, match=r"unknown task 'helaswag'; did you mean 'hellaswag'\?"):
        harness(run, ["helaswag"])
    with pytest.raises(
        ConfigError, match=r"unknown task 'debian-preference'; did you mean 'debian-preferences'\? \(valid: debian-"
    ):
        harness(run, ["debian-preference"])


def test_lost_data_are_one_line(run: Path, tmp_path: Path) -> None:
    place = include(tmp_path, output_type="loglikelihood_rolling", doc_to_target="{{text}}")
    (tmp_path / "texts.jsonl").unlink()
    with pytest.raises(DataError, match=r"--harness: the data of mine cannot be had \(FileNotFoundError") as raised:
        harness(run, ["mine"], place)
    assert "\n" not in str(raised.value)


def test_a_lost_folder_of_tasks_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--include: .*lost is not a folder"):
        harness(run, ["mine"], tmp_path / "lost")


def test_a_classifier_gives_no_text(tmp_path: Path) -> None:
    rows = [{"text": tiny.words(6, seed), "label": "ab"[seed % 2]} for seed in range(30)]
    config = tiny.from_rows(tmp_path, "bert_classifier", "sequence-classification", rows, steps=1)
    train(config, tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match="that of task sequence-classification has another head"):
        harness(tmp_path / "out", ["debian-preferences"])


def test_without_the_package_its_command_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MissingExtra, match=r"lm_eval is not installed; get it with: pip install 'isolora\[eval\]'"):
        harness(run, ["debian-preferences"])


STAND_IN = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
model, out = pathlib.Path(words[1].removeprefix("model_name=")), pathlib.Path(words[words.index("--output-dir") + 1])
{body}
"""
RESULTS = """
told = {"files": float(len({p.name for p in model.iterdir()} & {"config.json", "model.safetensors", "tokenizer.json"}))}
told |= {"samples": float(words[words.index("--max-samples") + 1])}
(out / "results" / "x").mkdir(parents=True)
(out / "results" / "x" / "results_1.json").write_text(json.dumps({"results": {words[2]: told, "all": told}}))
"""


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command for LightEval's, which this environment cannot have."""
    command = folder / "lighteval-command"
    command.write_text(STAND_IN.replace("{python}", sys.executable).replace("{body}", body))
    command.chmod(0o755)
    monkeypatch.setenv("ISOLORA_LIGHTEVAL", str(command))


def test_lighteval_is_given_the_merged_model_and_its_results_are_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, RESULTS, monkeypatch)
    assert lighteval(run, "community|mine|0", limit=7) == {"community|mine|0": {"files": 3, "samples": 7}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('first'); sys.exit('no network here')", "--lighteval: it ended with status 1: no network here"),
        ("sys.exit(3)", "--lighteval: it ended with status 3: no word"),
        ("", "--lighteval: it ended well and wrote no results"),
    ],
)
def test_lighteval_that_fails_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    stand_in(tmp_path, body, monkeypatch)
    with pytest.raises(DataError, match=words):
        lighteval(run, "mine")


def test_lighteval_that_is_not_there_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_LIGHTEVAL", "no-such-command")
    with pytest.raises(ConfigError, match="--lighteval: no command 'no-such-command'"):
        lighteval(run, "mine")
