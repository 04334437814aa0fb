"""Conversation: which tokens are the assistant's, whatever the template knows about it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora import models, registry
from isolora.config import RunConfig, parse
from isolora.errors import ConfigError, DataError
from isolora.metrics.perplexity import perplexity
from isolora.runs.batches import collate
from isolora.tasks.base import IGNORED
from isolora.tasks.chat_templates import assistant_tokens, plain_template, prompt_and_answer

torch.set_num_threads(1)
MARKED = (
    "{% for turn in messages %}w5{{ turn.role[0] }} {% if turn.role == 'assistant' %}{% generation %}{{ turn.content }} w59 "
    "{% endgeneration %}{% else %}{{ turn.content }} w59 {% endif %}{% endfor %}{% if add_generation_prompt %}w5a {% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
FORGETFUL = "{% for turn in messages %}{{ turn.content if loop.last or turn.role != 'assistant' else 'w4' }} {% endfor %}"
TALK = [
    {"role": "system", "content": "w40"},
    {"role": "user", "content": "w10 w11"},
    {"role": "assistant", "content": "w12 w13"},
    {"role": "user", "content": "w14"},
    {"role": "assistant", "content": "w15"},
]


def heard(template: str, talk: list[dict[str, str]] = TALK) -> list[str]:
    """The assistant's words; each `|` stands for what is not its own."""
    tokenizer = tiny.tokenizer(eos_token="w60")
    ids, own = assistant_tokens(talk, tokenizer, template)
    return tokenizer.convert_ids_to_tokens([entry for entry, mine in zip(ids, own, strict=True) if mine])


@pytest.mark.parametrize("template", [MARKED, UNMARKED])
def test_only_the_assistants_turns_are_asked_for(template: str) -> None:
    assert heard(template) == ["w12", "w13", "w59", "w15", "w59"]


def test_marked_and_unmarked_templates_agree_token_by_token() -> None:
    tokenizer = tiny.tokenizer()
    assert assistant_tokens(TALK, tokenizer, MARKED) == assistant_tokens(TALK, tokenizer, UNMARKED)


def test_an_end_behind_the_last_turn_alone_is_learnt_there() -> None:
    assert heard(UNMARKED + "{{ eos_token }}") == ["w12", "w13", "w59", "w15", "w59", "w60"]


def test_dialogpts_template_has_ends_alone() -> None:
    """What the assistant says is known by its place, not by a mark in the text."""
    assert heard("{% for turn in messages %}{{ turn.content }} {{ eos_token }} {% endfor %}") == [
        "w12",
        "w13",
        "w60",
        "w15",
        "w60",
    ]


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    with pytest.raises(DataError, match=r"rewrites turn 3 \(assistant\); mark the assistant's turns with"):
        heard(FORGETFUL)


def test_the_plain_template_ends_each_answer() -> None:
    tokenizer = models.load_tokenizer(tiny.run())  # nano-1m brings no template
    ids, own = assistant_tokens(TALK, tokenizer, plain_template())
    assert tokenizer.decode(ids) == (
        "System: w40\nUser: w10 w11\nAssistant: w12 w13<|endoftext|>\nUser: w14\nAssistant: w15<|endoftext|>\n"
    )
    mine = tokenizer.decode([entry for entry, wanted in zip(ids, own, strict=True) if wanted])
    assert mine == " w12 w13<|endoftext|>\n w15<|endoftext|>\n"
    task = registry.load_plug_in("task", "conversation")
    prompt = task.prompt_ids("w10 w11", tokenizer, 99)
    assert tokenizer.decode(prompt) == "User: w10 w11\nAssistant:"
    assert ids[: len(prompt)] != prompt == assistant_tokens(TALK[1:3], tokenizer, plain_template())[0][: len(prompt)]


def test_smollm2s_own_template(monkeypatch: pytest.MonkeyPatch) -> None:
    if "smollm2-135m" not in models.fetched():
        pytest.skip("make models has not been run")
    tokenizer = models.load_tokenizer(tiny.run().model_copy(update={"model": "smollm2-135m"}))
    ids, own = assistant_tokens(TALK, tokenizer, tokenizer.chat_template)
    mine = tokenizer.decode([entry for entry, wanted in zip(ids, own, strict=True) if wanted])
    assert mine == "w12 w13<|im_end|>w15<|im_end|>"


