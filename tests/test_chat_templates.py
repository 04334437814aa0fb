"""Chat templates: exactly what the assistant says is learnt, whatever shape a template has, and nothing is lost on the way."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import tiny
import torch
from chat_template_shapes import (
    CHATML,
    DEEPSEEK_R1,
    GEMMA,
    MISTRAL_V01,
    MISTRAL_V03,
    MISTRAL_V03_GENERATION,
    MISTRAL_V03_LAST_USER,
    QWEN2,
    QWEN3,
    SHAPES,
    TALK,
    Shape,
    Turns,
    with_generation,
    without_prompt,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolora import models, registry
from isolora.errors import ConfigError, DataError
from isolora.tasks.base import IGNORED, Examples
from isolora.tasks.chat_templates import assistant_spans, assistant_tokens, prompt_and_answer, render, template_of

torch.set_num_threads(1)
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a place", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo"}}}


def tokenizer(shape: Shape) -> Any:
    """nano-1m's byte-level tokens, and the shape's special ones."""
    found = models.load_tokenizer(tiny.run())
    found.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": list(shape.special)})
    return found


def spoken(shape: Shape, talk: Turns, context: int = 0, tools: Any = None, template: str = "") -> tuple[str, list[str]]:
    """(the conversation's text, what is trained on of it)."""
    text, spans = assistant_spans(talk, tokenizer(shape), template or shape.template, context, tools)
    return text, [text[start:stop] for start, stop in spans]


def talk_of(shape: Shape) -> Turns:
    return TALK if shape.system else TALK[1:]


@pytest.mark.parametrize("name", SHAPES)
def test_exactly_what_the_assistant_says(name: str) -> None:
    shape = SHAPES[name]
    text, found = spoken(shape, talk_of(shape))
    assert text == shape.text
    assert tuple(found) == shape.spoken


@pytest.mark.parametrize("name", SHAPES)
def test_tokens_are_those_of_the_whole_text(name: str) -> None:
    shape = SHAPES[name]
    tokens = tokenizer(shape)
    ids, own = assistant_tokens(talk_of(shape), tokens, shape.template)
    assert tokens.decode(ids) == shape.text
    assert ids == tokens(shape.text, add_special_tokens=False).input_ids
    assert tokens.decode([entry for entry, mine in zip(ids, own, strict=True) if mine]) == "".join(shape.spoken)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{% for m in messages | reverse %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}", "turn 3 before turn 2"),
        (
            "{% for m in messages if m.role == 'assistant' %}{{ m.content + eos_token }}{% endfor %}"
            "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
            "turn 3 before turn 2",
        ),
    ],
)
def test_turns_in_another_order_are_refused(template: str, line: str) -> None:
    """The system's and the user's text was trained where a template puts the last turn first."""
    with pytest.raises(DataError, match=rf"^task\.template: the chat template puts {line}; mark the assistant's turns"):
        spoken(CHATML, TALK, template=template)


@pytest.mark.parametrize("name", SHAPES)
def test_the_header_is_not_learnt_where_a_template_has_no_generation_prompt(name: str) -> None:
    """Each shape with its prompt taken out: the same is spoken, and the same stands in front of an answer to come."""
    shape, talk = SHAPES[name], talk_of(SHAPES[name])
    template = without_prompt(shape)
    assert (template == shape.template) == ("add_generation_prompt" not in template)
    last = shape.spoken[-1].removeprefix("<think>\n\n</think>\n\n")  # which Qwen3's writes in front of the last answer
    assert spoken(shape, talk, template=template) == (shape.text, [*shape.spoken[:-1], last])
    if shape is not MISTRAL_V03:  # its system prompt comes and goes with the answer
        assert render(talk[:-1], tokenizer(shape), template, answer_next=True) == shape.text[: shape.text.rindex(last)]


