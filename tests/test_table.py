"""Tables from every source come out with the same columns; what cannot be used is said in one line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolora import table
from isolora.errors import TableError
from isolora.fit import fit
from isolora.imports.tracked_points import HELD_OUT, LOGGED, SETTINGS
from isolora.plan import options
from isolora.table.columns import parse_number

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


def test_columns_are_found_under_the_names_that_others_use(tmp_path):
    (tmp_path / "t.csv").write_text(
        "Params;Tokens Seen;Compute;eval/loss;lr;Base Model\n1.0B;2.5e9;1e20;2,75;3e-4;a\n350M;1,000,000;2e18;3.5;1e-3;b\n"
    )
    points = table.read(tmp_path / "t.csv")
    np.testing.assert_array_equal(points["body_parameters"], [1e9, 3.5e8])
    np.testing.assert_array_equal(points["tokens"], [2.5e9, 1e6])
    np.testing.assert_array_equal(points["flops"], [1e20, 2e18])
    np.testing.assert_array_equal(points["loss"], [2.75, 3.5])
    np.testing.assert_array_equal(points["learning_rate"], [3e-4, 1e-3])
    assert list(points["model"]) == ["a", "b"]
    assert "column 'eval/loss' was read as loss" in points.notes
    assert "column 'Params' was read as body_parameters" in points.notes


@pytest.mark.parametrize("name", ["N", "params", "n_params", "numParameters", "model_size", "Non-Embedding Params"])
def test_sizes_by_many_names(name):
    assert table.from_columns({name: [100], "loss": [1.0]}, {})["body_parameters"][0] == 100


def test_a_word_is_no_size_and_an_own_name_wins():
    assert "body_parameters" not in table.from_columns({"size": ["small"], "loss": [1.0]}, {})
    points = table.from_columns({"loss": [1.0], "train_loss": [2.0], "tokens": [5], "D": [7]}, {})
    assert (points["loss"][0], points["tokens"][0]) == (1.0, 5)


@pytest.mark.parametrize("name", ["eval_loss", "eval/loss", "Validation Loss", "test_loss"])
def test_a_held_out_loss_wins_over_the_trainings(name):
    """The Trainer of transformers calls the loss in training `loss`."""
    rows = {"loss": [1.0], name: [2.0]}
    points = table.from_columns(rows, {})
    assert (points["loss"][0], points["train_loss"][0]) == (2.0, 1.0)
    said = f"column {name!r} was read as loss, and 'loss' beside it as the loss in training (--map loss=loss says otherwise)"
    assert said in points.notes
    asked = table.from_columns(rows, {"loss": "loss"})
    assert (asked["loss"][0], asked.notes) == (1.0, ())
    assert table.from_columns({"loss": [1.0], name: ["low"]}, {})["loss"][0] == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.0B", 1e9), ("350M", 3.5e8), ("12k", 12e3), ("1,234,567", 1234567), ("2,75", 2.75), ("1e-4", 1e-4), (" 7 ", 7), (3, 3)],
)
def test_numbers_as_people_write_them(text, value):
    assert parse_number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "NaN", "n/a", None])
def test_what_is_absent_is_nan(text):
    assert np.isnan(parse_number(text))


def test_what_is_no_number():
    assert parse_number("small") is None
    with pytest.raises(TableError, match="column 'flops' must hold numbers; it holds 'lots'"):
        table.from_columns({"flops": ["lots"], "loss": [1.0]}, {})


def test_tokens_from_compute_and_size():
    rows = {"n": [1e9, 2e9], "C": [6e19, 1.2e20], "loss": [3.0, 2.5]}
    np.testing.assert_allclose(table.from_columns(rows, {"d": "flops/(6n)"})["tokens"], [1e10, 1e10])
    with pytest.raises(TableError, match=r"d = flops/\(6n\) needs a column n; map one with --map n=COLUMN"):
        table.from_columns({"C": [1.0], "loss": [1.0]}, {"d": "flops/(6n)"})


def test_compute_from_size_and_tokens():
    rows = {"n": [1e9, 2e9], "tokens": [1e10, 2e10], "loss": [3.0, 2.5]}
    for asked in ({"c": "6nd"}, {"flops": "6 * N * D"}):
        np.testing.assert_allclose(table.from_columns(rows, asked)["flops"], [6e19, 2.4e20])
    with pytest.raises(TableError, match=r"c = 6nd needs a column d; map one with --map d=COLUMN"):
        table.from_columns({"n": [1.0], "loss": [1.0]}, {"c": "6nd"})
    with pytest.raises(TableError, match="map one of them to a column"):
        table.from_columns({"n": [1.0], "loss": [1.0]}, {"c": "6nd", "d": "flops/(6n)"})


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("Compute (FLOPs)", "flops"),
        ("Val loss [nats]", "loss"),
        ("Tokens (tokens)", "tokens"),
        ("Tokens (billions)", None),
        ("Compute (PFLOPs)", None),
        ("(FLOPs)", "flops"),
    ],
)
def test_units_behind_a_name_that_change_no_number(column, meant):
    assert table.canonical_name(column) == meant


def test_json_arrays_objects_of_arrays_and_tsv(tmp_path):
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "o.json").write_text(json.dumps(ROWS))
    (tmp_path / "t.tsv").write_text(
        "\n".join("\t".join(map(str, row)) for row in [list(ROWS), *zip(*ROWS.values(), strict=True)])
    )
    for name in ("a.json", "o.json", "t.tsv"):
        np.testing.assert_array_equal(table.read(tmp_path / name)["loss"], [3.0, 2.5, 2.75])
    (tmp_path / "n.json").write_text("3")
    with pytest.raises(TableError, match="is no array of objects, no object of equally long arrays and no PEFT result"):
        table.read(tmp_path / "n.json")
    (tmp_path / "l.json").write_text("[3]")
    with pytest.raises(TableError, match="must hold objects; it holds '3'"):
        table.read(tmp_path / "l.json")


def test_a_folder_of_pefts_comparison_results(tmp_path):
    result = {
        "run_info": {
            "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "optimizer_kwargs": {"lr": 1e-4}},
            "peft_config": {"peft_type": "LORA", "r": 32},
        },
        "train_info": {
            "num_trainable_params": 9175040,
            "accelerator_memory_max": 22e9,
            "metrics": [
                {"step": 250, "train loss": 0.9, "valid accuracy": 0.3, "elapsed time": 100.0},
                {"step": 500, "train loss": 0.7, "test accuracy": 0.5, "elapsed time": 200.0, "train total tokens": 4e6},
            ],
        },
    }
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "rank32.json").write_text(json.dumps(result))
    points = table.read(tmp_path)
    assert list(points["run"]) == ["lora/rank32"] * 2
    assert list(points["method"]) == ["lora"] * 2
    np.testing.assert_array_equal(points["tokens"], [2e6, 4e6])
    np.testing.assert_array_equal(points["accuracy"], [0.3, 0.5])
    np.testing.assert_array_equal(points["rank"], [32, 32])
    assert points["body_parameters"][0] == 3212749824 - 128256 * 3072, "the packaged facts of the base, less its tied embeddings"
    assert any("n was filled from packaged facts: meta-llama/Llama-3.2-3B 2.82e+09" in note for note in points.notes)


def test_a_bases_own_size_in_other_rows_goes_before_packaged_facts():
    """Qwen2.5-0.5B is packaged, at 3.58e8 without embeddings; where a base's own sizes differ none of them is taken."""
    models = ["Qwen/Qwen2.5-0.5B"] * 3 + ["gpt2"] * 2
    rows = {"model": models, "n": [5e8, None, None, 1e8, None], "loss": [3.0, 2.0, 1.0, 3.0, 2.0]}
    points = table.from_columns(rows, {})
    assert points["body_parameters"].tolist() == [5e8, 5e8, 5e8, 1e8, 1e8]
    said = "n of 3 of 5 rows was filled from other rows of the same base: Qwen/Qwen2.5-0.5B 5e+08, gpt2 1e+08"
    assert points.notes == (said,)
    apart = table.from_columns({**rows, "model": ["mine"] * 5, "n": [5e8, None, 4e8, 1e8, 1e8]}, {})
    assert apart.left_out == {"no body_parameters": 1}


