"""Files that cannot be read as they are: one line that names file and row, whole or streamed, never a traceback."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from isolora import data, registry
from isolora.config import DataConfig, RunConfig, parse
from isolora.data.csv_rows import delimiter_of
from isolora.errors import ConfigError, DataError

TEXTS = [{"text": f"w5 w{number + 6}"} for number in range(30)]
LABELLED = [{"text": f"w{number}", "label": "ab"[number % 2]} for number in range(30)]


def load(source: object, task: str = "causal-lm", **fields: Any) -> data.Splits:
    settings = fields.pop("settings", {})
    plain = registry.load_plug_in("task", task)
    return data.load_documents(
        parse(DataConfig, {"source": str(source), "eval_examples": 30, **fields}), plain.bound(plain.Settings(**settings))
    )


def refusal(source: object, task: str = "causal-lm", **fields: Any) -> str:
    """The line, which is the same when the file is streamed."""
    with pytest.raises(DataError) as whole:
        load(source, task, **fields)
    assert "\n" not in str(whole.value)
    return str(whole.value)


def both(source: object, **fields: Any) -> list[str]:
    """The line, read whole and streamed."""
    return [refusal(source, **fields), refusal(source, streaming=True, train_examples=3, **fields)]


BAD_LINES = {
    "mixed types": ('{"text": "a", "tags": [1, "x"]}', "tags holds list with values of several types"),
    "a number of 65 bits": ('{"text": "a", "size": 36893488147419103232}', "size holds a whole number beyond 64 bits"),
    "a number of 5000 digits": ('{"text": "a", "size": ' + "9" * 5000 + "}", "Exceeds the limit (4300 digits)"),
    "half of a pair": ('{"text": "a \\ud800 b"}', "text holds half of a surrogate pair, which is no text"),
    "half of a pair in a name": ('{"text": "a", "b\\ud800": 1}', "b\\ud800 is half of a surrogate pair"),
    "a key twice": ('{"text": "a", "text": "b"}', "the key 'text' is given twice"),
    "too deep": ('{"text": ' + "[" * 5000 + "]" * 5000 + "}", "maximum recursion depth exceeded"),
    "nothing but a number": ("17", "int, not an object"),
    "torn": ('{"text": "a', "not JSON (Unterminated string"),
}


@pytest.mark.parametrize("place", [0, 17])
@pytest.mark.parametrize("case", BAD_LINES)
def test_a_line_of_json_is_named_or_skipped(case: str, place: int, tmp_path: Path) -> None:
    """The first line too, where nothing before it says what a column holds."""
    line, said = BAD_LINES[case]
    rows = [*TEXTS[:place], line, *TEXTS[place:]]
    path = tiny.json_lines(tmp_path / "a.jsonl", rows)
    expected = f"data: {path} line {place + 1}: {said}"
    assert all(message.startswith(expected) for message in both(path))
    splits = load(path, on_error="skip")
    assert len(splits.train.left_out) == 1


@pytest.mark.parametrize("name", ["meta.text", "a[0]", "{x}", "0", "x!r", "a:>9", "", "isolora", "text "])
def test_columns_of_any_name(name: str, tmp_path: Path) -> None:
    rows = [{name: row["text"], "size": 1} for row in TEXTS]
    path = tiny.json_lines(tmp_path / "a.jsonl", rows)
    for fields in ({}, {"text_field": name}, {"streaming": True, "train_examples": 5}):
        assert set(load(path, **fields).train.texts) <= {row["text"] for row in TEXTS}
    mapped = load(path, "sequence-classification", columns={"text": name, "label": "size"}, settings={"labels": ["a", "b"]})
    assert mapped.train.fields["text"]


def test_csv_headers_that_repeat(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,text\n" + "a,b,c\n" * 30)
    assert both(path) == [f"{path}: 3 columns, of which several are called 'text'"] * 2
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert "several are called 'text'" in refusal(tmp_path / "a.parquet")


def test_a_very_long_field_of_csv(tmp_path: Path) -> None:
    """Beyond Arrow's block of 1 MB, which has to hold a row."""
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "".join(f"w5 w{number}\n" for number in range(20)) + '"' + "w5 " * 700_000 + '"\n')
    assert max(map(len, load(path, eval_examples=1, train_examples=17).train.texts)) < 2_200_000
    assert load(path, streaming=True, train_examples=3)


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_the_delimiter_is_found(delimiter: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    rows = [f'"w5, w{number}; w6"{delimiter}{"ab"[number % 2]}' for number in range(30)]
    path.write_text("\n".join([f"text{delimiter}label", *rows]) + "\n")
    for fields in ({}, {"streaming": True, "train_examples": 5}):
        train = load(path, "sequence-classification", **fields).train
        assert sorted(train.fields) == ["label", "text"]
        assert all(text.startswith("w5, w") and text.endswith("; w6") for text in train.fields["text"])


@pytest.mark.parametrize(
    ("head", "usual", "found"),
    [
        ("text\nhello; you\nand you\n", ",", ","),
        ("a;b\n1;2\n3;4\n", ",", ";"),
        ("a;b,c\n1;2,3\n", ",", ","),
        ("a;b\nno such row\nnone either\n", ",", ","),
        ("text;\nx;\n", ",", ","),
        ("a,b\n1,2\n", "\t", ","),
        ("a\tb\n1,5\t2,5\n", ",", "\t"),
        ("", ",", ","),
        ('"a;b"\nx\n', ",", ","),
    ],
)
def test_when_another_delimiter_is_taken(head: str, usual: str, found: str) -> None:
    assert delimiter_of(head, usual) == found


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "1", "007"], ["007", "01", "1"]),
        ([str(2**70), str(2**70 + 1)], [str(2**70), str(2**70 + 1)]),
        ([str(2**53 + 1), "1.5", str(2**53)], ["1.5", str(2**53), str(2**53 + 1)]),
        (["-01", "+1", "1"], ["+1", "-01", "1"]),
        (["1", "2.0", "3"], ["1", "2", "3"]),
        (["10", "9", ""], ["9", "10"]),
        (["0", "10", "-5"], ["-5", "0", "10"]),
    ],
)
def test_numbers_that_are_names_are_kept_as_written(labels: list[str], classes: list[str], tmp_path: Path) -> None:
    """007 is another class than 7, and an identifier of 20 digits is not rounded."""
    path, task = tmp_path / "a.csv", registry.load_plug_in("task", "sequence-classification")
    path.write_text("text,label\n" + "".join(f"w5 w{n % 50} {n},{labels[n % len(labels)]}\n" for n in range(90)))
    for fields in ({}, {"streaming": True, "train_examples": 60}):
        train = load(path, "sequence-classification", on_error="skip", **fields).train
        assert task.find_labels(train) == classes


