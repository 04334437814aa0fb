"""Streaming: one pass, only the rows drawn are held, and what is drawn depends on neither the order nor the form of the files."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from isolora import data, registry
from isolora.config import DataConfig, RunConfig, parse
from isolora.data import streams
from isolora.data.reservoirs import Reservoir, draw_streams
from isolora.errors import ConfigError, DataError
from isolora.training import train

torch.set_num_threads(1)
COUNT = 6000
ROWS = [{"text": f"row {number} of many", "size": number} for number in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows in three forms, and shuffled over two files."""
    made = tmp_path_factory.mktemp("rows")
    tiny.json_lines(made / "a.jsonl", ROWS)
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, made / "a.parquet", row_group_size=1000)
    pc_csv.write_csv(table, made / "a.csv")
    shuffled = random.Random(0).sample(ROWS, COUNT)
    tiny.json_lines(made / "part-1.jsonl", shuffled[:100])
    tiny.json_lines(made / "part-2.jsonl", shuffled[100:])
    return made


def load(source: object, count: int = 50, **fields: Any) -> data.Splits:
    return data.load_documents(
        DataConfig(source=str(source), streaming=True, train_examples=count, **{"eval_examples": 20, **fields})
    )


def test_every_form_and_order_gives_the_same_rows(folder: Path) -> None:
    drawn = [load(folder / name) for name in ("a.jsonl", "a.parquet", "a.csv", "part-*.jsonl")]
    for split in ("train", "validation", "test"):
        assert len({getattr(splits, split).fingerprint for splits in drawn}) == 1
    assert [len(drawn[0].train), len(drawn[0].validation), len(drawn[0].test)] == [50, 20, 20]
    assert drawn[1].train.fields["size"] == drawn[3].train.fields["size"]


def test_smaller_draws_are_prefixes_of_larger_ones(folder: Path) -> None:
    small, large = load(folder / "a.jsonl", 30), load(folder / "a.jsonl", 3000)
    assert large.train.texts[:30] == small.train.texts
    assert len(set(large.train.texts)) == 3000
    other = load(folder / "a.jsonl", 30, seed=1)
    assert len(set(other.train.texts) & set(small.train.texts)) < 5


def test_held_out_rows_are_a_tenth_each_and_never_trained_on(folder: Path) -> None:
    """Of every seed: nothing that one seed trains on is held out by another."""
    one, other = (load(folder / "a.jsonl", 4500, eval_examples=COUNT, seed=seed) for seed in (0, 1))
    assert 500 < len(one.validation) < 700
    assert 500 < len(one.test) < 700
    assert sorted(one.validation.texts) == sorted(other.validation.texts)
    sides = [set(one.train.texts) | set(other.train.texts), set(one.validation.texts), set(one.test.texts)]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_nearly_the_held_out_rows_of_the_same_source_in_memory(folder: Path) -> None:
    """The sides are cut by the same hashes, only at a fixed height in place of an exact tenth."""
    whole = data.load_documents(DataConfig(source=str(folder / "a.jsonl"), eval_examples=COUNT)).test
    streamed = load(folder / "a.jsonl", eval_examples=COUNT).test
    assert len(set(whole.texts) & set(streamed.texts)) > 0.85 * len(whole)


def test_draws_are_fair(folder: Path) -> None:
    """The mean of 1000 numbers drawn of 0 to 5999 lies within four standard errors (52) of 3000."""
    drawn = load(folder / "a.parquet", 1000).train.fields["size"]
    assert abs(sum(drawn) / 1000 - 2999.5) < 4 * 52


def test_equal_rows_are_drawn_as_often_as_they_occur() -> None:
    held = Reservoir(5)
    for key in (7, 3, 3, 9, 3, 1, 8):
        held.add(key, {"n": key})
    assert held.table(pa.schema([("n", pa.int64())]))["n"].to_pylist() == [1, 3, 3, 3, 7]
    assert held.seen == 7


def peak_bytes(count: int) -> int:
    """Largest memory while 100 rows are drawn of so many, each of 1 kB and made when it is asked for."""

    def blocks() -> Iterator[pa.Table]:
        for start in range(0, count, 1000):
            yield pa.table({"text": [f"{number:01000}" for number in range(start, start + 1000)]})

    tracemalloc.start()
    drawn = draw_streams({"train": blocks()}, {"train": 100, "validation": 50, "test": 50}, 0, ())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [drawn[split].num_rows for split in ("train", "validation", "test")] == [100, 50, 50]
    return peak


def test_memory_does_not_grow_with_the_source() -> None:
    """30,000 rows of 1 kB are 30 MB; a block of 1000 and what is drawn are held."""
    small, large = peak_bytes(3_000), peak_bytes(30_000)
    assert large < 1.2 * small
    assert large < 8e6


