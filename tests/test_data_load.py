"""Documents: drawing, splitting, and what a person is told when a source cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from isolora import data
from isolora.config import DataConfig
from isolora.data.splits import draw, with_held_out
from isolora.errors import DataError

PACKAGED = "debian-descriptions"
SENTENCES = [f"Sentence number {n} speaks of lantern {n * n}." for n in range(40)]


def texts(source: object, **fields: object) -> list[str]:
    return data.load_documents(DataConfig(source=str(source), **fields)).train.texts


def refusal(source: object, **fields: object) -> str:
    with pytest.raises(DataError) as refused:
        _ = texts(source, **fields)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_packaged_text_is_title_then_description() -> None:
    splits = data.load_documents(DataConfig(source=PACKAGED, train_examples=50, eval_examples=20))
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [50, 20, 20]
    fields = splits.train.fields
    assert set(fields) == {"package", "source", "section", "synopsis", "description"}
    assert splits.train.texts[7] == f"{fields['synopsis'][7]}\n\n{fields['description'][7]}"


def test_smaller_draws_are_prefixes_of_larger_ones() -> None:
    small, large = (data.load_documents(DataConfig(source=PACKAGED, train_examples=n, eval_examples=n)) for n in (30, 300))
    assert large.train.texts[:30] == small.train.texts
    assert large.validation.texts[:30] == small.validation.texts


def test_another_seed_draws_others_but_moves_nothing_across() -> None:
    first, second = (
        data.load_documents(DataConfig(source=PACKAGED, train_examples=200, eval_examples=5000, seed=s)) for s in (0, 1)
    )
    assert first.train.fingerprint != second.train.fingerprint
    assert sorted(first.test.texts) == sorted(second.test.texts)


def test_fingerprint_is_of_the_texts(tmp_path: Path) -> None:
    rows = [{"text": text} for text in SENTENCES]
    one, two = tiny.json_lines(tmp_path / "one.jsonl", rows), tiny.json_lines(tmp_path / "two.jsonl", rows)
    changed = tiny.json_lines(tmp_path / "three.jsonl", [{"text": rows[0]["text"] + "!"}, *rows[1:]])
    prints = [
        {part.fingerprint for part in (splits.train, splits.validation, splits.test)}
        for splits in (data.load_documents(DataConfig(source=str(path))) for path in (one, two, changed))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "a.jsonl", [{"text": text} for text in SENTENCES])
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in SENTENCES))
    (tmp_path / "a.tsv").write_text("text\n" + "".join(f"{text}\n" for text in SENTENCES))
    (tmp_path / "a.txt").write_text("\n\n".join(SENTENCES))
    pq.write_table(pa.table({"text": SENTENCES}), tmp_path / "a.parquet")
    expected = texts(tmp_path / "a.jsonl")
    assert len(expected) == 32  # a tenth of 40 goes to validation, a tenth to test
    for ending in ("csv", "tsv", "txt", "parquet"):
        assert texts(tmp_path / f"a.{ending}") == expected


def test_glob_of_texts_is_a_document_a_file(tmp_path: Path) -> None:
    for n, text in enumerate(SENTENCES[:10]):
        (tmp_path / f"{n}.md").write_text(f"# Title\n\n{text}\n")
    splits = data.load_documents(DataConfig(source=f"{tmp_path}/*.md"))
    everything = splits.train.texts + splits.validation.texts + splits.test.texts
    assert sorted(everything) == sorted(f"# Title\n\n{text}" for text in SENTENCES[:10])
    assert len(splits.train) == 8


def test_folder_with_a_file_a_split(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", [{"title": "A", "body": "b"}, {"title": "C", "body": "d"}])
    tiny.json_lines(tmp_path / "dev.jsonl", [{"title": "E", "body": "f"}])
    (tmp_path / "data.json").write_text('{"text": "{title}: {body}"}')
    splits = data.load_documents(DataConfig(source=str(tmp_path), eval_examples=1, train_examples=1))
    assert splits.validation.texts == ["E: f"]
    assert splits.test.texts[0] in {"A: b", "C: d"} - set(splits.train.texts)


def test_text_field_picks_the_column(tmp_path: Path) -> None:
    path = tiny.json_lines(tmp_path / "a.jsonl", [{"question": f"q{n}", "answer": f"a{n}", "size": n} for n in range(10)])
    assert all(text.startswith("a") for text in texts(path, text_field="answer"))
    assert "no column 'reply' (columns: question, answer, size)" in refusal(path, text_field="reply")
    assert "'size' holds int64, not text" in refusal(path, text_field="size")
    assert "say which column holds the text (columns: question, answer, size of int64)" in refusal(path)
    assert data.load_documents(DataConfig(source=str(path))).train.fields["answer"]  # a task may do without a text


@given(st.lists(st.text(max_size=3), min_size=1), st.integers(0, 3))
def test_equal_rows_share_a_side(rows: list[str], seed: int) -> None:
    table = pa.table({"text": pa.array(rows, pa.string())})
    if len(set(rows)) < 3:
        with pytest.raises(DataError, match="too few"):
            with_held_out({"train": table}, ["text"])
        return
    parts = with_held_out({"train": table}, ["text"])
    sides = [set(part["text"].to_pylist()) for part in parts.values()]
    assert all(sides)
    assert sum(map(len, sides)) == len(set(rows))
    assert sum(part.num_rows for part in parts.values()) == len(rows)
    drawn = draw(table, len(rows) // 2, seed, "train")
    assert draw(table, len(rows), seed, "train").slice(0, drawn.num_rows).equals(drawn)


def test_empty_rows_are_left_out(tmp_path: Path) -> None:
    path = tiny.json_lines(tmp_path / "a.jsonl", [{"text": " \n"}, {"text": None}, *({"text": text} for text in SENTENCES)])
    assert refusal(path) == f"data: {path} line 1: the text is empty (data.on_error=skip leaves such rows out)"
    assert len(texts(path, on_error="skip")) == 32


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "reports.jsonl", [])
    assert refusal(tmp_path / "report.jsonl").endswith("(in that folder: reports.jsonl)")
    assert "there is no folder" in refusal(tmp_path / "absent" / "report.jsonl")
    assert "no such file" in refusal(tmp_path / "*.csv")
    assert "cannot read .xlsx (valid: .parquet" in refusal(touched(tmp_path / "a.xlsx"))
    assert "no file called train" in refusal(tmp_path)


def touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt", "parquet"])
def test_refuses_an_empty_file(tmp_path: Path, ending: str) -> None:
    assert f"a.{ending}" in refusal(touched(tmp_path / f"a.{ending}"))


def test_refuses_other_encodings(tmp_path: Path) -> None:
    for ending in ("txt", "csv", "jsonl"):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(b"    \nol\xe9\n" if ending == "jsonl" else b"text\nol\xe9\n")
        assert refusal(path) == f"{path}: not UTF-8 at byte 7 (line 2); save it as UTF-8 (spreadsheets call it CSV UTF-8)"


def test_refuses_other_encodings_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbftext\nol\xe9\n")
    assert "at byte 10 (line 2)" in refusal(path)


def test_refuses_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n{"text": "torn\n')
    assert "a.jsonl line 3: not JSON" in refusal(path)
    path.write_text('{"text": "fine"}\n["list"]\n')
    assert "line 2: list, not an object" in refusal(path)
    path.write_text('{"text": "fine"}\n{"text": 3}\n')
    assert "a.jsonl line 2: text holds int, rows before it str" in refusal(path)
    table = tmp_path / "a.csv"
    table.write_text("text,label\nfine,1\ntorn\n")
    assert "Row #3" in refusal(table)


def test_refuses_more_than_there_is(tmp_path: Path) -> None:
    path = tiny.json_lines(tmp_path / "a.jsonl", [{"text": text} for text in SENTENCES])
    assert refusal(path, train_examples=33).startswith("data.train_examples: 33 asked for")
    assert "too few" in refusal(tiny.json_lines(tmp_path / "b.jsonl", [{"text": "one"}, {"text": "two"}]))


def test_refuses_an_unknown_name() -> None:
    message = refusal("debian-description")
    assert "did you mean 'debian-descriptions'?" in message
    assert "the hub cannot be reached" in refusal("nobody/nothing-of-the-kind")


def test_hub_data_by_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    parts = {"train": [f"t{n}" for n in range(20)], "validation_matched": ["v"], "unsupervised": ["u"]}

    def load_dataset(*names: object) -> datasets.DatasetDict:
        asked.append(names)
        return datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": rows}) for split, rows in parts.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = data.load_documents(DataConfig(source="someone/texts:matched"))
    assert asked == [("someone/texts", "matched")]
    assert splits.validation.texts == ["v"]
    assert [len(splits.train), len(splits.test)] == [18, 2]


def test_permutation_is_not_the_files_order() -> None:
    table = pa.table({"text": [str(n) for n in range(100)]})
    places = np.array([int(text) for text in draw(table, 100, 0, "train")["text"].to_pylist()])
    assert abs(np.corrcoef(places, np.arange(100))[0, 1]) < 0.3