def test_an_accent_is_one_however_it_is_written(tmp_path: Path) -> None:
    path, task = tmp_path / "a.csv", registry.load_plug_in("task", "sequence-classification")
    names = ["caf\u00e9", "cafe\u0301", "tea"]
    path.write_text("text,label\n" + "".join(f"w{n % 50} {n},{names[n % 3]}\n" for n in range(90)), encoding="utf-8")
    train = load(path, "sequence-classification").train
    labels = task.find_labels(train)
    assert labels == ["caf\u00e9", "tea"]
    bound = task.bound(task.Settings(), labels)
    assert {bound.problem({"text": "w5", "label": name}) for name in names} == {""}


def test_a_zero_byte_is_called_one(tmp_path: Path) -> None:
    """It was called "not UTF-8", which it is; streamed, it became a part of the text."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nw5 w6,a\nw5\0w6,b\n" + b"w7,a\n" * 9)
    assert both(path, task="sequence-classification") == [
        f"{path}: a zero byte at byte 21 (line 3), which is no text; take it out",
        f"{path} row 3: a zero byte, which is no text; take it out",
    ]


def test_utf_16_without_a_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(("text,label\n" + "w5,a\n" * 9).encode("utf-16-le"))
    with pytest.raises(
        DataError, match=r"a\.csv: not UTF-8 at byte 1 \(line 1\); save it as UTF-8 \(spreadsheets call it CSV UTF-8\)$"
    ):
        load(path, "sequence-classification")


def test_torn_rows_behind_a_semicolon_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;label\n" + "a;b\n" * 9 + "a;b;c\n")
    assert refusal(path, "sequence-classification").startswith(f"{path}: CSV parse error: Row #11: Expected 2 columns, got 3")


PARQUET = {
    "string views": pa.array([row["text"] for row in LABELLED], pa.string_view()),
    "large strings": pa.array([row["text"] for row in LABELLED], pa.large_string()),
    "dictionary": pa.array([row["text"] for row in LABELLED]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_parquet_of_other_string_types(kind: str, tmp_path: Path) -> None:
    labels = pa.array([row["label"] for row in LABELLED]).dictionary_encode()
    nested = pa.array([{"a": ["x", None], "b": number} for number in range(30)])
    pq.write_table(pa.table({"text": PARQUET[kind], "label": labels, "more": nested}), tmp_path / "a.parquet")
    for fields in ({}, {"streaming": True, "train_examples": 5}):
        assert load(tmp_path / "a.parquet", text_field="text", **fields).train.texts[0].startswith("w")
        train = load(tmp_path / "a.parquet", "sequence-classification", **fields).train
        assert set(train.fields["label"]) == {"a", "b"}


def test_nested_texts_in_dictionaries(tmp_path: Path) -> None:
    tokens = pa.array([["w5", "w6"]] * 30, pa.list_(pa.string_view()))
    tags = pa.ListArray.from_arrays(list(range(0, 62, 2)), pa.array(["O", "B-X"] * 30).dictionary_encode())
    pq.write_table(pa.table({"tokens": tokens, "tags": tags, "id": list(map(str, range(30)))}), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet", "token-classification").train.fields["tags"][0] == ["O", "B-X"]


def test_dates_that_python_does_not_know(tmp_path: Path) -> None:
    when = pa.array([2**40] * 30, pa.timestamp("s"))
    pq.write_table(pa.table({"text": [row["text"] for row in TEXTS], "label": when}), tmp_path / "a.parquet")
    assert "a.parquet: date value out of range" in refusal(tmp_path / "a.parquet", "sequence-classification")


LABELS: dict[str, tuple[Any, str]] = {
    "a list": (["a"], "label holds list; a row has one label"),
    "white space": (" ", "label is empty"),
    "nothing": (None, "label holds nothing"),
    "not a number": (float("nan"), "label holds nothing"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_none(case: str) -> None:
    label, said = LABELS[case]
    task = registry.load_plug_in("task", "sequence-classification")
    assert task.problem({"text": "w5", "label": label}) == said


def test_a_blank_label_makes_no_class(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"w{number},{'ab'[number % 2]}\n" for number in range(30)) + "w50,\nw51, \n")
    assert refusal(path, "sequence-classification") in {f"data: {path} row {row}: label is empty" for row in (32, 33)}
    train = load(path, "sequence-classification", on_error="skip").train
    assert registry.load_plug_in("task", "sequence-classification").find_labels(train) == ["a", "b"]


def test_white_space_around_a_label_is_no_part_of_it(tmp_path: Path) -> None:
    """As datasets' ClassLabel reads them."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"w{number},{[' a', 'b', 'a', 'b '][number % 4]}\n" for number in range(40)))
    task = registry.load_plug_in("task", "sequence-classification")
    labels = task.find_labels(load(path, "sequence-classification").train)
    assert labels == ["a", "b"]
    bound = task.bound(task.Settings(), labels)
    assert bound.problem({"text": "w5", "label": " b "}) == ""