def test_files_are_read_a_block_at_a_time(folder: Path) -> None:
    """After the first block, Arrow holds little of a file of several."""
    for name in ("a.jsonl", "a.parquet", "part-*.jsonl"):
        opened = streams.open_source(str(folder / name), data.LeftOut(skip=False))
        assert next(iter(opened.parts["train"])).num_rows <= streams.BLOCK_ROWS < COUNT
    before = pa.total_allocated_bytes()
    largest = max(pa.total_allocated_bytes() - before for _ in streams.blocks(folder / "a.jsonl", data.LeftOut(skip=False)))
    assert largest < 0.6 * pq.read_table(folder / "a.parquet").nbytes


def test_more_than_there_is(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.train_examples: 5000 asked for, .*a\.jsonl has 48\d\d$"):
        load(folder / "a.jsonl", 5000)


@pytest.mark.parametrize("given", [{}, {"train_examples": "medium"}])
def test_needs_a_number(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^data\.train_examples: with streaming, a whole number says how many are held \(got"):
        parse(RunConfig, {"data": {"streaming": True, **given}})


def test_rows_keep_their_origins(folder: Path, tmp_path: Path) -> None:
    train = load(folder / "a.parquet").train
    assert [train.origin(place) for place in range(3)] == [
        f"{folder}/a.parquet row {size + 1}" for size in train.fields["size"][:3]
    ]
    path = tiny.json_lines(tmp_path / "a.jsonl", [*ROWS[:3000], {"text": " ", "size": 1}, '{"text": "w5'])
    with pytest.raises(DataError, match=rf"^data: {path} line 300[12]: "):
        load(path)
    left_out = load(path, on_error="skip").train.left_out
    assert [row.partition(": ")[0] for row in left_out] == [f"{path} line 3002", f"{path} line 3001"]


def test_columns_that_come_late_or_change(tmp_path: Path) -> None:
    late = [*ROWS[:3000], *({**row, "note": "late"} for row in ROWS[3000:])]
    assert set(load(tiny.json_lines(tmp_path / "late.jsonl", late), 2000).train.fields["note"]) == {None, "late"}
    changing = tiny.json_lines(tmp_path / "changing.jsonl", [*ROWS[:4096], {"text": "a", "size": "large"}, *ROWS[4096:]])
    with pytest.raises(DataError, match=r"changing\.jsonl line 4097: size holds str, rows before it int$"):
        load(changing)
    assert len(load(changing, on_error="skip").train.left_out) == 1
    pq.write_table(pa.table({"text": ["a"], "size": ["large"]}), tmp_path / "b.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[:50]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: columns unlike those before"):
        load(tmp_path / "*.parquet")


def test_splits_of_a_folder_and_the_columns_of_a_task() -> None:
    task = registry.load_plug_in("task", "sequence-classification")
    config = DataConfig(source="debian-descriptions", streaming=True, train_examples=300, eval_examples=100)
    streamed, whole = data.load_documents(config, task), data.load_documents(DataConfig(eval_examples=100_000), task)
    assert set(streamed.train.fields["package"]) < set(whole.train.fields["package"])
    assert set(streamed.test.fields["package"]) < set(whole.test.fields["package"])
    assert task.find_labels(streamed.train)


def test_hub_data_by_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    labels = datasets.ClassLabel(names=["no", "yes"])

    def load_dataset(*names: object, **options: object) -> datasets.IterableDatasetDict:
        asked.append((names, options))
        features = datasets.Features({"text": datasets.Value("string"), "label": labels})
        rows = {"text": [f"w{number}" for number in range(5000)], "label": [0, 1] * 2500}
        made = datasets.Dataset.from_dict(rows, features).to_iterable_dataset()
        return datasets.IterableDatasetDict({"train": made, "unsupervised": made})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = registry.load_plug_in("task", "sequence-classification")
    config = DataConfig(source="nobody/yes-and-no", streaming=True, train_examples=40, eval_examples=10)
    splits = data.load_documents(config, task)
    assert asked == [(("nobody/yes-and-no", None), {"streaming": True})]
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [40, 10, 10]
    assert task.find_labels(splits.train) == ["no", "yes"]
    assert splits.train.origin(0) == f"nobody/yes-and-no train row {int(splits.train.fields['text'][0][1:]) + 1}"


def test_a_run_on_a_stream(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, steps=2)
    source = tiny.json_lines(tmp_path / "a.jsonl", [{"text": tiny.words(5 + seed % 8, seed)} for seed in range(80)])
    streamed = DataConfig(source=source, streaming=True, train_examples=20, eval_examples=5)
    result = train(config.model_copy(update={"data": streamed}), tmp_path / "out", quiet=True)
    assert (result["state"], result["passes"] > 0) == ("complete", True)
