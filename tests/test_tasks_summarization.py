"""Summarization: the loss is the model's own, documents give way to summaries, and padding does not change what is generated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from isolora import registry
from isolora.errors import ConfigError, DataError
from isolora.runs.batches import collate
from isolora.tasks.base import IGNORED, Batch, Examples, padding_id
from isolora.tasks.pairs import special_tokens_around
from isolora.tasks.text_generation import generate_texts

torch.set_num_threads(1)
ROWS = [{"document": tiny.words(5 + 3 * row, row), "summary": tiny.words(2 + row, 9 + row)} for row in range(3)]


def bound(model: Any, **settings: Any) -> Any:
    task = registry.load_plug_in("task", "summarization")
    return task.bound(task.Settings(suffix=" w59 w58", **settings), (), model.config)


def batch_of(examples: Examples) -> Batch:
    return collate(examples, np.arange(len(examples)), np.ones(len(examples), np.float32), 0)


def own_loss(model: Any, batch: Batch) -> Any:
    """What transformers makes of the same rows: its own shift, its own cross-entropy."""
    labels = torch.full_like(batch.input_ids, IGNORED)
    labels.view(-1)[batch.positions] = batch.targets
    if batch.second is not None:
        return model(input_ids=batch.second.input_ids, attention_mask=batch.second.attention_mask, labels=labels).loss
    shifted = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels[:, :-1]], 1)
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=shifted).loss


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mixtral", "bart", "t5"])
def test_the_loss_is_the_models_own(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    task = bound(model)
    examples = task.examples(tiny.documents(ROWS), tiny.tokenizer(eos_token="w60"), 64)
    with torch.no_grad():
        loss, batch = task.loss(model, batch_of(examples)), batch_of(examples)
        assert float(loss.row_losses.sum()) / len(batch.targets) == pytest.approx(float(own_loss(model, batch)), rel=1e-6)
    assert len(batch.targets) == 2 + 3 + 4 + 3, "the words of the summaries and their ends"


def test_a_decoder_reads_the_prompt_and_is_asked_for_the_summary() -> None:
    tokenizer = tiny.tokenizer("w2 $A w60", eos_token="w60")
    examples = bound(tiny.llama()).examples(tiny.documents([{"document": "w5 w6 w7", "summary": "w8 w9"}]), tokenizer, 64)
    assert examples.ids.tolist() == [2, 5, 6, 7, 59, 58, 8, 9, 60]
    assert examples.labels.tolist() == [IGNORED] * 5 + [8, 9, 60, IGNORED]


def test_an_encoder_reads_the_document_and_the_decoder_starts_as_the_model_does() -> None:
    tokenizer = tiny.tokenizer("w3 $A w60", eos_token="w60")
    documents = tiny.documents([{"document": "w5 w6 w7", "summary": "w8 w9"}])
    examples = bound(tiny.bart(), prefix="w50 ").examples(documents, tokenizer, 64)
    assert examples.second is not None
    assert examples.second.ids.tolist() == [3, 50, 5, 6, 7, 59, 58, 60]
    assert (examples.ids.tolist(), examples.labels.tolist()) == ([2, 3, 8, 9], [3, 8, 9, 60])


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_a_system_prompt_stands_in_front_and_outlasts_the_document(kind: str) -> None:
    rows = [{"system": "w40 w41", "document": "w5 w6 w7 w10", "summary": "w8"}]
    made = bound(tiny.ARCHITECTURES[kind](), max_new_tokens=2).examples(tiny.documents(rows), tiny.tokenizer(eos_token="w60"), 9)
    shown = made.ids if made.second is None else made.second.ids
    assert shown.tolist() == ([40, 41, 5, 6, 7, 59, 58, 8, 60] if kind == "llama" else [40, 41, 5, 6, 7, 10, 59, 58])


@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_a_long_document_loses_its_end(kind: str) -> None:
    model, document = tiny.ARCHITECTURES[kind](), " ".join(f"w{entry}" for entry in range(2, 52))
    documents = tiny.documents([{"document": document, "summary": "w8 w9 w10 w11 w12 w13"}])
    examples = bound(model, max_new_tokens=4).examples(documents, tiny.tokenizer(eos_token="w60"), 16)
    labels = examples.labels[examples.labels != IGNORED].tolist()
    assert labels == [8, 9, 10, 11], "a summary that is cut has no end"
    if kind == "llama":
        assert examples.ids.tolist() == [*range(2, 12), 59, 58, 8, 9, 10, 11]
    else:
        assert examples.second.ids.tolist() == [*range(2, 16), 59, 58]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mixtral", "bart", "t5"])
@pytest.mark.parametrize("beams", [1, 3])
def test_padding_changes_nothing_that_is_generated(kind: str, beams: int) -> None:
    model, tokenizer = tiny.ARCHITECTURES[kind](), tiny.tokenizer(eos_token="w60")
    prompts = [tiny.ids(1, length, seed=length)[0].tolist() for length in (3, 11, 7, 5, 9)]
    together = generate_texts(model, prompts, tokenizer, 8, beams)
    assert together == [generate_texts(model, [prompt], tokenizer, 8, beams)[0] for prompt in prompts]
    assert len(set(together)) > 1


@pytest.mark.parametrize(("kind", "words"), [("gpt2", 4), ("bart", 63), ("t5", 70), ("bloom", 70)])
def test_no_more_is_written_than_there_are_positions(kind: str, words: int) -> None:
    prompt = tiny.ids(1, 60)[0].tolist()
    (text,) = generate_texts(tiny.ARCHITECTURES[kind](), [prompt], tiny.tokenizer(), 70)
    assert len(text.split()) <= words


@pytest.mark.parametrize("padding", ["none", "beyond the model"])
def test_no_padding_is_read_as_an_answer(padding: str) -> None:
    """A tokenizer without padding: shorter answers of a batch went on in the texts of entry 0. One with more entries than the
    model has embeddings for, as LLaMA's with a `[PAD]` of its own: an IndexError."""
    model, prompts = tiny.llama(), [[5, 6, 7], [8, 9], [11, 12, 13, 14], [30, 31]]
    end = generate_texts(model, prompts, tiny.tokenizer(), 12)[0].split()[3]
    tokenizer = tiny.tokenizer(eos_token=end)
    wanted = generate_texts(model, prompts, tokenizer, 12)
    alone = [generate_texts(model, [prompt], tokenizer, 12)[0] for prompt in prompts]
    assert wanted == alone
    assert len({len(text.split()) for text in wanted}) > 1, "some answers end before others"
    if padding == "none":
        other = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, unk_token="<unk>", eos_token=end)
    else:
        other = tiny.tokenizer(eos_token=end)
        other.add_special_tokens({"pad_token": "[PAD]"})
        assert other.pad_token_id == tiny.VOCABULARY
    assert generate_texts(model, prompts, other, 12) == wanted
    assert padding_id(other, model) == tokenizer.eos_token_id