def labels_of(values: list[Any], **settings: Any) -> tuple[list[str], str]:
    task = registry.load_plug_in("task", "sequence-classification")
    documents = tiny.documents([{"text": "w5", "label": value} for value in values])
    bound = task.bound(task.Settings(**settings))
    return bound.find_labels(documents), bound.assumption(documents)


def test_when_float_labels_are_a_regression() -> None:
    """Whole floats, as pandas writes them beside gaps, are classes; fractions are numbers, and that is said or asked for."""
    assert labels_of([1.0, 0.0, None]) == (["0", "1"], "")
    assert labels_of([2.0, 10.0, 1.0])[0] == ["1", "2", "10"]
    found, line = labels_of([0.5, 1.0])
    assert (found, line) == (
        [],
        "task.problem_type: labels such as 0.5 make this a regression; set it to regression to say so",
    )
    assert labels_of([0.5, 1.0], problem_type="regression") == ([], "")
    assert labels_of([1, 2], problem_type="regression") == ([], "")


def test_decimal_numbers_are_labels_like_others() -> None:
    """As Parquet files of databases have them: 1.25 and 2.50 were two classes, and no numbers to learn."""
    said = "task.problem_type: labels such as 0.5 make this a regression; set it to regression to say so"
    assert labels_of([Decimal("0.50"), Decimal("1.00")]) == ([], said)
    assert labels_of([Decimal("0.50"), Decimal("1.00")], problem_type="regression") == ([], "")
    assert labels_of([Decimal("10.0"), Decimal(9), Decimal("9.00")]) == (["9", "10"], "")
    assert labels_of([0.5, 1.0], problem_type="single_label_classification") == (["0.5", "1"], "")
    assert labels_of([0.0, 5.0], glue="stsb") == ([], "")