def test_a_size_is_filled_only_where_it_is_missing_and_every_model_is_known():
    rows = {"model": ["gpt2", "Qwen3-8B"], "n": [5.0, None], "loss": [1.0, 1.0]}
    assert table.from_columns(rows, {})["body_parameters"].tolist() == [5.0, 8190735360 - 2 * 151936 * 4096]
    assert "body_parameters" not in table.from_columns({"model": ["gpt2", "mine"], "loss": [1.0, 1.0]}, {})


RUNS = {"run": ["a", "a", "b"], "seed": [0, 0, 1], "n": [5e8, 5e8, None], "d": [1e6, 2e6, 1e6], "loss": [3.0, 2.5, 3.0]}


@pytest.mark.parametrize("without", ["", "run"])
@pytest.mark.parametrize("numbered", [False, True])
def test_a_row_that_repeats_another_counts_once(without, numbered):
    """As a table that was put together twice; a column that counts the rows does not make them differ."""
    columns = {name: [*values, *values, values[0]] for name, values in RUNS.items() if name != without}
    points = table.from_columns(columns | ({"": list(range(7))} if numbered else {}), {})
    once = table.from_columns({name: values for name, values in RUNS.items() if name != without}, {})
    assert points["loss"].tolist() == once["loss"].tolist() == [3.0, 2.5]
    assert points.left_out == {"the same as an earlier row in every column": 4, "no body_parameters": 1}
    assert once.left_out == {"no body_parameters": 1}