def test_the_score_is_of_what_the_prompt_alone_brings_forth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says `7 7 8` whatever it is shown, against two of three summaries."""
    shown: list[list[int]] = []

    def says(model: Any, prompts: list[list[int]], tokenizer: Any, max_new_tokens: int, num_beams: int) -> list[str]:
        shown.extend(prompts)
        return ["w7 w7 w8"] * len(prompts)

    monkeypatch.setattr("isolora.tasks.prompted.generate_texts", says)
    task = bound(tiny.llama(), score_examples=2)
    documents = tiny.documents([{"document": f"w{row}", "summary": text} for row, text in ((5, "w7 w8"), (6, "w7"), (4, "w9"))])
    examples = task.examples(documents, tiny.tokenizer(eos_token="w60"), 32).subset(np.array([2, 0]))
    scores = task.predictions(None, examples, documents, None, None).measures()
    assert shown == [[4, 59, 58], [5, 59, 58]]
    assert scores == pytest.approx({"rougeL": 0.4, "rougeLsum": 0.4, "rouge1": 0.4, "rouge2": 1 / 3})
    assert next(iter(scores)) == "rougeL"


def test_prompts_for_a_person() -> None:
    tokenizer = tiny.tokenizer("w3 $A w60", eos_token="w60")
    assert bound(tiny.llama()).prompt_ids("w5 w6", tokenizer, 64) == [3, 5, 6, 59, 58]
    assert bound(tiny.bart()).prompt_ids("w5 w6", tokenizer, 4) == [3, 59, 58, 60]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [("$A", [], []), ("w2 $A", [2], []), ("$A w60", [], [60]), ("w2 w3 $A w60 w59", [2, 3], [60, 59])],
)
def test_what_a_tokenizer_puts_around_a_text(text: str, before: list[int], after: list[int]) -> None:
    assert special_tokens_around(tiny.tokenizer(text)) == (before, after)


def test_tokenizers_of_other_alphabets_and_of_none() -> None:
    """One of bases knows no `a`; one without words makes nothing of anything, and says so."""

    def letters(*known: str) -> Any:
        made = Tokenizer(models.BPE({name: number for number, name in enumerate(["<s>", *known])}, []))
        made.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 0)])
        return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")

    assert special_tokens_around(letters("C", "G")) == ([0], [0])
    with pytest.raises(ConfigError, match=r"^model: its tokenizer \(.+\) makes no tokens of a text; the files .+ another kind$"):
        special_tokens_around(letters())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"document": "w5", "summary": " "}, "row 2 of those drawn: summary is empty"),
        ({"document": None, "summary": "w5"}, "row 2 of those drawn: document holds nothing, not text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        bound(tiny.llama()).examples(tiny.documents([ROWS[0], row]), tiny.tokenizer(), 64)
    assert "\n" not in str(caught.value)


def test_needs_a_model_that_writes() -> None:
    with pytest.raises(ConfigError, match="model: bert is an encoder; this task needs a decoder"):
        bound(tiny.bert()).auto_class(tiny.bert().config)
