"""Instruction: templates in a sandbox, completions that are compared, tasks scored one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from isolora import registry
from isolora.errors import DataError, UserError
from isolora.tasks.base import IGNORED

ROW = {"question": "w5 w6", "hint": None, "answer": "w7"}
ALPACA = "{{ question }}{% if hint %} w9 {{ hint }}{% endif %} w8"


def bound(**settings: Any) -> Any:
    task = registry.load_plug_in("task", "instruction")
    return task.bound(task.Settings(**settings))


def pairs(row: dict[str, Any], **settings: Any) -> Any:
    return bound(**settings).pairs(tiny.documents([row]))[0]


def test_templates_over_any_columns() -> None:
    settings = {"template": ALPACA, "completion": "{{ answer | upper }}"}
    assert pairs(ROW, **settings)[:3] == ("", "w5 w6 w8", "W7")
    assert pairs({**ROW, "hint": "w4"}, **settings).question == "w5 w6 w9 w4 w8"
    assert pairs({"question": None, "answer": "w7"}, template="w5{{ question }}", completion="{{ answer }}").question == "w5"


def test_trls_columns_need_no_template(tmp_path: Path) -> None:
    rows = [{"prompt": tiny.words(4, row), "completion": "w7 w8"} for row in range(40)]
    ready = tiny.prepared(tiny.from_rows(tmp_path, "llama", "instruction", rows))
    assert ready.train.lengths.tolist() == [7] * len(ready.train)
    assert ready.train.label_counts.tolist() == [3] * len(ready.train)


def test_other_columns_by_name(tmp_path: Path) -> None:
    rows = [{"goal": tiny.words(4, row), "solution": "w7"} for row in range(40)]
    config = tiny.from_rows(tmp_path, "gpt2", "instruction", rows)
    data = config.data.model_copy(update={"columns": {"prompt": "goal", "completion": "solution"}})
    assert tiny.prepared(config.model_copy(update={"data": data})).train.label_counts.max() == 2


def test_a_long_prompt_loses_its_beginning() -> None:
    documents = tiny.documents([{"prompt": " ".join(f"w{entry}" for entry in range(2, 40)), "completion": "w50 w51"}])
    examples = bound(max_new_tokens=4).examples(documents, tiny.tokenizer(eos_token="w60"), 12)
    assert examples.ids.tolist() == [*range(32, 40), 50, 51, 60]
    assert examples.labels.tolist() == [*[IGNORED] * 7, 50, 51, 60, IGNORED]


@pytest.mark.parametrize(
    ("prompt", "completion", "joined"), [("a", "b", " b"), ("a ", "b", "b"), ("a", "\nb", "\nb"), ("", "b", "b")]
)
def test_a_completion_is_a_word_of_its_own(prompt: str, completion: str, joined: str) -> None:
    from isolora.tasks.pairs import Pair, _with_space

    assert _with_space(Pair("", prompt, completion)) == joined


def test_scores_task_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "w5", "completion": text, "task": name} for text, name in (("w7", "one"), ("w8 w9", "two"), ("w8", "two"))]
    task, documents = bound(), tiny.documents(rows)
    monkeypatch.setattr("isolora.tasks.prompted.generate_texts", lambda *_: ["w7 ", "w8", "w8"])
    examples = task.examples(documents, tiny.tokenizer(), 32).subset(np.array([0, 1, 2]))
    scores = task.predictions(None, examples, documents, None, None).measures()
    assert next(iter(scores)) == "exact_match"
    assert {name: scores[name] for name in ("exact_match", "one/exact_match", "two/exact_match", "two/rouge1")} == pytest.approx(
        {"exact_match": 2 / 3, "one/exact_match": 1, "two/exact_match": 0.5, "two/rouge1": (2 / 3 + 1) / 2}
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"template": "{{ qestion }}"},
            r"task\.template: unknown field 'qestion'; did you mean 'question'\? \(valid: answer, hint, q",
        ),
        ({}, r"task\.template: unknown field 'prompt' \(valid: answer, hint, question\)"),
        ({"template": "{{ question }}", "completion": "{{ a }}"}, r"task\.completion: unknown field 'a'"),
        ({"template": "{{ question.nothing }}"}, r"task\.template: 'str object' has no attribute 'nothing'"),
        ({"template": "{{ question }}", "completion": " {{ hint }}"}, "row 1 of those drawn: the completion is empty"),
        ({"template": "{{ hint }}", "completion": "{{ answer }}"}, "row 1 of those drawn: the prompt is empty"),
    ],
)
def test_a_field_that_is_not_there_is_named(settings: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        pairs(ROW, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ question", r"task\.template: line 1: unexpected end of template"),
        ("w5\n{% if %}", r"task\.template: line 2: Expected an expression"),
        ("{{ question.__class__.__mro__ }}", r"task\.template: access to attribute '__class__' of 'str' object is unsafe"),
        ("{% include '/etc/passwd' %}", r"task\.template: '?/etc/passwd"),
        ("{{ question + 1 }}", r"task\.template: can only concatenate str"),
        ("{{ [question] }}", r"task\.template: a field holds list, not text; name a part of it, such as field\[0\]"),
        ("{{ 1 / 0 }}", r"task\.template: division by zero"),
        ("{% for number in range(10 ** 9) %}{% endfor %}", r"task\.template: Range too big"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(template: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        pairs(ROW, template=template)
    assert "\n" not in str(caught.value)