def test_rows_that_differ_in_one_column_are_all_kept():
    for name, other in (("run", "c"), ("seed", 5), ("d", 3e6), ("loss", 2.9)):
        columns = {key: [values[0], other if key == name else values[0]] for key, values in RUNS.items()}
        assert len(table.from_columns(columns, {})) == 2
        assert not table.from_columns(columns, {}).left_out


@pytest.mark.parametrize(("cell", "number"), [("86.1%", 0.861), ("100 M params", 1e8), ("2M tokens", 2e6), ("3 flops", 3.0)])
def test_numbers_with_their_unit(cell, number):
    assert parse_number(cell) == pytest.approx(number)


def test_a_column_of_a_known_name_that_holds_no_numbers_is_said():
    points = table.from_columns({"n": ["10 apples", "7"], "loss": [1.0, 2.0]}, {})
    assert points.notes == ("column 'n' was not read as body_parameters: '10 apples' is no number",)
    with pytest.raises(TableError, match=r"no loss column.*; column 'eval_loss' was not read as loss: 'low' is no number"):
        table.from_columns({"eval_loss": ["low"]}, {})
    models = {"model": ["a", "b"], "n": ["10 apples", "7"], "d": ["many", 1], "loss": [1.0, 2.0]}
    with pytest.raises(TableError, match=r"without a size.*; column 'n' was not read as body_parameters: '10 apples'"):
        fit(table.from_columns(models, {}))
    with pytest.raises(TableError, match=r"no tokens column.*; column 'd' was not read as tokens: 'many' is no number"):
        fit(table.from_columns({"d": ["many", 1], "loss": [1.0, 2.0]}, {}))


def test_names_that_import_finds_are_found_here():
    for column, names in (*LOGGED.items(), *SETTINGS.items(), ("loss", HELD_OUT)):
        below = ("", "train/", "train_") if column in LOGGED else ("",)
        for name in (before + name for before in below for name in names):
            assert column in (name, table.canonical_name(name)), name