def test_calls_of_tools_are_learnt_behind_a_header_without_a_generation_prompt() -> None:
    template = CHATML_CALLS.split("{% if add_generation_prompt")[0]
    talk = [TALK[1], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "12"}, TALK[2]]
    call = '<tool_call>{"name": "weather", "arguments": {"place": "Oslo"}}</tool_call><|im_end|>'
    for written in (CHATML_CALLS, template):
        assert spoken(CHATML, talk, template=written)[1] == [call, "Ans 1<|im_end|>"]


@pytest.mark.parametrize("name", SHAPES)
def test_turns_that_are_only_read(name: str) -> None:
    shape = SHAPES[name]
    text, found = spoken(shape, talk_of(shape), context=len(talk_of(shape)) - 1)
    assert (text, tuple(found)) == (shape.text, shape.spoken[1:])


@pytest.mark.parametrize("name", SHAPES)
def test_one_answer_is_spoken_as_the_last_of_several(name: str) -> None:
    shape = SHAPES[name]
    talk = [*talk_of(shape)[:-4], *TALK[3:]]
    assert spoken(shape, talk)[1] == [shape.spoken[-1]]


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_and_answer_are_the_whole_text(name: str) -> None:
    shape = SHAPES[name]
    talk = talk_of(shape)
    pair = prompt_and_answer(talk[:-1], talk[-1:], tokenizer(shape), shape.template)
    assert pair.completion == shape.spoken[-1]
    assert pair.question + pair.completion == shape.text[: len(pair.question + pair.completion)]
    assert not shape.text[len(pair.question + pair.completion) :].strip()


def test_the_system_prompt_of_the_issue_is_read_and_only_the_answer_learnt() -> None:
    row = {"system": "Be kind", "prompt": "Secret Q1", "completion": "Ans 1"}
    task, tokens = registry.load_plug_in("task", "conversation"), tokenizer(MISTRAL_V03)
    task = task.bound(task.Settings(template=MISTRAL_V03_LAST_USER.template))
    made = task.examples(tiny.documents([row]), tokens, 256)
    assert tokens.decode(made.ids) == "<s>[INST] Be kind\n\nSecret Q1[/INST] Ans 1</s>"
    assert learnt(made, tokens) == " Ans 1</s>"


def test_the_template_of_the_issue_loses_the_system_prompt_and_says_so() -> None:
    """`loop.last` is never true of a user's turn with an answer behind it."""
    row = {"system": "Be kind", "prompt": "Secret Q1", "completion": "Ans 1"}
    task = registry.load_plug_in("task", "conversation")
    task = task.bound(task.Settings(template=MISTRAL_V03.template))
    with pytest.raises(
        DataError,
        match=r"^data: row 1 of those drawn: task\.template: the chat template leaves out turn 1 \(system\); put its text into",
    ):
        task.examples(tiny.documents([row]), tokenizer(MISTRAL_V03), 256)
    without = tiny.documents([{"prompt": "Secret Q1", "completion": "Ans 1"}])
    assert learnt(task.examples(without, tokenizer(MISTRAL_V03), 256), tokenizer(MISTRAL_V03)) == " Ans 1</s>"


def learnt(examples: Examples, tokens: Any) -> str:
    return str(tokens.decode(examples.labels[examples.labels != IGNORED]))


@pytest.mark.parametrize("template", [CHATML.template, with_generation(CHATML)])
def test_generation_marks_agree_with_what_is_found_without(template: str) -> None:
    for context in (0, 2, 4):
        assert spoken(CHATML, TALK, context, template=template) == spoken(CHATML, TALK, context)


def test_generation_marks_where_earlier_text_depends_on_later() -> None:
    assert spoken(MISTRAL_V03, TALK[1:], 3, template=MISTRAL_V03_GENERATION)[1] == [" Ans 2</s>"]
    with pytest.raises(DataError, match="leaves out turn 1"):
        spoken(MISTRAL_V03, TALK, template=MISTRAL_V03_GENERATION)


