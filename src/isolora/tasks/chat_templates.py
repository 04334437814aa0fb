"""Chat templates: a conversation as text, and which of its characters the assistant says.

A conversation is rendered once, as a whole, since many templates write earlier turns in the light of later ones (Mistral's puts
the system prompt into the last user turn, Qwen's drops the thoughts of earlier answers). Templates with `{% generation %}` say
themselves what is the assistant's. In all others the turns are found by marks: each content is rendered with an invisible
character at either end, and the marks are taken out again; what is left must be the rendering without marks, or nothing is
trained on. The header in front of an answer and the end mark behind it are what the same template writes when the conversation
stops there; a template without a generation prompt writes its header in front of any answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

from isolora.errors import ConfigError, DataError, in_brief
from isolora.json_types import JsonMapping, JsonObject
from isolora.tasks.pairs import Ids, Pair
from isolora.tasks.prompt_templates import FAILURES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[JsonMapping]
Span = tuple[int, int]
"""First character, character after the last."""
ROLES = ("system", "developer", "user", "assistant", "tool")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARK_THEM = "mark the assistant's turns with {% generation %} ... {% endgeneration %}"
THOUGHTS_END = "</think>"
FIRST_MARK, LAST_MARK = 0xF0000, 0xFFFFD
"""Marks are characters for private use (Unicode plane 15), two for each turn."""
ANSWER = chr(LAST_MARK)
"""Stands for an answer that is still to come; no turn is marked with it."""
MARKS = re.compile(f"([{chr(FIRST_MARK)}-{chr(LAST_MARK)}])")


@cache
def plain_template() -> str:
    """For tokenizers that have none: `User: ...` and `Assistant: ...`, a line each."""
    return (resources.files("isolora") / "assets" / "templates" / "chat.jinja").read_text(encoding="utf-8")


def template_of(given: str | None, tokenizer: PreTrainedTokenizerBase, tools: object = None) -> str:
    """The template asked for, else the tokenizer's own, else the plain one. Of several that a tokenizer has under names, that for
    tools where there are some. Raises ConfigError where none of those is the default."""
    own = given or getattr(tokenizer, "chat_template", None) or plain_template()
    if not isinstance(own, Mapping):
        return str(own)
    name = "tool_use" if tools and "tool_use" in own else "default"
    if name not in own:
        raise ConfigError(f"task.template: the tokenizer has several and none called default (it has: {', '.join(own)})")
    return str(own[name])


def conversation_problem(messages: object, name: str = "messages") -> str:
    """What is wrong with a conversation, in a few words; empty where nothing is."""
    if not isinstance(messages, list) or not messages:
        return f"{name} holds no list of turns like {{role: user, content: ...}}"
    for number, turn in enumerate(messages, 1):
        if not _is_turn(turn):
            return f"{name}: turn {number} is not {{role, content}} with a role of {', '.join(ROLES)}"
        if turn["role"] == "assistant" and not (turn.get("content") or "").strip() and not turn.get("tool_calls"):
            return f"{name}: turn {number}, the assistant's, is empty"
    roles = [turn["role"] for turn in messages if turn["role"] not in ("system", "developer")]
    if roles[:1] == ["assistant"]:
        return f"{name}: the conversation starts with the assistant; a user's turn has to come first"
    return ""


def render(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str, answer_next: bool = False, tools: object = None
) -> str:
    """The conversation as one text; answer_next: up to where the assistant goes on. Raises DataError where that is refused."""
    text = _rendered(messages, tokenizer, template, tools, answer_next)[0]
    return _with_header(text, messages, tokenizer, template, tools) if answer_next else text


def assistant_tokens(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str, context: int = 0, tools: object = None
) -> tuple[Ids, list[bool]]:
    """(token ids, whether each is the assistant's) of a conversation whose first `context` turns are only read. Raises as
    `assistant_spans` does."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError("model: chat templates need a fast tokenizer (tokenizer.json)")
    text, spans = assistant_spans(messages, tokenizer, template, context, tools)
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = made["offset_mapping"]
    # A token that stands for no character of its own, such as a word's beginning, counts as the character that follows it.
    return made["input_ids"], [any(a < stop and max(b, a + 1) > start for start, stop in spans) for a, b in places]


def prompt_and_answer(prompt: Messages, answer: Messages, tokenizer: PreTrainedTokenizerBase, template: str) -> Pair:
    """All that stands in front of an answer, as the template writes it with this answer, and the answer with its end mark."""
    text, spans = assistant_spans([*prompt, *answer], tokenizer, template, len(prompt))
    start, stop = spans[0][0], spans[-1][1]
    return Pair("", text[:start], text[start:stop], is_chat=True)


def assistant_spans(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str, context: int = 0, tools: object = None
) -> tuple[str, list[Span]]:
    """(text of a conversation, spans of what the assistant says in it, end marks included, behind the first `context` turns).

    Raises DataError for a template that refuses the conversation, leaves a turn out, or does not let the turns be told apart.
    """
    scene = _Scene(messages, tokenizer, template, tools)
    if GENERATION.search(template):
        spans = scene.spans_by_generation(context)
    else:
        scene.refuse_another_order()
        spans = [scene.span(turn) for turn in range(context, len(messages)) if messages[turn]["role"] == "assistant"]
    if not spans:
        raise DataError(f"task.template: the chat template shows nothing of what the assistant says; {MARK_THEM}")
    return scene.whole.text, spans


def common_prefix(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items two sequences have in common at their beginning."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def _with_header(text: str, messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str, tools: object) -> str:
    """The text that an answer follows, with what a template without a generation prompt writes in front of any answer, such as
    "assistant:"; else a model would have to say its own header. Spaces stay with the answer, as tokens hold them with a word."""
    if GENERATION.search(template):  # says itself where the assistant begins
        return text
    answer = {"role": "assistant", "content": ANSWER}
    try:
        if not _rendered(messages, tokenizer, template, tools)[0].startswith(text):
            return text
        answered = _rendered([*messages, answer], tokenizer, template, tools)[0].partition(ANSWER)[0].rstrip(" ")
    except DataError:
        return text
    return answered if answered.startswith(text.removesuffix(tokenizer.eos_token or "")) else text


class _Marked(NamedTuple):
    """A rendering, and where each turn's content begins and ends in it, for the turns whose marks are in it."""

    text: str
    starts: dict[int, int]
    ends: dict[int, int]


class _Marking(NamedTuple):
    """Which turns are marked, and whether at the beginning too: some templates look at how a content begins or ends."""

    roles: tuple[str, ...]
    at_start: bool


MARKINGS = tuple(_Marking(roles, at_start) for roles in (ROLES, ("assistant",)) for at_start in (True, False))
UNMARKED = _Marking((), False)


class _Scene:
    """A conversation, its template, and the whole of it as rendered."""

    def __init__(self, messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str, tools: Any) -> None:
        self.messages, self.tokenizer, self.template, self.tools = messages, tokenizer, template, tools
        text = render(messages, tokenizer, template, tools=tools)
        if MARKS.search(text):
            raise DataError("messages: holds characters for private use (U+F0000 to U+FFFFD), which mark turns here")
        self.marking, self.whole = self._faithful(text)
        self._refuse_lost_turns()
        if tools and render(messages, tokenizer, template) == text:
            raise DataError("task.template: the chat template leaves out the tools; give one that writes them")

    def _faithful(self, text: str) -> tuple[_Marking, _Marked]:
        """The first way of marking that changes nothing else in the text."""
        for marking in MARKINGS:
            try:
                found = self._marked(len(self.messages), marking)
            except DataError:  # the template looks at a content and refuses one with marks
                continue
            if found.text == text:
                return marking, found
        return UNMARKED, _Marked(text, {}, {})

    def _marked(self, count: int, marking: _Marking, answer_next: bool = False) -> _Marked:
        """The first `count` turns."""
        turns = [
            _with_marks(turn, number, marking.at_start) if turn["role"] in marking.roles else turn
            for number, turn in enumerate(self.messages[:count])
        ]
        return _without_marks(render(turns, self.tokenizer, self.template, answer_next, self.tools))

    def _refuse_lost_turns(self) -> None:
        for number, turn in enumerate(self.messages):
            marked = turn["role"] in self.marking.roles and (turn.get("content") or "").strip()
            if marked and turn["role"] != "assistant" and number not in self.whole.ends:
                hint = "; put its text into the first user's turn" if turn["role"] == "system" else ""
                raise DataError(f"task.template: the chat template leaves out turn {number + 1} ({turn['role']}){hint}")

    def refuse_another_order(self) -> None:
        """Where an answer begins and ends is read off the turns beside it. The system's text may stand anywhere."""
        order = [turn for turn in sorted(self.whole.ends) if self.messages[turn]["role"] != "system"]
        for one, other in pairwise(order):
            if self.whole.ends[other] < self.whole.ends[one]:
                raise DataError(f"task.template: the chat template puts turn {other + 1} before turn {one + 1}; {MARK_THEM}")

    def spans_by_generation(self, context: int) -> list[Span]:
        """As the template itself says. Those of the turns that are only read come first."""
        spans = _rendered(self.messages, self.tokenizer, self.template, self.tools, track=True)[1]
        read = self.messages[:context]
        if not any(turn["role"] == "assistant" for turn in read):
            return spans
        return spans[len(_rendered(read, self.tokenizer, self.template, self.tools, track=True)[1]) :]

    def span(self, turn: int) -> Span:
        """An assistant's turn, from behind its header to its end mark."""
        start, end = self._start(turn), self.whole.ends.get(turn)
        if start is None or end is None:
            raise DataError(f"task.template: the chat template leaves out or rewrites turn {turn + 1} (assistant); {MARK_THEM}")
        return start, end + self._end_mark(turn, end)

    def _start(self, turn: int) -> int | None:
        """Behind what the template writes for the assistant to go on from; else where the content begins."""
        content, before = self.whole.starts.get(turn), self.whole.ends.get(turn - 1)
        prompt = self._part(turn, answer_next=True)
        if prompt is None or before is None or turn - 1 not in prompt.ends:
            return content
        header, here = prompt.text[prompt.ends[turn - 1] :], self.whole.text[before:content]
        alike = before + common_prefix(header, here if content else self.whole.text[before:])
        if alike == before + len(header) or (content and not self.whole.text[alike:content].strip()):
            return alike
        return content

    def _end_mark(self, turn: int, end: int) -> int:
        """Characters of the end mark behind a turn: what follows it where the conversation stops there, and here too."""
        part = self._part(turn + 1)
        if part is None or turn not in part.ends:
            return 0
        follows, here = part.text[part.ends[turn] :], self.whole.text[end:]
        if here.startswith(follows):
            return len(follows.rstrip() or follows)  # white space behind an end mark separates turns
        alike = follows[: common_prefix(follows, here)]
        return max(
            (alike.rfind(mark) + len(mark) for mark in self._special_tokens() if mark in alike), default=_last_space(alike)
        )

    def _part(self, count: int, answer_next: bool = False) -> _Marked | None:
        """The first turns alone; None where the template refuses them."""
        if count == len(self.messages) and not answer_next:
            return self.whole
        try:
            return self._marked(count, self.marking, answer_next)
        except DataError:
            return None

    def _special_tokens(self) -> list[str]:
        return [str(token) for token in getattr(self.tokenizer, "added_tokens_encoder", ())]


def _last_space(text: str) -> int:
    """Where the last white space begins that stands behind something; 0 where none does."""
    found = list(re.finditer(r"(?<=\S)\s+", text))
    return found[-1].start() if found else 0


def _is_turn(turn: object) -> bool:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        return False
    content, calls = turn.get("content"), turn.get("tool_calls")
    return isinstance(content, str) or (content is None and isinstance(calls, list) and bool(calls))


def _with_marks(turn: JsonMapping, number: int, at_start: bool) -> JsonObject:
    """A turn with marks within its content, or within the names of the tools that it calls."""
    start, end = (chr(FIRST_MARK + 2 * (number % 30000) + side) for side in (0, 1))

    def marked(text: object) -> Any:
        if not isinstance(text, str) or not (body := text.strip()):
            return text
        before, _, after = text.partition(body)
        if at_start:
            thoughts, ended, answer = body.rpartition(THOUGHTS_END)  # which templates may take away
            space = answer[: len(answer) - len(answer.lstrip())]
            body = f"{start}{thoughts}{ended}{space}{start if ended else ''}{answer[len(space) :]}"
        return f"{before}{body}{end}{after}"

    def called(call: object) -> Any:
        if not isinstance(call, Mapping):
            return call
        return {
            name: called(part) if name == "function" else marked(part) if name == "name" else part for name, part in call.items()
        }

    calls = {"tool_calls": [called(call) for call in turn["tool_calls"]]} if turn.get("tool_calls") else {}
    return {**turn, "content": marked(turn.get("content")), **calls}


def _without_marks(marked: str) -> _Marked:
    kept, length, starts, ends = [], 0, dict[int, int](), dict[int, int]()
    for piece in MARKS.split(marked):
        if MARKS.fullmatch(piece):
            number, is_end = divmod(ord(piece) - FIRST_MARK, 2)
            if is_end:
                ends[number] = length
            else:
                starts.setdefault(number, length)
        else:
            kept.append(piece)
            length += len(piece)
    return _Marked("".join(kept), starts, ends)


def _rendered(
    messages: Messages,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    tools: object,
    answer_next: bool = False,
    track: bool = False,
) -> tuple[str, list[Span]]:
    """(text, spans that `{% generation %}` marks)."""
    options = {"add_generation_prompt": answer_next, "return_assistant_tokens_mask": track, **tokenizer.special_tokens_map}
    with _refusals(messages):
        (text,), spans = render_jinja_template(
            [without_nulls(messages)], tools=without_nulls(tools) or None, chat_template=template, **options
        )
    return text, spans[0] if spans else []


@contextmanager
def _refusals(messages: Messages) -> Iterator[None]:
    try:
        yield
    except FAILURES as failure:
        begins = MARKS.sub("", str(messages[0].get("content"))[:40]) if messages else ""
        problem = in_brief(failure)
        raise DataError(f"task.template: refuses the conversation that begins with {begins!r}: {problem}") from None


def without_nulls(value: object) -> Any:
    """Without keys that only other turns or other tools have, which tables fill with nulls."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list | tuple) else value
