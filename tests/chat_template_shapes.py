# ruff: noqa: E501
"""Shapes of chat templates in the field, written anew: how a conversation is put and what of it the assistant says.

Each shape says what is expected of TALK (a system prompt, two questions, two answers) where it can be written.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

Turns = list[dict[str, Any]]
TALK: Turns = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Secret Q1"},
    {"role": "assistant", "content": "Ans 1"},
    {"role": "user", "content": "Open Q2"},
    {"role": "assistant", "content": "Ans 2"},
]


class Shape(NamedTuple):
    """template: without `{% generation %}`; text: what TALK becomes; spoken: what is trained on of it."""

    template: str
    text: str
    spoken: tuple[str, ...]
    special: tuple[str, ...] = ()
    system: bool = True


CHATML = Shape(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nSecret Q1<|im_end|>\n<|im_start|>assistant\nAns 1<|im_end|>\n"
    "<|im_start|>user\nOpen Q2<|im_end|>\n<|im_start|>assistant\nAns 2<|im_end|>\n",
    ("Ans 1<|im_end|>", "Ans 2<|im_end|>"),
    ("<|im_start|>", "<|im_end|>"),
)
QWEN2 = Shape(  # a system prompt of its own where none is given
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    CHATML.text,
    CHATML.spoken,
    CHATML.special,
)
LLAMA2 = Shape(
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nSecret Q1 [/INST] Ans 1 </s><s>[INST] Open Q2 [/INST] Ans 2 </s>",
    (" Ans 1 </s>", " Ans 2 </s>"),
)
LLAMA3 = Shape(
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nSecret Q1"
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nAns 1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "Open Q2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nAns 2<|eot_id|>",
    ("Ans 1<|eot_id|>", "Ans 2<|eot_id|>"),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
MISTRAL_V01 = Shape(  # refuses a system prompt
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ m['content'] + eos_token + ' ' }}{% endif %}{% endfor %}",
    "<s>[INST] Secret Q1 [/INST]Ans 1</s> [INST] Open Q2 [/INST]Ans 2</s> ",
    ("Ans 1</s>", "Ans 2</s>"),
    ("[INST]", "[/INST]"),
    system=False,
)
MISTRAL_V03 = Shape(  # the system prompt stands in the last user's turn: the template of the issue, letter by letter
    "{%- if messages[0]['role']=='system' %}{%- set s=messages[0]['content'] %}{%- set ms=messages[1:] %}{%- else %}"
    "{%- set ms=messages %}{%- endif %}{{ bos_token }}{%- for m in ms %}{%- if m['role']=='user' %}"
    "{{ '[INST] ' + (s + '\n\n' if loop.last and s is defined else '') + m['content'] + '[/INST]' }}"
    "{%- else %}{{ ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}",
    "<s>[INST] Secret Q1[/INST] Ans 1</s>[INST] Open Q2[/INST] Ans 2</s>",
    (" Ans 1</s>", " Ans 2</s>"),
    ("[INST]", "[/INST]"),
    system=False,
)
MISTRAL_V03_LAST_USER = Shape(  # as mistralai's own file: the last turn of a user, whether or not an answer follows
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}"
    "{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
    "{%- for m in rest %}{%- if m['role'] == 'user' %}"
    "{%- if tools is not none and m == users[-1] %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
    "{%- if m == users[-1] and system_message is defined %}{{- '[INST] ' + system_message + '\n\n' + m['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}"
    "{%- elif m.tool_calls is defined and m.tool_calls is not none %}{{- '[TOOL_CALLS] [' }}"
    "{%- for call in m.tool_calls %}{{- call.function | tojson }}{{- ', ' if not loop.last else '' }}{%- endfor %}{{- ']' + eos_token }}"
    "{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] | trim + eos_token }}"
    "{%- elif m['role'] == 'tool' %}{{- '[TOOL_RESULTS] {\"content\": ' + m.content | string + '}[/TOOL_RESULTS]' }}"
    "{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}{%- endif %}{%- endfor %}",
    "<s>[INST] Secret Q1[/INST] Ans 1</s>[INST] Be kind.\n\nOpen Q2[/INST] Ans 2</s>",
    (" Ans 1</s>", " Ans 2</s>"),
    ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
GEMMA = Shape(
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "<s><start_of_turn>user\nSecret Q1<end_of_turn>\n<start_of_turn>model\nAns 1<end_of_turn>\n"
    "<start_of_turn>user\nOpen Q2<end_of_turn>\n<start_of_turn>model\nAns 2<end_of_turn>\n",
    ("Ans 1<end_of_turn>", "Ans 2<end_of_turn>"),
    ("<start_of_turn>", "<end_of_turn>"),
    system=False,
)
PHI3 = Shape(  # ends the text, or opens the answer, behind the last turn
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "<|system|>\nBe kind.<|end|>\n<|user|>\nSecret Q1<|end|>\n<|assistant|>\nAns 1<|end|>\n"
    "<|user|>\nOpen Q2<|end|>\n<|assistant|>\nAns 2<|end|>\n</s>",
    ("Ans 1<|end|>", "Ans 2<|end|>\n</s>"),
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
ZEPHYR = Shape(
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}\n{% endif %}{% endfor %}",
    "<|system|>\nBe kind.</s>\n<|user|>\nSecret Q1</s>\n<|assistant|>\nAns 1</s>\n<|user|>\nOpen Q2</s>\n<|assistant|>\nAns 2</s>\n",
    ("Ans 1</s>", "Ans 2</s>"),
)
DIALOGPT = Shape(  # nothing but ends
    "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "Be kind.</s>Secret Q1</s>Ans 1</s>Open Q2</s>Ans 2</s>",
    ("Ans 1</s>", "Ans 2</s>"),
)
VICUNA = Shape(  # no special token but the end
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "Be kind. USER: Secret Q1 ASSISTANT: Ans 1</s>USER: Open Q2 ASSISTANT: Ans 2</s>",
    (" Ans 1</s>", " Ans 2</s>"),
)
ALPACA = Shape(  # no end mark at all
    "{% for m in messages %}{{ '### ' + m.role | capitalize + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}",
    "### System:\nBe kind.\n\n### User:\nSecret Q1\n\n### Assistant:\nAns 1\n\n### User:\nOpen Q2\n\n### Assistant:\nAns 2\n\n",
    ("Ans 1\n\n", "Ans 2\n\n"),
)
QWEN3 = Shape(  # thoughts of earlier answers are taken away; the last answer gets a place for them
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{%- set content = m.content %}{%- if m.role != 'assistant' %}"
    "{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- else %}{%- set thoughts = '' %}"
    "{%- if '</think>' in content %}{%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last %}{%- if loop.last or thoughts %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    CHATML.text.replace("assistant\nAns 2", "assistant\n<think>\n\n</think>\n\nAns 2"),
    ("Ans 1<|im_end|>", "<think>\n\n</think>\n\nAns 2<|im_end|>"),
    CHATML.special,
)
DEEPSEEK_R1 = Shape(  # thoughts are always taken away, and the model is made to think
    "{% set ns = namespace(system='') %}{%- for m in messages %}{%- if m['role'] == 'system' %}{% set ns.system = m['content'] %}"
    "{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{{ '<|User|>' + m['content'] }}{%- endif %}{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + eos_token }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    "<s>Be kind.<|User|>Secret Q1<|Assistant|>Ans 1</s><|User|>Open Q2<|Assistant|>Ans 2</s>",
    ("Ans 1</s>", "Ans 2</s>"),
    ("<|User|>", "<|Assistant|>"),
)
END_AT_LAST = Shape(  # an end mark of the text behind the last turn alone
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "<|system|>Be kind.<|end|><|user|>Secret Q1<|end|><|assistant|>Ans 1<|end|><|user|>Open Q2<|end|><|assistant|>Ans 2<|end|></s>",
    ("Ans 1<|end|>", "Ans 2<|end|></s>"),
    PHI3.special,
)
HEADERS = Shape(  # no special token and no generation prompt: `assistant:` stands there only with its answer
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "system: Be kind.\nuser: Secret Q1\nassistant: Ans 1\nuser: Open Q2\nassistant: Ans 2\n",
    (" Ans 1\n", " Ans 2\n"),
)
SHAPES = {name.lower(): value for name, value in list(globals().items()) if isinstance(value, Shape)}


def without_prompt(shape: Shape) -> str:
    """The template with an empty generation prompt, as many that are published have none."""
    prompt = r"(\{%-? if (?:loop\.last and )?add_generation_prompt %\}).*?(?=\{%-? (?:else|endif))"
    return re.sub(prompt, r"\1", shape.template, flags=re.DOTALL)


def with_generation(shape: Shape) -> str:
    """The ChatML of training: the template itself says what is the assistant's."""
    assert shape is CHATML
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


MISTRAL_V03_GENERATION = MISTRAL_V03.template.replace(
    "{{ ' ' + m['content'] + eos_token }}", "{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}"
)