def test_whole_floats_are_their_classes_numbers() -> None:
    task = registry.load_plug_in("task", "sequence-classification")
    named = task.bound(task.Settings(labels=["no", "yes"]), ["no", "yes"])
    assert [named.problem({"text": "w5", "label": label}) for label in (1.0, 0.0)] == ["", ""]
    assert named.problem({"text": "w5", "label": 2.0}).startswith("unknown label '2'")


@pytest.mark.parametrize(
    ("scheme", "tags", "said"),
    [
        (
            "io",
            ["S-PER", "O", "B-LOC"],
            "task.scheme: io takes bare types such as 'LOC', and tags here are like 'B-LOC'; set it to bio",
        ),
        ("bio", ["S-PER"], "tag 'S-PER' is not BIO (valid: O, B-TYPE, I-TYPE; write S- and U- as B-, and E-, L- and M- as I-)"),
        ("bio", ["PER"], "tag 'PER' is not BIO (valid: O, B-TYPE, I-TYPE; for bare types set task.scheme=io)"),
        ("io", ["PER", " "], "a tag is empty"),
    ],
)
def test_tags_of_another_scheme(scheme: str, tags: list[str], said: str, tmp_path: Path) -> None:
    rows = [{"tokens": ["w5"] * len(tags), "tags": tags, "id": number} for number in range(30)]
    path = tiny.json_lines(tmp_path / "a.jsonl", rows)
    assert refusal(path, "token-classification", settings={"scheme": scheme}).endswith(said)


def test_bare_types_that_look_like_a_prefix() -> None:
    task = registry.load_plug_in("task", "token-classification")
    documents = tiny.documents([{"tokens": ["w5", "w6"], "tags": ["E-mail", "phone"]}])
    assert task.bound(task.Settings(scheme="io")).find_labels(documents) == ["O", "I-E-mail", "I-phone"]


