"""Tables from every source come out with the same columns; what cannot be used is said in one line."""

from __future__ import annotations

import json
import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolora import table
from isolora.errors import TableError

ROWS = {"run": ["a", "a", "b"], "n": [100, 100, 200], "tokens": [10, 20, 10], "loss": [3.0, 2.5, 2.75]}


def write_csv(path, rows):
    lines = [",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]
    path.write_text("\n".join(lines), encoding="utf-8")


def write_jsonl(path, rows):
    lines = [json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")


WRITERS = {
    "t.csv": write_csv,
    "t.jsonl": write_jsonl,
    "t.parquet": lambda path, rows: pa.parquet.write_table(pa.table(rows), path),
}
BROKEN = {"t.txt": b"x", "t.csv": b"", "t.jsonl": b"{", "t.parquet": b"PAR1", "t.sqlite": b"no database at all"}


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_points_from_every_format(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    points = table.read(tmp_path / name)
    assert len(points) == 3
    assert list(points["run"]) == ["a", "a", "b"]
    np.testing.assert_array_equal(points["body_parameters"], [100, 100, 200])
    np.testing.assert_array_equal(points["loss"], [3.0, 2.5, 2.75])


def test_mapped_columns_win_over_their_names(tmp_path):
    write_csv(tmp_path / "t.csv", {**ROWS, "params": [1, 2, 3], "nats": [1.0, 1.5, 2.0]})
    points = table.read(tmp_path / "t.csv", {"n": "params", "loss": "nats"})
    np.testing.assert_array_equal(points["body_parameters"], [1, 2, 3])
    np.testing.assert_array_equal(points["loss"], [1.0, 1.5, 2.0])


def write_store(folder, states):
    with sqlite3.connect(folder / table.STORE_NAME) as connection:
        connection.execute("CREATE TABLE runs (run TEXT, state TEXT, model TEXT, rank INTEGER, learning_rate REAL)")
        connection.execute("CREATE TABLE points (run TEXT, tokens INTEGER, loss REAL)")
        connection.executemany("INSERT INTO runs VALUES (?, ?, 'nano', NULL, 0.01)", states.items())
        connection.executemany("INSERT INTO points VALUES (?, ?, ?)", [(run, t, 3.0) for run in states for t in (10, 20)])
    connection.close()


def test_a_store_joins_runs_and_leaves_out_the_diverged(tmp_path):
    write_store(tmp_path, {"a": "DONE", "b": "DIVERGED", "c": "RUNNING"})
    points = table.read(tmp_path)
    assert sorted(set(points["run"])) == ["a", "c"]
    assert set(points["model"]) == {"nano"}
    assert np.isnan(points["rank"]).all()


def test_rows_without_a_loss_are_left_out_and_runs_without_a_name_are_told_apart(tmp_path):
    write_csv(tmp_path / "t.csv", {"model": ["s", "s", "l"], "tokens": [1, 2, 1], "loss": [3.0, "nan", 2.0]})
    assert list(table.read(tmp_path / "t.csv")["run"]) == ["s", "l"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"n": [1], "nats": [2.0]}, "has no loss column; map one with --map loss=COLUMN"),
        ({"loss": ["high"]}, "column 'loss' must hold numbers; it holds 'high'"),
        ({"loss": [-1.0]}, "column 'loss' .* must be positive; its smallest value is -1"),
        ({"loss": ["nan"]}, "no point with a finite loss"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, rows, message):
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(TableError, match=message) as caught:
        table.read(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        table.read(tmp_path / "none.csv")
    with pytest.raises(TableError, match=r"is no study: it has no study.sqlite"):
        table.read(tmp_path)
    for name, content in {
        "t.txt": b"x",
        "t.csv": b"",
        "t.jsonl": b"{",
        "t.parquet": b"PAR1",
        "t.sqlite": b"no database at all",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError) as caught:
            table.read(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "latin.csv").write_bytes("loss,näme\n1,2\n".encode("latin-1"))
    with pytest.raises(TableError):
        table.read(tmp_path / "latin.csv")


def test_a_mapping_to_no_column_names_the_nearest():
    with pytest.raises(TableError, match="did you mean 'params'"):
        table.from_columns({"params": [1], "loss": [1.0]}, {"n": "parms"})


@given(st.lists(st.floats(0.1, 20) | st.none(), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_exactly_the_measured_rows_remain(losses):
    measured = [loss for loss in losses if loss is not None]
    if not measured:
        with pytest.raises(TableError):
            table.from_columns({"loss": losses}, {})
        return
    np.testing.assert_array_equal(table.from_columns({"loss": losses}, {})["loss"], measured)