def test_the_loss_is_the_models_own_on_the_assistants_tokens() -> None:
    task, model = registry.load_plug_in("task", "conversation"), tiny.llama()
    task = task.bound(task.Settings(template=UNMARKED))
    examples = task.examples(tiny.documents([{"messages": TALK}, {"messages": TALK[1:3]}]), tiny.tokenizer(), 64)
    batch = collate(examples, np.arange(2), np.ones(2, np.float32), 0)
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels.view(-1)[batch.positions + 1] = batch.targets
    with torch.no_grad():
        own = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss = task.loss(model, batch)
    assert float(loss.row_losses.sum()) / 8 == pytest.approx(float(own), rel=1e-6)
    answers = [batch.targets[batch.target_rows == row] for row in range(2)]
    size = sum(len(text) for text in tiny.tokenizer().batch_decode(answers))
    bits = 2.0 * 8 / (size * math.log(2))
    assert task.restated(2.0, examples, tiny.tokenizer()) == pytest.approx({"perplexity": perplexity(2.0), "bits_per_byte": bits})


def test_a_long_conversation_loses_its_end() -> None:
    task = registry.load_plug_in("task", "conversation")
    examples = task.bound(task.Settings(template=MARKED)).examples(tiny.documents([{"messages": TALK}]), tiny.tokenizer(), 9)
    assert len(examples.ids) == 9
    assert examples.labels[examples.labels != IGNORED].tolist() == [12]


def test_what_is_said_before_an_answer() -> None:
    pair = prompt_and_answer(TALK[:2], TALK[2:3], tiny.tokenizer(), UNMARKED)
    assert (pair.question, pair.completion, pair.is_chat) == ("w5s w40 w59 w5u w10 w11 w59 w5a ", "w12 w13 w59", True)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (TALK[2:], "messages: the conversation starts with the assistant; a user's turn has to come first"),
        ([TALK[0], *TALK[2:]], "messages: the conversation starts with the assistant"),
        (TALK[:2], "messages: the assistant says nothing"),
        ([], "messages holds no list of turns"),
        (None, "messages holds no list of turns"),
        ([{"role": "bot", "content": "w5"}], r"messages: turn 1 is not \{role, content\} with a role of system, developer, user"),
        ([TALK[1], {"role": "assistant", "content": None}], "messages: turn 2 is not"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_named(messages: Any, said: str) -> None:
    documents = tiny.documents([{"messages": TALK}, {"messages": messages}])
    with pytest.raises(DataError, match=f"row 2 of those drawn: {said}") as caught:
        registry.load_plug_in("task", "conversation").examples(documents, tiny.tokenizer(), 64)
    assert "\n" not in str(caught.value)


def test_a_template_from_a_file_is_part_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(MARKED)
    config = parse(RunConfig, {"task": {"name": "conversation", "template": str(tmp_path / "chat.jinja")}})
    assert config.task.fields()["template"] == MARKED
    with pytest.raises(ConfigError, match=r"template: .*no-such\.jinja' is neither a Jinja template nor a file that holds one"):
        parse(RunConfig, {"task": {"name": "conversation", "template": "no-such.jinja"}})


def test_a_template_cannot_reach_out() -> None:
    with pytest.raises(DataError, match=r"task\.template: refuses the conversation that begins with 'w40': access to attribute"):
        heard("{{ messages.__class__.__mro__ }}")


def test_turns_as_sharegpt_has_them_are_read() -> None:
    task = registry.load_plug_in("task", "conversation")
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    shared = [{"from": names[turn["role"]], "value": turn["content"]} for turn in TALK]
    tokenizer = tiny.tokenizer(eos_token="w60")
    theirs, ours = (task.examples(tiny.documents([{"messages": talk}]), tokenizer, 64) for talk in (shared, TALK))
    assert theirs.ids.tolist() == ours.ids.tolist()
    assert theirs.labels.tolist() == ours.labels.tolist()
    strange = [{"from": "bing", "value": "w5"}, {"from": "gpt", "value": "w6"}]
    assert "turn 1 is not {role, content} with a role of" in task.problem({"messages": strange})
