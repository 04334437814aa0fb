"""Inputs that once ended in a traceback, a hang or a wrong run, most found by `make bench-fuzz`; and a few fuzzed cases."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from random import Random
from typing import Any

import bench_fuzz
import fuzz_adapters
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml

from isolora import data, registry, table
from isolora.config import DataConfig, RunConfig, StudyConfig, load_run, parse, with_word
from isolora.data import make_examples
from isolora.errors import ConfigError, DataError, TableError, UserError, in_brief
from isolora.fit import Fit, best_learning_rates, fit
from isolora.imports import import_runs, write_table
from isolora.report import report
from isolora.store import STATE_NAMES, state_name

CONFIGURATIONS = [
    "data: &a [*a]",
    "seed: 2020-13-45",
    "seed: !!int x",
    "!!map [a]",
    "[" * 2000,
    "seed: 18446744073709551616",
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\ndata: {columns: {x: *e}}",
    "task: {name: instruction, template: " + "x" * 5000 + "}",
    "task: {name: conversation, template: ~nobody-of-that-name}",
    "data: {source: !!binary x}",
]


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configurations(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_words() -> None:
    for word in ("seed=" + "[" * 3000, "seed=!!float x", "data=&a {b: *a}", "seed=" + "9" * 5000, "data..seed=1"):
        with pytest.raises(ConfigError):
            parse(RunConfig, with_word({}, word))


def read(source: Any, task: str, settings: dict[str, Any], max_length: int, **fields: Any) -> None:
    """A source as examples, both parts, as a run makes them."""
    plain = registry.load_plug_in("task", task)
    unbound = plain.bound(plain.Settings(**settings))
    config = parse(DataConfig, {"source": str(source), **fields})
    splits, tokenizer = data.load_documents(config, unbound), tiny.tokenizer(eos_token="w60")
    bound = unbound.bound(unbound.settings, unbound.find_labels(splits.train))
    for part in (splits.train, splits.validation):
        make_examples(
            bound, part, lambda some: bound.examples(some, tokenizer, max_length), max_length, config.on_error == "skip"
        )


LABELLED = [{"text": f"w{number}", "label": "ab"[number % 2]} for number in range(30)]


def test_a_column_of_an_internal_name(tmp_path: Path) -> None:
    for name in ("isolora:row", "isolora:place"):
        path = tiny.json_lines(tmp_path / "a.jsonl", [{**row, name: 1} for row in LABELLED])
        with pytest.raises(DataError, match=f"^{path}: {name} is a name of isolora's own; rename the column$"):
            read(path, "sequence-classification", {}, 16)


def test_text_labels_in_a_regression(tmp_path: Path) -> None:
    path = tiny.json_lines(tmp_path / "a.jsonl", LABELLED)
    for settings in ({"glue": "stsb"}, {"problem_type": "regression"}):
        with pytest.raises(DataError, match=r"a\.jsonl line \d+: label '[ab]' is no number to learn$"):
            read(path, "sequence-classification", settings, 16)


def test_held_out_labels_of_another_kind(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", [{"text": f"w{number}", "label": number / 7} for number in range(30)])
    tiny.json_lines(tmp_path / "validation.jsonl", LABELLED)
    with pytest.raises(DataError, match=r"validation\.jsonl line \d+: label '[ab]' is no number, as those of training are$"):
        read(tmp_path, "sequence-classification", {"problem_type": None}, 16)


def test_an_infinite_start_of_an_answer(tmp_path: Path) -> None:
    answers = {"text": ["w6"], "answer_start": [float("inf")]}
    path = tiny.json_lines(
        tmp_path / "a.jsonl", [{"question": f"w{number}", "context": "w6", "answers": answers} for number in range(30)]
    )
    with pytest.raises(DataError, match="answer_start inf of 'w6' is no place in the context"):
        read(path, "question-answering", {}, 16)


@pytest.mark.parametrize("blank", ["", "  ", "\u00a0", "\u200b", "\ufeff", "\u2028\x00"])
def test_labels_and_texts_that_nobody_sees(blank: str, tmp_path: Path) -> None:
    """A character without a width, as spreadsheets leave it, became a class of its own."""
    for column in ("label", "text"):
        rows = [
            {**row, "text": f"w{number}", column: blank} if number < 8 else {**row, "text": f"w{number}"}
            for number, row in enumerate(LABELLED)
        ]
        path = tiny.json_lines(tmp_path / f"{column}.jsonl", rows)
        with pytest.raises(DataError, match=rf"line \d: {column} is empty$"):
            read(path, "sequence-classification", {}, 16, eval_examples=1)


def test_bytes_as_labels(tmp_path: Path) -> None:
    labels = pa.array([row["label"] for row in LABELLED]).cast(pa.binary())
    pq.write_table(pa.table({"text": [row["text"] for row in LABELLED], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="label holds bytes; a row has one label"):
        read(tmp_path / "a.parquet", "sequence-classification", {}, 16)


def test_a_yaml_of_values_that_are_no_keys() -> None:
    with pytest.raises(UserError):
        parse(RunConfig, yaml.safe_load("{1: 2, null: 3}"))


POINTS = [
    {"n": n, "d": 10 ** (4 + 0.3 * k), "loss": (1.7 + 400 / n**0.34 + 40 / 10 ** (0.28 * (4 + 0.3 * k))), "run": f"{n:.0e}"}
    for n in (1e5, 1e6, 1e7)
    for k in range(8)
]
"""Three sizes on a law without noise."""
TABLES = {
    "deep.json": (b"[" * 100_000, "nested too deep"),
    "digits.json": (b'[{"loss": ' + b"9" * 5000 + b"}]", "Exceeds the limit"),
    "digits.jsonl": (b'{"loss": 1}\n{"loss": ' + b"9" * 5000 + b"}", r"digits\.jsonl' line 2 cannot be read"),
    "large.json": (b'[{"loss": 1' + b"0" * 400 + b'}, {"loss": "a"}]', "must hold numbers; it holds 'a'"),
    "text.json": (b'[{"loss": "' + b"x" * 5000 + b'"}]', r"it holds 'x{299}\.\.\.$"),
    "result.json": (b'{"train_info": "x", "run_info": []}', "not built as a result of PEFT's comparison"),
    "bytes.parquet": (b"PAR1" + b"\xff" * 40 + b"PAR1", "cannot be read"),
    "size.json": (json.dumps([{**point, "n": 0} for point in POINTS]).encode(), "'body_parameters' of .* must be positive"),
    "tokens.json": (json.dumps([{**point, "d": -0.5} for point in POINTS]).encode(), "'tokens' of .* must be positive"),
    "forgetting.json": (
        json.dumps([{**point, "forgetting": "None" if n else "x"} for n, point in enumerate(POINTS)]).encode(),
        "column 'forgetting' must hold numbers; it holds 'x'",
    ),
    "nowhere.json": (
        b'[{"d": null, "n": 1, "loss": 2}, {"d": 1, "n": null, "loss": 2}]',
        "no point with a loss, a number of tokens",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, tmp_path: Path) -> None:
    text, line = TABLES[name]
    (tmp_path / name).write_bytes(text)
    with pytest.raises(TableError, match=line) as caught:
        table.read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    """Reading it would never end."""
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(TableError, match="it is no regular file"):
        table.read(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["n", "d"])
def test_one_missing_cell_takes_one_row_and_not_the_column(name: str) -> None:
    """It took the whole column: a law of tokens alone was fitted to three sizes, with 40 % noise and no word."""
    rows = [{**point, name: None} if number == 5 else point for number, point in enumerate(POINTS)]
    read = table.from_columns({key: [row[key] for row in rows] for key in rows[0]}, {})
    fitted = fit(read, bootstrap=0)
    assert fitted.left_out[f"no {table.SHORT_NAMES[name]}"] == 1
    assert "n" in fitted.shape.demands
    assert fitted.noise < 1e-3


def test_an_unused_column_is_named() -> None:
    """Two points have no FLOPs: laws of FLOPs are out, and the person knows why."""
    rows = [{**point, "c": None if number in (3, 4) else 6 * point["n"] * point["d"]} for number, point in enumerate(POINTS)]
    read = table.from_columns({key: [row[key] for row in rows] for key in rows[0]}, {})
    assert read.notes == ("no law reads column flops: 2 of 24 points have none (plans price by it all the same)",)
    assert len(read) == 24


def test_rates_and_ranks_that_no_training_has(tmp_path: Path) -> None:
    """An infinite rank ended the page; rows of an infinite learning rate were dropped unsaid, those of 0 spoiled the others'."""
    spoiled = {name: [1e-3, 2e-3] * 12 for name in ("learning_rate",)} | {"rank": [8.0] * 23 + [float("inf")]}
    spoiled["learning_rate"][:2] = [float("inf"), 0.0]
    columns = {name: [point[name] for point in POINTS] for name in POINTS[0]} | {"model": [point["run"] for point in POINTS]}
    points = table.from_columns(columns | spoiled, {})
    kept = best_learning_rates(points)["learning_rate"].tolist()
    assert kept[:2] == [float("inf"), 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(tmp_path, points, out=tmp_path / "page.html", bootstrap=0, law="additive")
    assert (tmp_path / "page.html").is_file()


def test_lines_of_json_end_at_line_feeds_alone(tmp_path: Path) -> None:
    """U+2028 is a character like others in JSON; Python's splitlines cut texts there."""
    rows = [{**point, "run": "a\u2028b"} for point in POINTS]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert set(table.read(tmp_path / "a.jsonl")["run"]) == {"a\u2028b"}


def test_a_mark_of_the_byte_order_and_bars_between_columns(tmp_path: Path) -> None:
    lines = ["loss|d|n", *(f"{point['loss']}|{point['d']}|{point['n']}" for point in POINTS)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert len(table.read(tmp_path / "a.csv")) == 24
    (tmp_path / "a.json").write_text(json.dumps(POINTS), encoding="utf-8-sig")
    assert len(table.read(tmp_path / "a.json")) == 24


def test_a_run_whose_rows_name_two_ranks_is_reported(tmp_path: Path) -> None:
    """Its second rank has no curve of its own; the page looked for one."""
    named = [{**point, "model": point["run"], "method": "lora", "rank": 8, "c": 6 * point["n"] * point["d"]} for point in POINTS]
    named[10]["rank"] = 16
    read = table.from_columns({key: [row[key] for row in named] for key in named[0]}, {})
    assert "rank 8" in report(tmp_path / "t.csv", read, out=tmp_path / "page.html", law="additive", bootstrap=2).read_text()


FITS: list[tuple[tuple[str, ...], Any]] = [
    (("draws",), [[1.0]]),
    (("intervals",), {}),
    (("noise",), "1.0B"),
    (("parameters", "E"), None),
    (("law",), "nope"),
    (("remarks",), 3),
    (("holdout",), {"mean": 1}),
    (("ranges", "d"), [0.0, 1.0]),
    (("members",), [{"law": "additive", "weight": 1.0, "theta": [1.0]}]),
    (("odd",), 1),
]


@pytest.mark.parametrize(("place", "value"), FITS)
def test_written_fits(place: tuple[str, ...], value: Any) -> None:
    read = table.from_columns({key: [row[key] for row in POINTS] for key in POINTS[0]}, {})
    state = json.loads(fit(read, law="additive", bootstrap=4).dumps())
    Fit.from_json(state)
    holder = state
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    with pytest.raises(UserError, match=r"^(not a fit as isolora writes it: .+|unknown law 'nope'.+)$"):
        Fit.from_json(state)


LOGS: dict[str, tuple[str, str, str]] = {
    "a step that is no number": ("wandb", '[{"_step": "x", "eval/loss": 2}]', "step 'x' is no number"),
    "an endless step": ("wandb", '[{"_step": 1e999, "eval/loss": 2}]', "step inf is no number"),
    "a history that is none": ("trainer", '{"log_history": true}', "is not as trainer writes it"),
    "a state of text": (
        "trainer",
        '{"log_history": [{"step": 1, "eval_loss": 2}], "global_step": "x"}',
        "not as trainer writes it",
    ),
    "a result of text": ("peft", '{"train_info": [1]}', "not built as a result of PEFT's comparison"),
    "nested too deep": ("wandb", "[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize("name", LOGS)
def test_logs_of_other_tools(name: str, tmp_path: Path) -> None:
    tool, text, line = LOGS[name]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TableError, match=f"^SOURCE: .*{line}") as caught:
        import_runs(tmp_path / "a.json", tool, tmp_path / "out.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_a_model_called_by_a_number_beyond_64_bits(ending: str, tmp_path: Path) -> None:
    write_table({"model": [-(2**63) - 1, "b"], "loss": [2.0, 1.0]}, tmp_path / f"a{ending}")
    assert table.read(tmp_path / f"a{ending}")["model"].tolist() == ["-9223372036854775809", "b"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_half_a_character(ending: str, tmp_path: Path) -> None:
    """JSON can write it, as other tools' logs do; no table can."""
    write_table({"model": ["\ud800", "b"], "loss": [3.0, 2.0]}, tmp_path / f"points.{ending}")
    assert "?" in (tmp_path / f"points.{ending}").read_bytes().decode("latin-1")


@pytest.mark.parametrize("seeds", [("a", "b"), ("1970-01-01 00:00:00", ""), (0, 1)])
def test_a_seed_called_by_a_word(seeds: tuple[object, object]) -> None:
    rows = [
        {"run": f"r{k}", "seed": seeds[k % 2], "n": 10.0 ** (6 + k % 3), "d": 10.0 ** (6 + j)} for k in range(6) for j in range(4)
    ]
    losses = [2 + 40 * row["n"] ** -0.3 + 60 * row["d"] ** -0.3 for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"loss": losses}
    assert fit(table.read(columns), bootstrap=0).runs == 6


def test_a_value_of_mlflow_that_is_no_number(tmp_path: Path) -> None:
    run = tmp_path / "mlruns" / "0" / "r"
    (run / "metrics").mkdir(parents=True)
    (run / "meta.yaml").write_text("run_name: r")
    (run / "metrics" / "eval_loss").write_text("1 2.5 10\n1 1.2.3 20\n")
    with pytest.raises(TableError, match=r"^SOURCE: .*eval_loss' line 2: '1.2.3' is no number$"):
        import_runs(tmp_path, "mlflow", tmp_path / "out.csv")
    (run / "meta.yaml").write_text("[" * 3000)
    with pytest.raises(TableError, match=r"^SOURCE: .*meta\.yaml.*: nested too deep, or a part of itself$"):
        import_runs(tmp_path, "mlflow", tmp_path / "out.csv")


def test_a_seed_of_a_search_fits_in_63_bits() -> None:
    space = {"training.learning_rate": {"low": 1e-3, "high": 1.0}}
    assert parse(StudyConfig, {"base": {}, "search": {"space": space, "trials": 2, "seed": 2**63 - 1}})
    with pytest.raises(ConfigError, match=r"^search\.seed: Input should be less than 9223372036854775808"):
        parse(StudyConfig, {"base": {}, "search": {"space": space, "trials": 2, "seed": 2**63}})


def test_a_long_reason_ends_where_a_sentence_does() -> None:
    """`Check your internet connection or see how to run` is where the hub's own sentences were cut off."""
    said = "We could not connect to the hub to load the files, and could not find them in the cache. Check your connection. "
    assert in_brief(said + "See how to run the library " * 9, 160) == said.strip()
    assert in_brief("one two three", 9) == "one two..."
    assert in_brief("x" * 500) == "x" * 300 + "..."


def test_states_have_one_vocabulary() -> None:
    words = ("queued", "running", "interrupted", "diverged", "pruned", "out-of-memory", "failed", "complete")
    assert {state_name(stored) for stored in STATE_NAMES} == set(words)


@pytest.mark.parametrize("part", bench_fuzz.parts())
def test_the_fuzzer_itself(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some cases of every part; `make bench-fuzz` runs 10,000."""
    if part == "adapters":  # one method is trained here, eleven there
        monkeypatch.setattr(fuzz_adapters, "METHODS", {"lora": {"rank": 2}})
    attempt = bench_fuzz.parts()[part]
    bench_fuzz.prepare(part)
    cases = range(15 if part in ("adapters", "tables") else 40)
    found = {number: bench_fuzz.outcome(attempt, part, number, 20) for number in cases}
    assert {number: how for number, how in found.items() if how not in ("accepted", "refused")} == {}
    assert "accepted" in found.values()


def test_a_failure_is_told_with_its_place(tmp_path: Path) -> None:
    def fails(random: Random, folder: Path) -> None:
        with_word({}, 3)  # type: ignore[arg-type]

    said = r"AttributeError: 'int' object has no attribute 'partition' \(strict_yaml\.py:\d+ with_word\)"
    assert re.fullmatch(said, bench_fuzz.outcome(fails, "x", 0, 20))

    def hangs(random: Random, folder: Path) -> None:
        while True:
            pass

    assert bench_fuzz.outcome(hangs, "x", 0, 1).startswith("too slow")
