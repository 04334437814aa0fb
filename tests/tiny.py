"""Tiny random models, examples and runs for the tests; made on the fly, no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from isolora import registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse
from isolora.ledger import GROUPS, PHASES, TERMS, Ledger
from isolora.store import Point
from isolora.tasks.base import Examples
from isolora.tasks.causal_lm import next_tokens

if TYPE_CHECKING:
    from isolora.runs.prepared import RunExamples
    from isolora.training.loop import Loop
    from isolora.training.stack import Stack

VOCABULARY = 61
LLAMA = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
BERT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
BLOOM = {"hidden_size": 16, "n_layer": 2, "n_head": 2}
BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
CHAT = (
    "{% for turn in messages %}w5{{ turn.role[0] }} {{ turn.content }} w59 {% endfor %}"
    "{% if add_generation_prompt %}w5a {% endif %}"
)
"""A chat template in the tokenizer's words, that does not mark what the assistant says."""
COEFFICIENTS = np.zeros((len(PHASES), len(GROUPS), TERMS))
COEFFICIENTS[:3, -1, :5] = [0.0, 10.0, 1.0, 5.0, 0.0]
LEDGER = Ledger(
    coefficients=COEFFICIENTS,
    trainable_parameters=7,
    body_parameters=11,
    model_parameters=13,
)


def llama(**changes: Any) -> Any:
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=0.2, **(LLAMA | changes))
    return seeded(LlamaForCausalLM, config)


def gpt2(**changes: Any) -> Any:
    return seeded(GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, initializer_range=0.2, **(GPT2 | changes)))


def bert(**changes: Any) -> Any:
    return seeded(BertForMaskedLM, BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **(BERT | changes)))


def bert_classifier(**changes: Any) -> Any:
    return seeded(BertForSequenceClassification, BertConfig(vocab_size=VOCABULARY, initializer_range=0.2, **(BERT | changes)))


def mistral() -> Any:
    return seeded(MistralForCausalLM, MistralConfig(vocab_size=VOCABULARY, initializer_range=0.2, **LLAMA))


def mixtral() -> Any:
    return seeded(MixtralForCausalLM, MixtralConfig(vocab_size=VOCABULARY, initializer_range=0.2, num_local_experts=4, **LLAMA))


def bloom() -> Any:
    return seeded(BloomForCausalLM, BloomConfig(vocab_size=VOCABULARY, initializer_range=0.2, **BLOOM))


def roberta_classifier() -> Any:
    return seeded(RobertaForSequenceClassification, RobertaConfig(vocab_size=VOCABULARY, initializer_range=0.2, **BERT))


def roberta_questions() -> Any:
    return seeded(RobertaForQuestionAnswering, RobertaConfig(vocab_size=VOCABULARY, initializer_range=0.2, **BERT))


def bart() -> Any:
    return seeded(BartForConditionalGeneration, BartConfig(vocab_size=VOCABULARY, init_std=0.2, **BART))


def t5() -> Any:
    return seeded(T5ForConditionalGeneration, T5Config(vocab_size=VOCABULARY, **T5))


MODELS = {"llama": llama, "gpt2": gpt2, "bert": bert, "bert_classifier": bert_classifier}

ARCHITECTURES = {
    **MODELS,
    "mistral": mistral,
    "mixtral": mixtral,
    "bloom": bloom,
    "bart": bart,
    "t5": t5,
    "roberta_classifier": roberta_classifier,
    "roberta_questions": roberta_questions,
}


def seeded(kind: Any, config: Any) -> Any:
    torch.default_generator.manual_seed(7)
    return kind(config).eval()


