"""Forgetting: measured against the bare base, at every point, and fought by mixing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora import models
from isolora.config import DataConfig, ForgettingConfig, MixConfig, RunConfig, TaskConfig, content_hash
from isolora.errors import ConfigError, DataError
from isolora.evaluation.held_out import forget
from isolora.runs.document_loader import RunDocuments
from isolora.store import Store
from isolora.training import train

torch.set_num_threads(1)


def a_run(folder: Path, mix: float | None = None, **changes: Any) -> RunConfig:
    """A run on learnable texts that also measures texts of one other, unlearnable kind."""
    config = tiny.from_files(folder, **changes)
    rng = np.random.default_rng(3)
    rows = [" ".join(f"w{entry}" for entry in rng.integers(2, 30, 9)) for _ in range(200)]
    (folder / "other.txt").write_text("\n\n".join(rows))
    other = str(folder / "other.txt")
    parts = (MixConfig(source=other, share=mix),) if mix else ()
    data = config.data.model_copy(update={"mix": parts})
    return config.model_copy(update={"data": data, "forgetting": ForgettingConfig(sources=(other,), examples=20)})


def test_every_point_says_what_is_forgotten(tmp_path: Path) -> None:
    config = a_run(tmp_path, steps=60, evaluate_from=300)
    ended = train(config, tmp_path / "out", quiet=True)
    points = Store(tmp_path / "out").points()
    assert len(points) > 2
    lost = [point["forgetting"] for point in points]
    [source] = config.forgetting.sources
    assert lost == [json.loads(point["metrics"])[f"forgotten.{source}"] for point in points]
    again = forget(ended["adapter"])
    assert again["forgetting"] == pytest.approx(lost[-1], rel=1e-5)
    assert again["sources"][source]["after"] - again["sources"][source]["before"] == pytest.approx(lost[-1], rel=1e-5)


def test_nothing_learnt_is_nothing_forgotten(tmp_path: Path) -> None:
    train(a_run(tmp_path, steps=2, learning_rate=1e-30), tmp_path / "out", quiet=True)
    assert Store(tmp_path / "out").points()[-1]["forgetting"] == pytest.approx(0, abs=1e-6)


def test_mixing_forgets_less(tmp_path: Path) -> None:
    lost = {}
    for name, mix in (("alone", None), ("mixed", 0.5)):
        train(a_run(tmp_path, mix, steps=120), tmp_path / name, quiet=True)
        lost[name] = Store(tmp_path / name).points()[-1]["forgetting"]
    assert lost["mixed"] < lost["alone"]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_shares_are_of_the_examples(share: float, tmp_path: Path) -> None:
    config = a_run(tmp_path, share)
    alone = len(tiny.prepared(a_run(tmp_path)).train)
    mixed = tiny.prepared(config)
    assert (len(mixed.train) - alone) / len(mixed.train) == pytest.approx(share, abs=0.01)
    assert len(mixed.held_out.examples) == 5, "only the main source is measured"
    assert tiny.identity(config) != tiny.identity(a_run(tmp_path))


def test_what_is_measured_is_never_trained_on(tmp_path: Path) -> None:
    config = a_run(tmp_path, 0.5)
    [documents] = [source.train for source in RunDocuments.load(config).mixed.values()]
    [others] = tiny.prepared(config).other_texts.values()
    trained = {tuple(text.split()) for text in documents.texts}
    held_out = {tuple(f"w{entry}" for entry in others.subset(np.array([i])).ids) for i in range(len(others))}
    assert held_out
    assert not trained & held_out


def test_a_source_that_is_too_small_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.train_examples: \d+ asked for"):
        tiny.prepared(a_run(tmp_path, 0.9))


def test_shares_leave_something_to_the_source() -> None:
    with pytest.raises(ValueError, match="the shares must leave some"):
        DataConfig(mix=(MixConfig(source="a", share=0.6), MixConfig(source="b", share=0.4)))


def test_a_model_without_a_language_head_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"w{i % 7 + 2} w{i % 5 + 9}", "label": "ab"[i % 2]} for i in range(40)]
    config = tiny.from_rows(tmp_path, "llama", "sequence-classification", rows)
    with pytest.raises(ConfigError, match="forgetting: measured by a decoder's loss on texts"):
        tiny.prepared(config.model_copy(update={"forgetting": ForgettingConfig()}))
    assert config.task == TaskConfig(name="sequence-classification")


@pytest.mark.parametrize("mix", [None, 0.2])
def test_texts_that_are_only_measured_are_part_of_a_runs_name(mix: float | None, tmp_path: Path) -> None:
    """An edited file of `forgetting.sources`, or of a mixed source's held-out rows, gave the figures of before again."""
    config = a_run(tmp_path, mix)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    rows = [{"text": text} for text in (tmp_path / "other.txt").read_text().split("\n\n")]
    for split in ("train", "validation"):
        tiny.json_lines(mixed / f"{split}.jsonl", rows)
    parts = tuple(part.model_copy(update={"source": str(mixed)}) for part in config.data.mix)
    config = config.model_copy(update={"data": config.data.model_copy(update={"mix": parts})})
    names = [tiny.identity(config)]
    changed = [tmp_path / "other.txt", *([mixed / "validation.jsonl"] if mix else [])]
    for file in changed:
        file.write_text(file.read_text().replace("w", "v"))
        names.append(tiny.identity(config))
    assert len(set(names)) == 1 + len(changed)


def test_packaged_texts_leave_a_runs_name_as_it_was(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path).model_copy(update={"forgetting": ForgettingConfig()})
    splits = RunDocuments.load(config).splits
    parts = [part.fingerprint for part in (splits.train, splits.validation, splits.test)]
    assert tiny.identity(config) == content_hash([config.identity(), models.fingerprint(config.model), parts])


def test_rows_of_other_texts_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`data.on_error=skip` was not heard for `forgetting.sources`, and fewer texts than asked for were not said."""
    config, other = a_run(tmp_path, steps=1), tmp_path / "other.jsonl"
    rows = [json.dumps({"text": f"w{2 + n % 20} w3 w{2 + n % 7} w4"}) for n in range(100)]
    other.write_text("\n".join([*rows, '{"text": 5', '{"text": null}']) + "\n")
    config = config.model_copy(update={"forgetting": ForgettingConfig(sources=(str(other),), examples=20)})
    with pytest.raises(DataError, match=r"other\.jsonl line 101: not JSON"):
        train(config, tmp_path / "stopped", quiet=True)
    config = config.model_copy(update={"data": config.data.model_copy(update={"on_error": "skip"})})
    ended = train(config, tmp_path / "out")
    said = capsys.readouterr().err
    assert ended["rows_left_out"] == 2
    assert "2 rows of the data left out" in said
    assert f"forgetting.examples: 20 asked for, {other} has 10 held-out texts; all of them are used" in said
    again = forget(ended["adapter"])
    assert (again["rows_left_out"], again["sources"][str(other)]["texts"]) == (2, 10)