def test_columns_of_one_name_are_refused_where_they_differ(tmp_path):
    (tmp_path / "t.csv").write_text("d,loss,loss\n1,3.0,2.0\n")
    with pytest.raises(TableError, match="has several columns 'loss', which differ"):
        table.read(tmp_path / "t.csv")
    (tmp_path / "same.csv").write_text("d,loss,loss\n1,3.0,3.0\n")
    assert table.read(tmp_path / "same.csv")["loss"].tolist() == [3.0]


def test_a_data_frame_is_a_source():
    frame = pandas.DataFrame({"run": ["a", "a", None], "D": [1e6, 2e6, np.nan], "loss": [3.0, 2.5, 2.0]})
    points = table.read(frame)
    assert points["tokens"].tolist() == [1e6, 2e6]
    assert points.left_out == {"no tokens": 1}
    assert table.read({"d": [1, 2], "loss": [3.0, 2.0]})["tokens"].tolist() == [1, 2]
    whole = pandas.DataFrame({"d": pandas.array([1, None], dtype="Int64"), "loss": [3.0, 2.0]})
    assert len(table.read(whole)) == 1
    with pytest.raises(TableError, match="a source is no list"):
        table.read([1.0])
    with pytest.raises(TableError, match="several columns of one name"):
        table.read(pandas.concat([frame, frame], axis=1))


def test_rows_that_were_not_used_are_counted(tmp_path):
    write_csv(tmp_path / "t.csv", {"tokens": [1, 2, 3], "loss": [3.0, "nan", ""]})
    assert table.read(tmp_path / "t.csv").left_out == {"no loss": 2}


def test_places_need_no_loss_and_keep_their_order(tmp_path):
    write_csv(tmp_path / "t.csv", {"N": ["2M", "1M"], "tokens": [20, 10], "flops": [1e9, 2e9]})
    places = table.read_places(tmp_path / "t.csv")
    np.testing.assert_array_equal(places["body_parameters"], [2e6, 1e6])
    with pytest.raises(TableError, match="does not exist"):
        table.read_places(tmp_path / "none.csv")