def tokenizer(frame: str = "$A", **special: str) -> Any:
    """A word-level tokenizer of w2 to w60; frame: what it puts around a text, such as "w2 $A w60"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    around = [(word, words[word]) for word in frame.split() if word != "$A"]
    made.post_processor = processors.TemplateProcessing(single=frame, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", **special)


def save(folder: Path, model: Any, **special: str) -> str:
    """A model's folder with a word-level tokenizer, as `from_pretrained` wants it; special: its tokens, such as eos_token."""
    tokenizer(**special).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def ids(rows: int = 3, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Entries from 2 on: 0 is padding and 1 unknown."""
    return torch.randint(2, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def examples(lengths: Sequence[int], seed: int = 0) -> Examples:
    """Texts in which most words determine the next one, so that there is something to learn; with causal labels."""
    rng = np.random.default_rng(seed)
    parts = []
    for length in lengths:
        part = [int(rng.integers(2, VOCABULARY))]
        while len(part) < length:
            part.append(2 + (part[-1] * 3) % (VOCABULARY - 2) if rng.random() < 0.8 else int(rng.integers(2, VOCABULARY)))
        parts.append(part)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = np.concatenate(parts).astype(np.int32)
    return next_tokens(Examples(flat, flat, starts))


def run(seed: int = 0, method: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    budget = {} if {"tokens", "steps", "epochs", "flops"} & training.keys() else {"steps": 6}
    given = {"batch_tokens": 48, "learning_rate": 1e-2, "warmup_steps": 2, "evaluate_from": 100, **budget, **training}
    own = method if method and "name" in method else {"rank": 4, **(method or {})}
    return parse(RunConfig, {"seed": seed, "method": own, "training": given})


def texts(path: Path, count: int = 60) -> Path:
    """A text file whose paragraphs are learnable documents of 5 to 12 words."""
    rows = [examples([5 + seed % 8], seed=seed).ids for seed in range(count)]
    path.write_text("\n\n".join(" ".join(f"w{entry}" for entry in row) for row in rows) + "\n")
    return path


def from_files(folder: Path, **changes: Any) -> RunConfig:
    """A run whose base model and texts lie in `folder`; `changes` are those of `run`."""
    model = save(folder / "model", llama())
    data = DataConfig(source=str(texts(folder / "texts.txt")), eval_examples=5)
    return run(**changes).model_copy(update={"model": model, "data": data})


def json_lines(path: Path, rows: Iterable[Any]) -> str:
    """Write a file of rows; one that is a string stands as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def from_rows(folder: Path, kind: str, task: Any, rows: Sequence[dict[str, Any]], **changes: Any) -> RunConfig:
    """A run of a task (its name, or a mapping) on one of ARCHITECTURES; `rows` hold its columns; texts end in w60."""
    model = save(folder / "model", ARCHITECTURES[kind](), eos_token="w60")
    data = DataConfig(source=json_lines(folder / "rows.jsonl", rows), eval_examples=5)
    return run(**changes).model_copy(update={"model": model, "data": data, "task": TaskConfig.model_validate(task)})


def documents(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows as a task is given them."""
    from isolora.data import Documents

    return Documents(pa.Table.from_pylist(list(rows)), None)


def words(count: int, seed: int) -> str:
    """A learnable text of so many words."""
    return " ".join(f"w{entry}" for entry in examples([count], seed).ids)


def stack(
    configs: Sequence[RunConfig],
    points: list[Point] | None = None,
    model: Any = None,
    train: Examples | None = None,
    held_out: Examples | None = None,
    ledger: Ledger = LEDGER,
) -> Stack:
    """A stack on a tiny LLaMA; its points are added to `points`."""
    from accelerate import Accelerator

    from isolora.data import Documents
    from isolora.models import Base
    from isolora.runs.member import Member
    from isolora.runs.prepared import HeldOut, RunExamples
    from isolora.training.stack import Stack

    rng = np.random.default_rng(1)
    train = train or examples(rng.integers(4, 17, 40).tolist())
    task, none = registry.load_plug_in("task", "causal-lm"), Documents(pa.table({"text": []}), "{text}")
    on = RunExamples(train, HeldOut(task, held_out or examples([5, 9, 12], seed=2), none), {}, {})
    method = registry.load_plug_in("method", configs[0].method.name)
    settings = [method.settings(config.method.fields()) for config in configs]
    attached = method.attach(model or llama(), settings, [config.seed for config in configs])
    members = [Member(config, attached.groups(k), train, ledger) for k, config in enumerate(configs)]
    base = Base("tiny", attached.model, tokenizer(), 0, 0, 64)
    made = Stack(base, on, attached, members, [f"run-{k}" for k in range(len(configs))], Accelerator(cpu=True))
    made.written = [] if points is None else points  # type: ignore[attr-defined]
    return made


def loop(
    stack: Stack,
    folder: Path,
    seconds: float = 1e9,
    on_step: Callable[[Stack], None] = lambda stack: None,
    should_prune: Callable[[Point], bool] = lambda point: False,
) -> Loop:
    """A loop whose points go to the stack's list; seconds: between checkpoints."""
    from isolora.runs.observer import Observer
    from isolora.training.checkpoint import Checkpointer
    from isolora.training.evaluator import Evaluator
    from isolora.training.loop import Loop
    from isolora.training.training_run import Pruner

    class Watching(Observer):
        def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
            stack.written.extend(points)  # type: ignore[attr-defined]

        def after_step(self, stack: Stack) -> None:
            on_step(stack)

    evaluator = Evaluator(stack.members[0].config, stack.base, stack.attached)
    return Loop(stack, evaluator, Checkpointer(folder, seconds), [Watching(), Pruner(should_prune)])


def train(
    stack: Stack,
    folder: Path,
    seconds: float = 1e9,
    on_step: Callable[[Stack], None] = lambda stack: None,
    drive: Any = None,
) -> None:
    """The stack to the ends of its budgets."""
    loop(stack, folder, seconds, on_step).run(drive)


def checkpoint(stack: Stack, folder: Path) -> None:
    loop(stack, folder).checkpointer.save(stack)


def identity(config: RunConfig) -> str:
    from isolora.runs.workspace import Workspace

    return Workspace().identity(config)


def prepared(config: RunConfig, **data: Any) -> RunExamples:
    """A run's examples, with other settings of its data."""
    from isolora.runs.prepared import PreparedRun

    with PreparedRun.load(config.model_copy(update={"data": config.data.model_copy(update=data)})) as run:
        return run.examples