ANSWERS: dict[str, tuple[Any, str]] = {
    "a text": ("w7", 'answers is no {"text": [...], "answer_start": [...]} (it holds str)'),
    "scalars": ({"text": "w7", "answer_start": 3}, "(it holds str and int)"),
    "nulls in lists": ({"text": [None], "answer_start": [3]}, "an answer holds NoneType, not text"),
    "a null start": ({"text": ["w7"], "answer_start": [None]}, "answer_start None of 'w7' is no place in the context"),
    "a fraction": ({"text": ["w7"], "answer_start": [3.5]}, "answer_start 3.5 of 'w7' is no place"),
    "not a number": ({"text": ["w7"], "answer_start": [float("nan")]}, "answer_start nan of 'w7'"),
    "a negative start": ({"text": ["w7"], "answer_start": [-2]}, "answer_start -2 of 'w7'"),
    "one start too few": ({"text": ["w7", "w6"], "answer_start": [3]}, "answers has 2 texts but 1 starts"),
    "another key": ({"answer": ["w7"]}, "answers is no"),
    "a list": ([{"text": "w7", "answer_start": 3}], "answers is no"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_answers_of_another_form(case: str) -> None:
    answers, said = ANSWERS[case]
    task = registry.load_plug_in("task", "question-answering")
    assert said in task.problem({"question": "w5", "context": "w6 w7", "answers": answers})


@pytest.mark.parametrize("answers", [None, {"text": [], "answer_start": []}, {"text": None, "answer_start": None}])
def test_questions_without_an_answer(answers: Any) -> None:
    task = registry.load_plug_in("task", "question-answering")
    assert task.problem({"question": "w5", "context": "w6 w7", "answers": answers}) == ""


def test_whole_floats_are_places() -> None:
    row = {"question": "w5", "context": "w6 w7", "answers": {"text": ["w7"], "answer_start": [3.0]}}
    made = registry.load_plug_in("task", "question-answering").examples(tiny.documents([row]), tiny.tokenizer(), 16)
    assert made.ids.tolist() == [5, 6, 7]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(split: str, tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        tiny.json_lines(tmp_path / f"{name}.jsonl", [] if name == split else LABELLED)
    for task in ("causal-lm", "sequence-classification"):
        fields = {"text_field": "text"} if task == "causal-lm" else {}
        assert refusal(tmp_path, task, **fields) == f"data.source: {tmp_path} has no rows in {split}"
    assert split in refusal(tmp_path, "sequence-classification", streaming=True, train_examples=3)


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.parquet", "train.txt"])
def test_folders_and_pipes_in_place_of_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder" / name).mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    for kind in ("folder", "pipe"):
        assert (
            both(tmp_path / kind)
            == [f"{tmp_path}/{kind}/{name}: not a file that can be read to its end, such as a folder or a pipe"] * 2
        )
    assert "not a file that can be read to its end" in refusal(tmp_path / "pipe" / name)


@pytest.mark.parametrize(
    "source", ["x" * 5000, "x" * 300 + ".jsonl", "a\0b.jsonl", "~nobody-of-that-name/a.jsonl", "/dev/null", "[.jsonl"]
)
def test_sources_that_no_file_can_be(source: str) -> None:
    assert len(refusal(source)) < 6000


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(tiny.json_lines(tmp_path / "a.jsonl", TEXTS))

    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert both(path) == [f"{path}: cannot be read (Permission denied)"] * 2


def test_broken_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(TEXTS), path)
    raw = path.read_bytes()
    for broken in (raw[:100], raw[:-1], b"PAR1" + raw[20:], b"PAR1PAR1", raw[:40] + b"\xff" * 40 + raw[80:]):
        path.write_bytes(broken)
        assert all(message.startswith(f"{path}: ") for message in both(path))


def test_a_card_that_is_broken(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", TEXTS)
    for text in (
        "[" * 100_000,
        '{"text": "{a.b"}',
        '{"text": "{missing}"}',
        "\ud800".encode(errors="surrogatepass").decode("latin-1"),
        "7",
    ):
        (tmp_path / "data.json").write_text(text, encoding="latin-1")
        if text != '{"text": "{a.b"}':
            refusal(tmp_path)


def test_seeds_beyond_63_bits() -> None:
    for field in ("seed", "data.seed"):
        given: dict[str, Any] = {"seed": 2**63} if field == "seed" else {"data": {"seed": 2**63}}
        with pytest.raises(
            ConfigError, match=rf"^{field}: Input should be less than 9223372036854775808 \(got 9223372036854775808\)$"
        ):
            parse(RunConfig, given)
    assert parse(RunConfig, {"seed": 2**63 - 1}).seed == 2**63 - 1


def test_metadata_of_another_kind(tmp_path: Path) -> None:
    for number, told in enumerate((b"no json", b"[]", b"{}", json.dumps({"info": {"features": {}}}).encode())):
        table = pa.Table.from_pylist(LABELLED).replace_schema_metadata({b"huggingface": told})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        task = registry.load_plug_in("task", "sequence-classification")
        assert task.find_labels(load(tmp_path / f"{number}.parquet", "sequence-classification").train) == ["a", "b"]
