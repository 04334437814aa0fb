"""Bad rows: one line that names file and row, or, with data.on_error: skip, a run that goes on without them and says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from person import run

from isolora import data, registry
from isolora.config import DataConfig, TaskConfig, parse
from isolora.data.origins import left_out_summary
from isolora.errors import DataError, UserError
from isolora.runs.document_loader import DocumentLoader
from isolora.training import train

torch.set_num_threads(1)
TALK = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
GOOD: dict[str, dict[str, Any]] = {
    "token-classification": {"tokens": ["w5", "w6"], "tags": ["O", "B-X"]},
    "sequence-classification": {"text": "w5 w6", "label": "a"},
    "summarization": {"document": "w5 w6 w7", "summary": "w6"},
    "conversation": {"messages": TALK},
    "preference": {"prompt": "w5", "chosen": "w6", "rejected": "w7"},
    "question-answering": {"question": "w5", "context": "w6 w7", "answers": {"text": ["w7"], "answer_start": [3]}},
    "instruction": {"prompt": "w5", "completion": "w6"},
    "causal-lm": {"text": "w5 w6"},
}
"""A row that each task can use."""
BAD: dict[str, tuple[str, Any, str]] = {
    "unequal lengths": ("token-classification", {"tokens": ["w5", "w6"], "tags": ["O"]}, "2 tokens but 1 tags"),
    "a tag without its form": ("token-classification", {"tokens": ["w5"], "tags": ["PER"]}, "tag 'PER' is not BIO"),
    "a gap among the tags": ("token-classification", {"tokens": ["w5", "w6"], "tags": ["O", None]}, "tags has a gap"),
    "no tags": ("token-classification", {"tokens": ["w5"]}, "1 tokens but 0 tags"),
    "an empty text": ("sequence-classification", {"text": " ", "label": "a"}, "text is empty"),
    "no label": ("sequence-classification", {"text": "w5"}, "label holds nothing"),
    "another kind of label": ("sequence-classification", {"text": "w5", "label": 3}, "label holds int, rows before it str"),
    "an empty summary": ("summarization", {"document": "w5", "summary": ""}, "summary is empty"),
    "the assistant first": ("conversation", {"messages": TALK[1:]}, "messages: the conversation starts with the assistant"),
    "nothing to prefer": ("preference", {"prompt": "w5", "chosen": "", "rejected": "w7"}, "chosen is empty"),
    "an answer elsewhere": (
        "question-answering",
        {"question": "w5", "context": "w6 w7", "answers": {"text": ["w7"], "answer_start": [1]}},
        "answer 'w7' is not at character 1",
    ),
    "an empty completion": ("instruction", {"prompt": "w5", "completion": ""}, "the completion is empty"),
    "an empty document": ("causal-lm", {"text": ""}, "the text is empty"),
    "broken JSON": ("causal-lm", '{"text": "w5', "not JSON (Unterminated string starting at, column 10)"),
    "no object": ("causal-lm", '["w5"]', "list, not an object"),
}


def rows_of(task: str, count: int = 30) -> list[dict[str, Any]]:
    """Rows that are all different and all good, of two classes where there are any."""
    found = [{**GOOD[task], "number": str(number)} for number in range(count)]
    if task == "causal-lm":
        return [{"text": f"w5 w{number + 6}"} for number in range(count)]
    if task == "sequence-classification":
        return [{**row, "label": "ab"[number % 2]} for number, row in enumerate(found)]
    return found


def load(source: str, task: Mapping[str, Any] | str, **fields: Any) -> data.Splits:
    return DocumentLoader().load(DataConfig(source=source, **fields), TaskConfig.model_validate(task))


def refusal(source: str, task: Mapping[str, Any] | str, **fields: Any) -> str:
    with pytest.raises(UserError) as refused:
        load(source, task, **fields)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def with_line_17(path: Path, case: str) -> tuple[str, str]:
    """(a file whose 17th line is the case's, the case's task)."""
    task, bad, _ = BAD[case]
    rows = rows_of(task)
    return tiny.json_lines(path, [*rows[:16], bad, *rows[17:]]), task


@pytest.mark.parametrize("case", BAD)
def test_the_line_is_named(case: str, tmp_path: Path) -> None:
    source, task = with_line_17(tmp_path / "people.jsonl", case)
    assert refusal(source, task).startswith(f"data: {source} line 17: {BAD[case][2]}")


@pytest.mark.parametrize("case", BAD)
def test_skipped_it_is_counted_and_nothing_else_is_lost(case: str, tmp_path: Path) -> None:
    source, task = with_line_17(tmp_path / "people.jsonl", case)
    splits = load(source, task, on_error="skip", eval_examples=30)
    left_out = [*splits.train.left_out, *splits.validation.left_out]
    assert len(left_out) == 1
    assert left_out[0].startswith(f"{source} line 17: {BAD[case][2]}")
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 29


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_out_of_range_is_named(label: int, tmp_path: Path) -> None:
    rows = [{"text": f"w{number}", "label": number % 2} for number in range(30)]
    source = tiny.json_lines(tmp_path / "a.jsonl", [*rows[:16], {"text": "w40", "label": label}, *rows[17:]])
    task = {"name": "sequence-classification", "labels": ["no", "yes"]}
    assert refusal(source, task) == (
        f"data: {source} line 17: unknown label '{label}' (valid: no, yes); task.labels can name them all"
    )
    assert len(load(source, task, on_error="skip").train.left_out) == 1


def test_a_label_that_is_only_held_out_is_named_or_skipped(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", rows_of("sequence-classification"))
    held_out = tiny.json_lines(
        tmp_path / "validation.jsonl", [*rows_of("sequence-classification", 5), {"text": "w5", "label": "c"}]
    )
    problem = f"{held_out} line 6: unknown label 'c' (valid: a, b); task.labels can name them all"
    assert refusal(str(tmp_path), "sequence-classification") == f"data: {problem}"
    splits = load(str(tmp_path), "sequence-classification", on_error="skip")
    assert splits.validation.left_out == (problem,)
    assert len(splits.validation) == 5


def test_a_template_that_names_an_unknown_field(tmp_path: Path) -> None:
    source = tiny.json_lines(tmp_path / "a.jsonl", rows_of("instruction"))
    task = {"name": "instruction", "template": "{{ promt }}"}
    message = refusal(source, task)
    assert message.startswith(f"data: {source} line ")
    assert message.endswith(": task.template: unknown field 'promt'; did you mean 'prompt'? (valid: completion, number, prompt)")
    assert refusal(source, task, on_error="skip").startswith("data.on_error: no row is left (24 rows of the data left out")


def test_a_chat_template_that_refuses_names_the_line(tmp_path: Path) -> None:
    rows = rows_of("conversation")
    system = {"messages": [{"role": "system", "content": "w9"}, *TALK]}
    source = tiny.json_lines(tmp_path / "a.jsonl", [*rows[:16], system, *rows[17:]])
    refusing = "{{ raise_exception('no system here') if messages[0].role == 'system' }}" + tiny.CHAT
    task = registry.load_plug_in("task", "conversation")
    task = task.bound(task.Settings(template=refusing))
    with pytest.raises(DataError, match=rf"^data: {source} line 17: task.template: refuses .*: no system here$"):
        task.examples(data.load_documents(DataConfig(source=source), task).train, tiny.tokenizer(), 64)


def test_a_missing_column_names_the_file(tmp_path: Path) -> None:
    source = tiny.json_lines(tmp_path / "a.jsonl", [{"tokens": ["w5"], "ner": ["O"]}] * 9)
    assert refusal(source, "token-classification") == (
        f"data.columns: {source} has no column 'tags' for the task's 'tags' (columns: ner, tokens)"
    )


def test_rows_of_every_kind_of_file(tmp_path: Path) -> None:
    """Parquet's rows count from 1; CSV's as a spreadsheet shows them, so that the header is row 1."""
    texts = [f"w{number}" for number in range(30)]
    texts[15] = " "
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    pc_csv.write_csv(table, tmp_path / "a.csv")
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.md").write_text(text)
    for name, row in (("a.parquet", "a.parquet row 16"), ("a.csv", "a.csv row 17"), ("*.md", "15.md row 1")):
        assert refusal(str(tmp_path / name), "causal-lm").startswith(f"data: {tmp_path}/{row}: the text is empty")
        assert len(load(str(tmp_path / name), "causal-lm", on_error="skip").train.left_out) == 1


def test_rows_of_several_files_keep_their_own_numbers(tmp_path: Path) -> None:
    rows = rows_of("summarization", 40)
    tiny.json_lines(tmp_path / "a.jsonl", rows[:20])
    tiny.json_lines(tmp_path / "b.jsonl", ["", *rows[20:25], {"document": "w5", "summary": ""}, *rows[25:]])
    assert refusal(f"{tmp_path}/*.jsonl", "summarization") == f"data: {tmp_path}/b.jsonl line 7: summary is empty"


def test_torn_rows_of_csv_are_skipped_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"w{number},a" for number in range(30)]
    path.write_text("\n".join(["text,label", *rows[:5], "torn", *rows[5:10], " ,a", *rows[10:]]) + "\n")
    assert "Row #7" in refusal(str(path), "causal-lm", text_field="text")
    splits = load(str(path), "causal-lm", text_field="text", on_error="skip")
    assert splits.train.left_out == (
        f"{path} row 7: 1 columns, not 2",
        f"{path} row 13: the text is empty (data.on_error=skip leaves such rows out)",
    )


def test_draws_stay_nested_where_rows_are_skipped(tmp_path: Path) -> None:
    rows = [{"document": f"w{number}", "summary": "" if number % 4 == 0 else "w5"} for number in range(60)]
    source = tiny.json_lines(tmp_path / "a.jsonl", rows)
    small, large = (load(source, "summarization", on_error="skip", train_examples=count).train for count in (12, 40))
    assert large.fields["document"][: len(small)] == small.fields["document"]
    assert (len(small) + len(small.left_out), len(large) + len(large.left_out)) == (12, 40)


def test_origins_and_skipping_change_no_fingerprint_and_no_run(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_error": "skip"})})
    assert tiny.identity(skipping) == tiny.identity(config)
    loaded = load(tiny.json_lines(tmp_path / "a.jsonl", rows_of("summarization")), "summarization").train
    assert sorted(loaded.fields) == ["document", "number", "summary"]
    assert loaded.fingerprint == data.Documents(loaded.table, None).fingerprint


def test_said_in_one_line() -> None:
    assert left_out_summary(["a row 1: x"]) == "1 row of the data left out (a row 1: x)"
    assert left_out_summary(["a", "b", "c", "d"]) == "4 rows of the data left out (a; b; c; ...)"


def a_run(folder: Path) -> list[str]:
    """Words of a run on a model and 30 rows, the 17th of which is broken."""
    source, task = with_line_17(folder / "people.jsonl", "unequal lengths")
    model = tiny.save(folder / "model", tiny.bert_classifier())
    return [f"model={model}", f"task={task}", f"data.source={source}", "training.steps=2", "data.eval_examples=3"]


def test_the_command_line_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed, line = run(monkeypatch, capsys, "train", *a_run(tmp_path), "--out", str(tmp_path / "out"))
    assert (status, printed) == (2, "")
    assert line == f"isolora: data: {tmp_path}/people.jsonl line 17: 2 tokens but 1 tags (w5 w6 ...)\n"


def test_the_command_line_goes_on_and_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*a_run(tmp_path), "data.on_error=skip", "--out", str(tmp_path / "out"), "--json"]
    status, printed, line = run(monkeypatch, capsys, "train", *words)
    result = json.loads(printed)
    assert (status, result["state"], result["rows_left_out"]) == (0, "complete", 1)
    assert json.loads((tmp_path / "out" / "adapter" / "isolora.json").read_text())["rows_left_out"] == 1
    named = f"{tmp_path}/people.jsonl line 17: 2 tokens but 1 tags (w5 w6 ...)"
    assert f"isolora: 1 row of the data left out ({named})\n" in line


def test_rows_mixed_in_are_skipped_too(tmp_path: Path) -> None:
    """A class that only the other source has is none of the run's."""
    tiny.json_lines(tmp_path / "other.jsonl", [{"text": f"w{number}", "label": "abc"[number % 3]} for number in range(30)])
    config = tiny.from_rows(tmp_path, "bert_classifier", "sequence-classification", rows_of("sequence-classification"), steps=2)
    mix = [{"source": str(tmp_path / "other.jsonl"), "share": 0.4}]
    given = {**config.model_dump(), "data": {**config.data.model_dump(), "mix": mix}}
    config = parse(type(config), given)
    with pytest.raises(DataError, match=r"other\.jsonl line \d+: unknown label 'c'"):
        train(config, tmp_path / "out", quiet=True)
    skipping = config.model_copy(update={"data": config.data.model_copy(update={"on_error": "skip"})})
    result = train(skipping, tmp_path / "skipping", quiet=True)
    assert (result["state"], result["rows_left_out"] > 0) == ("complete", True)