def test_preference_pairs_under_a_template_that_moves_the_system_prompt() -> None:
    row = {"prompt": TALK[:-1], "chosen": TALK[-1:], "rejected": [{"role": "assistant", "content": "Bad"}]}
    task, tokens = registry.load_plug_in("task", "preference"), tokenizer(MISTRAL_V03_LAST_USER)
    task = task.bound(task.Settings(template=MISTRAL_V03_LAST_USER.template))
    made = task.examples(tiny.documents([row]), tokens, 256)
    prompt = "<s>[INST] Secret Q1[/INST] Ans 1</s>[INST] Be kind.\n\nOpen Q2[/INST]"
    for side, answer in ((made, " Ans 2</s>"), (made.second, " Bad</s>")):
        assert tokens.decode(side.ids) == prompt + answer
        assert learnt(side, tokens) == answer


def test_a_pair_whose_answers_are_several_turns_is_refused() -> None:
    row = {"prompt": TALK[:2], "chosen": TALK[2:], "rejected": TALK[4:]}
    with pytest.raises(DataError, match="chosen: 3 turns follow the prompt; one turn of the assistant is compared with another"):
        registry.load_plug_in("task", "preference").examples(tiny.documents([row]), tokenizer(CHATML), 256)


CHATML_CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.tool_calls %}{% for call in m.tool_calls %}"
    "{{ '<tool_call>' + call.function | tojson + '</tool_call>' }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING: Turns = [
    TALK[1],
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nAns 1"},
    TALK[3],
    {"role": "assistant", "content": "<think>\nso\n</think>\n\nAns 2"},
]


def test_thoughts_that_a_template_takes_from_earlier_answers() -> None:
    assert spoken(QWEN3, THINKING)[1] == ["Ans 1<|im_end|>", "<think>\nso\n</think>\n\nAns 2<|im_end|>"]
    assert spoken(DEEPSEEK_R1, THINKING)[1] == ["\n\nAns 1</s>", "\n\nAns 2</s>"]


def test_the_default_system_prompt_of_a_template_is_read() -> None:
    text, found = spoken(QWEN2, TALK[1:])
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert found == list(QWEN2.spoken)


def test_tools_are_read_and_calls_are_learnt() -> None:
    """Mistral puts the tools in front of the last user's turn, wherever that is."""
    talk = [
        TALK[1],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "12 degrees", "tool_calls": None},
        {"role": "assistant", "content": "It is mild.", "tool_calls": None},
    ]
    text, found = spoken(MISTRAL_V03_LAST_USER, talk, tools=[WEATHER])
    assert text.startswith("<s>[AVAILABLE_TOOLS] [{")
    assert found == ['[TOOL_CALLS] [{"name": "weather", "arguments": {"place": "Oslo"}}]</s>', " It is mild.</s>"]
    task, tokens = registry.load_plug_in("task", "conversation"), tokenizer(MISTRAL_V03_LAST_USER)
    task = task.bound(task.Settings(template=MISTRAL_V03_LAST_USER.template))
    made = task.examples(tiny.documents([{"messages": talk, "tools": [WEATHER]}]), tokens, 512)
    assert (tokens.decode(made.ids), learnt(made, tokens)) == (text, "".join(found))


def test_tools_that_a_template_leaves_out_are_said() -> None:
    with pytest.raises(DataError, match=r"^task\.template: the chat template leaves out the tools; give one that writes them$"):
        spoken(CHATML, TALK, tools=[WEATHER])
    assert spoken(CHATML, TALK, tools=[])[1] == list(CHATML.spoken)


def test_a_template_for_turns_is_not_passed_over_where_answers_are_texts() -> None:
    task = registry.load_plug_in("task", "preference")
    row = {"prompt": "Secret Q1", "chosen": "Good", "rejected": "Bad"}
    assert task.bound(task.Settings()).problem(row) == ""
    said = task.bound(task.Settings(template=CHATML.template)).problem(row)
    assert said == "task.template is for answers given as turns ({role, content}), and these are texts"