@given(st.lists(st.floats(0.1, 20) | st.none(), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_exactly_the_measured_rows_remain_each_once(losses):
    measured = [loss for loss in losses if loss is not None]
    if not measured:
        with pytest.raises(TableError):
            table.from_columns({"loss": losses}, {})
        return
    np.testing.assert_array_equal(table.from_columns({"loss": losses}, {})["loss"], list(dict.fromkeys(measured)))


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_table_of_endless_columns_is_refused_at_once(suffix: str, tmp_path: Path) -> None:
    row = {f"k{number}": 1 for number in range(10_001)}
    texts = {
        "json": json.dumps([row]),
        "jsonl": "".join(json.dumps({name: 1}) + "\n" for name in row),
        "csv": ",".join(row) + "\n" + ",".join("1" for _ in row) + "\n",
    }
    path = tmp_path / f"wide.{suffix}"
    path.write_text(texts[suffix])
    with pytest.raises(TableError, match=r"^a table has 10,000 columns at most; this one has 10,001$"):
        table.read(path)


SWEEP = {"n": [1e8] * 4, "tokens": [1e6, 2e6, 4e6, 8e6], "loss": [3.0, 2.8, 2.6, 2.4]}
BLANKS = (None, "", float("nan"))


@pytest.mark.parametrize("blank", BLANKS)
def test_names_that_name_nothing_are_none(blank):
    """A null of JSON or Parquet was the method 'None', a base 'nan', and one run of all rows."""
    found = table.read({**SWEEP, "method": [blank] * 4, "model": [blank] * 4, "run": [blank] * 4})
    assert not {"method", "model"} & found.columns.keys()
    assert list(found["run"]) == list(table.read(SWEEP)["run"])
    assert {"column method holds no text", "column model holds no text"} <= set(found.notes)


@pytest.mark.parametrize("blank", BLANKS)
def test_rows_without_a_method_are_left_out_where_others_have_one(blank):
    found = table.read({**SWEEP, "method": ["lora", blank, "lora", blank]})
    assert (list(found["tokens"]), found.left_out) == ([1e6, 4e6], {"no method": 2})


@pytest.mark.parametrize("blank", BLANKS)
def test_a_row_without_a_name_of_its_run_or_base_is_told_by_the_rest(blank):
    found = table.read({**SWEEP, "flops": [1e15] * 4, "run": ["a", "a", blank, blank], "model": ["m", "m", blank, blank]})
    assert list(found["run"]) == ["a", "a", "/100000000.0", "/100000000.0"]
    assert [option.model for option in options(found)] == ["m", "n=100M"]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("0:00:04", 4.0),
        ("12:30:15.5", 45015.5),
        ("1 day, 2:00:00", 93600.0),
        ("0 days 00:00:04", 4.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        (7, 7.0),
        (None, float("nan")),
    ],
)
def test_times_are_read_as_people_write_them(cell, seconds):
    found = table.read({**SWEEP, "train_runtime": [cell] * 3 + [1.0]})
    np.testing.assert_equal(found["seconds"][0], seconds)


def test_a_time_of_the_day_in_a_csv_is_a_duration(tmp_path):
    """pyarrow reads 00:00:04 as a time of the day."""
    (tmp_path / "t.csv").write_text("n,tokens,loss,seconds\n1e8,1e6,3.0,00:00:04\n1e8,2e6,2.9,00:01:08\n")
    assert list(table.read(tmp_path / "t.csv")["seconds"]) == [4.0, 68.0]


@pytest.mark.parametrize("cell", ["25:00", "0:75:00", "4 parsecs", "3k tokens of time"])
def test_what_is_no_time_is_said(cell):
    found = table.read({**SWEEP, "train_runtime": [cell] * 4})
    assert found.notes == (f"column 'train_runtime' was not read as seconds: {cell!r} is no number",)


def test_columns_of_one_name_with_the_same_gaps_are_one(tmp_path):
    (tmp_path / "t.csv").write_text("n,tokens,loss,acc,acc\n1e8,1e6,3.0,nan,nan\n1e8,2e6,2.9,0.5,0.5\n")
    assert table.read(tmp_path / "t.csv")["acc"][1] == 0.5
    (tmp_path / "t.csv").write_text("n,tokens,loss,acc,acc\n1e8,1e6,3.0,nan,0.1\n1e8,2e6,2.9,0.5,0.5\n")
    with pytest.raises(TableError, match="several columns 'acc', which differ"):
        table.read(tmp_path / "t.csv")


def test_a_table_that_counts_examples_says_how_it_is_read():
    rows = {"n": [1e8] * 8, "train_examples": [100.0 * 2**k for k in range(8)], "loss": [3.0 - 0.1 * k for k in range(8)]}
    with pytest.raises(TableError, match=r"no tokens column; .* or count by examples with --map d=train_examples"):
        fit(table.read(rows), bootstrap=0)
    assert fit(table.read(rows, {"d": "train_examples"}), bootstrap=0).unit_of_cut == "tokens"
    costly = table.read({**rows, "flops": [1e12 * 2**k for k in range(8)]})
    remark = "the table has no tokens: the law is of FLOPs alone; map them with --map d=COLUMN, or count by examples"
    assert any(said.startswith(remark) for said in fit(costly, bootstrap=0).remarks)


def test_values_to_choose_by_are_shown_as_they_are_typed():
    found = table.read({**SWEEP, "rank": [8, 8, 64, 64]})
    with pytest.raises(TableError, match=r"unknown value of rank '7' \(valid: 64, 8\)"):
        found.having("rank", "7")