@pytest.mark.parametrize("shape", [GEMMA, MISTRAL_V01])
def test_a_refused_system_prompt_is_one_line(shape: Shape) -> None:
    with pytest.raises(DataError, match=r"^task\.template: refuses the conversation that begins with 'Be kind\.': .*$") as caught:
        spoken(shape, TALK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for m in messages %}{% if m.role != 'system' %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
            "leaves out turn 1 (system)",
        ),
        (
            "{{ messages[0].content + messages[1].content + messages[2].content + messages[4].content }}",
            "leaves out turn 4 (user)",
        ),
        (
            "{% for m in messages %}{{ m.content if m.role != 'assistant' else 'yes' }} {% endfor %}",
            "leaves out or rewrites turn 3",
        ),
        (
            "{% for m in messages %}{{ m.content | upper if m.role == 'tool' else m.content | length }} {% endfor %}",
            "rewrites turn 3",
        ),
        ("nothing", "leaves out turn 1 (system)"),
        ("{{ nobody.knows }}", "refuses the conversation that begins with 'Be kind.': 'nobody' is undefined"),
        ("{{ messages['x'] }}{{ [][1] }}{{ 1 // 0 }}", "refuses the conversation"),
    ],
)
def test_a_template_that_cannot_be_split_says_so(template: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        spoken(CHATML, TALK, template=template)
    assert str(caught.value).startswith("task.template: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_a_system_column_and_messages() -> None:
    task = registry.load_plug_in("task", "conversation")
    task = task.bound(task.Settings(template=CHATML.template))
    tokens = tokenizer(CHATML)
    made = task.examples(
        tiny.documents([{"system": "Be kind.", "messages": TALK[1:]}, {"system": "Be kind.", "messages": TALK}]), tokens, 512
    )
    assert tokens.decode(made.subset([0]).ids) == tokens.decode(made.subset([1]).ids) == CHATML.text
    with pytest.raises(DataError, match="system is not the system turn of the messages"):
        task.examples(tiny.documents([{"system": "Be rude.", "messages": TALK}]), tokens, 512)


@pytest.mark.parametrize(
    ("tools", "said"), [("[", "tools is no JSON"), ("3", "no list of descriptions"), ('["x"]', "no list of")]
)
def test_tools_that_are_none(tools: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        registry.load_plug_in("task", "conversation").examples(
            tiny.documents([{"messages": TALK, "tools": tools}]), tokenizer(CHATML), 99
        )


def test_several_templates_under_names() -> None:
    class Several:
        chat_template: ClassVar[Any] = {"default": "a", "tool_use": "b"}

    assert (template_of(None, Several()), template_of(None, Several(), [WEATHER])) == ("a", "b")
    Several.chat_template = {"rag": "c"}
    with pytest.raises(ConfigError, match=r"^task\.template: .*none called default \(it has: rag\)$"):
        template_of(None, Several())


WORDS = st.text(st.sampled_from("ab \n.é東😀<|>{}%"), min_size=1, max_size=12).filter(str.strip)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, min_size=4, max_size=4), st.booleans())
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_said_is_found(answers: list[str], questions: list[str], system: bool) -> None:
    """Of random texts: each answer as the template writes it, then its end mark, and never a word of a user's."""
    talk: Turns = []
    for question, answer in zip(questions, answers, strict=False):
        talk += [{"role": "user", "content": f"Q{question}"}, {"role": "assistant", "content": answer}]
    for name in ("chatml", "llama3", "mistral_v03_last_user", "phi3", "zephyr", "vicuna", "qwen3"):
        shape = SHAPES[name]
        said = [*TALK[:1], *talk] if system and shape.system else talk
        _, found = spoken_cached(name, said)
        assert len(found) == len(answers)
        for answer, part in zip(answers, found, strict=True):
            assert answer.strip() in part
            assert "Q" not in part


TOKENIZERS: dict[str, Any] = {}


def spoken_cached(name: str, talk: Turns) -> tuple[str, list[str]]:
    tokens = TOKENIZERS.setdefault(name, tokenizer(SHAPES[name]))
    text, spans = assistant_spans(talk, tokens, SHAPES[name].template)
    return text, [text[start:stop] for start, stop in spans]
