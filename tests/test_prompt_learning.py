"""Virtual tokens: losses under them are those of PEFT built by hand; what is trained, counted, generated and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from test_checkpoint import in_pieces, weights
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    FalconConfig,
    FalconForCausalLM,
    LlamaForTokenClassification,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from isolora import registry
from isolora.config import DataConfig
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError
from isolora.tasks.base import IGNORED, Batch
from isolora.training import train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TOKENS = 3
LENGTHS = torch.tensor([6, 9, 7])
METHODS = {"prompt": PromptTuningConfig, "p-tuning": PromptEncoderConfig, "prefix": PrefixTuningConfig}


def attached(method: str, model: Any, heads: bool = False, **fields: Any) -> Any:
    found = registry.load_plug_in("method", method)
    return found.attach(model, [found.settings({"virtual_tokens": TOKENS, **fields})], [5], heads)


def by_hand(method: str, ours: Any, model: Any) -> Any:
    """PEFT's own model with our adapter's weights."""
    config = {key: value for key, value in ours.config.to_dict().items() if key not in ("peft_type", "inference_mode")}
    theirs = get_peft_model(model, METHODS[method](**config)).eval()
    theirs.load_state_dict(ours.peft.state_dict())
    return theirs


def batch(labels: Tensor) -> Batch:
    """Right-padded rows; labels [rows, length], counted only in front of the padding; the mean loss is the objective."""
    ids = tiny.ids(len(LENGTHS), int(LENGTHS.max()))
    kept = torch.arange(ids.shape[1]) < LENGTHS[:, None]
    ids[~kept] = 0
    positions = torch.where(((labels != IGNORED) & kept).flatten())[0]
    rows = positions // ids.shape[1]
    weights = torch.full((len(ids),), 1 / max(1, len(positions)))
    return Batch(ids, positions, labels.flatten()[positions], rows, weights, LENGTHS)


def labels_of(batch: Batch) -> Tensor:
    found = torch.full_like(batch.input_ids, IGNORED).flatten()
    found[batch.positions] = batch.targets
    return found.view_as(batch.input_ids)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mixtral"])
@pytest.mark.parametrize("method", METHODS)
def test_causal_loss_is_pefts(method: str, kind: str) -> None:
    """PEFT would also ask the last virtual token for the first word; we ask for the same words as with every other method."""
    ids = batch(tiny.ids(3, 9)).input_ids
    following = batch(torch.where(torch.arange(9) < LENGTHS[:, None] - 1, ids.roll(-1, 1), IGNORED))
    ours = attached(method, tiny.ARCHITECTURES[kind]())
    theirs = by_hand(method, ours, tiny.ARCHITECTURES[kind]())
    logits = theirs(input_ids=following.input_ids, attention_mask=following.attention_mask).logits[:, -9:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels_of(following).flatten())
    found = registry.load_plug_in("task", "causal-lm").loss(ours.model, following).objective
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", [RobertaForTokenClassification, LlamaForTokenClassification])
@pytest.mark.parametrize("method", METHODS)
def test_token_classification_loss_is_pefts(method: str, kind: Any) -> None:
    def model() -> Any:
        config = RobertaConfig(vocab_size=tiny.VOCABULARY, num_labels=3, **tiny.BERT) if "Roberta" in kind.__name__ else None
        return tiny.seeded(kind, config or tiny.llama().config)

    classes = batch(tiny.ids(3, 9, seed=1) % 2)
    ours = attached(method, model(), heads=True)
    theirs = by_hand(method, ours, model())
    front = 0 if method == "prefix" else TOKENS  # PEFT lengthens the logits and leaves the labels to us
    labels = torch.cat([torch.full((3, front), IGNORED), labels_of(classes)], 1)
    logits = theirs(input_ids=classes.input_ids, attention_mask=classes.attention_mask).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    found = registry.load_plug_in("task", "token-classification").loss(ours.model, classes).objective
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_sequence_classification_loss_is_pefts(method: str) -> None:
    classes = batch(torch.where(torch.arange(9) == LENGTHS[:, None] - 1, torch.tensor([[0], [1], [1]]), IGNORED))
    ours = attached(method, tiny.roberta_classifier(), heads=True)
    theirs = by_hand(method, ours, tiny.roberta_classifier())
    given = {"input_ids": classes.input_ids, "attention_mask": classes.attention_mask}
    expected = theirs(**given, labels=torch.tensor([0, 1, 1])).loss
    task = registry.load_plug_in("task", "sequence-classification")
    found = task.bound(task.settings, ("no", "yes")).loss(ours.model, classes).objective
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_question_answering_loss_is_pefts(method: str) -> None:
    """PEFT looks for the answer behind its virtual tokens, and among them and the padding too; here only the row's own count."""
    places = torch.tensor([[2, 4], [5, 5], [1, 6]])
    marks = torch.full((3, 9), IGNORED)
    for row, (start, end) in enumerate(places.tolist()):
        marks[row, start] = 1
        marks[row, end] = 2 if end != start else 3
    spans = batch(marks)
    spans = Batch(**{**vars(spans), "row_weights": torch.full((3,), 1 / 3)})
    config = RobertaConfig(vocab_size=tiny.VOCABULARY, initializer_range=0.2, **tiny.BERT)
    ours = attached(method, tiny.seeded(RobertaForQuestionAnswering, config), heads=True)
    theirs = by_hand(method, ours, tiny.seeded(RobertaForQuestionAnswering, config))
    out = theirs(input_ids=spans.input_ids, attention_mask=spans.attention_mask)
    expected = []
    for logits, targets in zip((out.start_logits, out.end_logits), places.T, strict=True):
        own = logits[:, -9:].masked_fill(spans.attention_mask == 0, -torch.inf)
        expected.append(torch.nn.functional.cross_entropy(own, targets))
    found = registry.load_plug_in("task", "question-answering").loss(ours.model, spans).objective
    assert float(found.detach()) == pytest.approx(float(sum(expected).detach()) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("method", METHODS)
def test_encoder_decoder_loss_is_pefts(method: str, kind: str) -> None:
    targets = batch(tiny.ids(3, 9, seed=1))
    pair = Batch(**{**vars(targets), "second": batch(torch.full((3, 9), IGNORED))})
    ours = attached(method, tiny.ARCHITECTURES[kind]())
    theirs = by_hand(method, ours, tiny.ARCHITECTURES[kind]())
    source = pair.second
    assert source is not None
    expected = theirs(
        input_ids=source.input_ids,
        attention_mask=source.attention_mask,
        decoder_input_ids=pair.input_ids,
        labels=labels_of(targets),
    ).loss
    found = registry.load_plug_in("task", "summarization").loss(ours.model, pair).objective
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", ["roberta_classifier", "llama", "gpt2", "bloom", "mixtral", "bart", "t5"])
def test_every_layer_attends_to_its_prefix(kind: str) -> None:
    """New caches have swallowed prefixes before: gradients must reach keys and values of every layer."""
    model = tiny.ARCHITECTURES[kind]()
    ours = attached("prefix", model, heads=kind == "roberta_classifier")
    life.answers(ours.model).square().sum().backward()
    prefix = ours.peft.prompt_encoder["default"].embedding.weight.grad
    layers, _, width = registry.load_plug_in("method", "prefix").sizes(model)
    reached = prefix.view(TOKENS, layers, 2, width).abs().sum((0, 3)) > 0
    assert reached.sum(0).tolist() == [2, 2], "keys and values of both layers"


def test_a_prefix_fits_heads_of_any_width_and_decoders_of_any_depth() -> None:
    """Where PEFT would take the encoder's depth, or the model's width over its heads."""
    t5 = T5Config(**{**tiny.T5, "vocab_size": tiny.VOCABULARY, "d_kv": 4, "num_heads": 6, "num_decoder_layers": 3})
    bart = BartConfig(**{**tiny.BART, "vocab_size": tiny.VOCABULARY, "decoder_layers": 3, "decoder_attention_heads": 4})
    for kind, config, width in ((T5ForConditionalGeneration, t5, 24), (BartForConditionalGeneration, bart, 16)):
        ours = attached("prefix", tiny.seeded(kind, config))
        assert ours.trainable_parameters(0) == TOKENS * 3 * 2 * width
        life.answers(ours.model).sum().backward()


def test_checkpointing_would_drop_the_prefix_and_is_refused(tmp_path: Path) -> None:
    config = life.a_run(tmp_path, tiny.llama(), {"name": "prefix"})
    training = config.training.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(ConfigError, match=r"^training\.gradient_checkpointing: ") as caught:
        rehearse(config.model_copy(update={"training": training}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["prompt", "p-tuning", "llama-adapter", "adalora"])
def test_checkpointing_changes_nothing_elsewhere(method: str, tmp_path: Path) -> None:
    fields = {"init_rank": 4, "target_rank": 2, "dropout": 0.3} if method == "adalora" else {"virtual_tokens": TOKENS}
    config = tiny.run(method={"name": method, **fields}, steps=5)
    again = tiny.llama()
    again.activation_checkpointing_enable()
    kept, recomputed = tiny.stack([config]), tiny.stack([config], model=again)
    tiny.train(kept, tmp_path / "kept", 1e9)
    tiny.train(recomputed, tmp_path / "again", 1e9)
    weights = [stack.members[0].optimizer.groups[0].weights.detach() for stack in (kept, recomputed)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("method", "kind"), [("prompt", "t5"), ("p-tuning", "bart")])
def test_no_virtual_token_is_counted_that_is_never_used(method: str, kind: str) -> None:
    ours = attached(method, tiny.ARCHITECTURES[kind]())
    life.answers(ours.model).sum().backward()
    embedding = ours.peft.prompt_encoder["default"].embedding.weight
    assert embedding.shape == (TOKENS, 16)
    assert bool((embedding.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "t5"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_generation_sees_the_virtual_tokens_and_no_padding(method: str, kind: str) -> None:
    """Greedy text is that of step-by-step forward passes; a shorter neighbour's padding changes nothing."""
    model = tiny.ARCHITECTURES[kind]()
    ours = attached(method, model)
    encoder = model.config.is_encoder_decoder
    ids = tiny.ids(2, 6)
    mask = torch.ones_like(ids)
    own = slice(0, 4) if encoder else slice(2, 6)
    ids[1], mask[1] = 0, 0
    ids[1, own], mask[1, own] = tiny.ids(1, 4, seed=3)[0], 1
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    both = ours.model.generate(input_ids=ids, attention_mask=mask, **options)[:, 1 if encoder else 6 :]
    alone = ours.model.generate(input_ids=ids[1:, own], attention_mask=mask[1:, own], **options)[:, 1 if encoder else 4 :]
    assert both[1].tolist() == alone[0].tolist()
    text = torch.tensor([[model.config.decoder_start_token_id or 0]]) if encoder else ids[:1]
    for _ in range(5):
        given = {"input_ids": ids[:1], "decoder_input_ids": text} if encoder else {"input_ids": text}
        text = torch.cat([text, ours.model(**given).logits[:, -1:].argmax(-1)], 1)
    assert both[0].tolist() == text[0, -5:].tolist()
    with ours.rows(()):
        bare = ours.model.generate(input_ids=ids[:1], attention_mask=mask[:1], **options)
    assert torch.equal(bare, tiny.ARCHITECTURES[kind]().generate(input_ids=ids[:1], attention_mask=mask[:1], **options))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("p-tuning", {"encoder": "lstm", "encoder_dropout": 0.4}),
        ("prefix", {"projection": True, "projection_width": 5}),
        ("prompt", {"start": "random"}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(method: str, fields: dict[str, Any], tmp_path: Path) -> None:
    config = tiny.run(method={"name": method, "virtual_tokens": TOKENS, **fields}, steps=9)
    whole = tiny.stack([config])
    tiny.train(whole, tmp_path / "whole", 1e9)
    resumed, _ = in_pieces(lambda points: tiny.stack([config], points), tmp_path / "pieces", (4, None), 0)
    assert all(torch.equal(one, other) for one, other in zip(weights(resumed), weights(whole), strict=True))


def test_the_network_behind_virtual_tokens_stays_behind(tmp_path: Path) -> None:
    ours = attached("prefix", tiny.llama(), projection=True, projection_width=5)
    ours.save(0, tmp_path)
    again = registry.load_plug_in("method", "prefix").load(tiny.llama(), tmp_path)
    assert not any("transform" in name for name, _ in again.peft.named_parameters())
    torch.testing.assert_close(life.answers(again.model), life.answers(ours.model), rtol=0, atol=1e-6)


def test_models_without_a_place_for_virtual_tokens_are_named() -> None:
    falcon = FalconConfig(vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(ConfigError, match="prefix cannot be attached to FalconForCausalLM"):
        attached("prefix", tiny.seeded(FalconForCausalLM, falcon))


def test_adapted_layers_come_from_the_top() -> None:
    ours = attached("llama-adapter", tiny.llama(), layers=1)
    assert {name.split(".")[2] for name, parameter in ours.model.named_parameters() if parameter.requires_grad} == {"1"}
    with pytest.raises(ConfigError, match=r"method.layers: 3 is more than the model has \(2\)"):
        attached("llama-adapter", tiny.llama(), layers=3)


def test_virtual_tokens_take_positions(tmp_path: Path) -> None:
    """GPT-2 has no positions beyond its table: texts are cut to what is left, and a length asked for in vain is one line."""
    (tmp_path / "texts.txt").write_text("\n\n".join(tiny.words(100, seed) for seed in range(30)))
    data = DataConfig(source=str(tmp_path / "texts.txt"), eval_examples=5)
    config = tiny.run(method={"name": "prompt", "virtual_tokens": TOKENS}, steps=2, batch_tokens=200)
    config = config.model_copy(update={"model": tiny.save(tmp_path / "model", tiny.gpt2()), "data": data})
    assert int(tiny.prepared(config).train.lengths.max()) == 64 - TOKENS
    assert train(config, tmp_path / "out", quiet=True)["state"] == "complete"
    with pytest.raises(ConfigError, match="64 exceeds the model's 64 positions besides 3 virtual tokens"):
        tiny.prepared(config.model_copy(update={"data": data.model_copy(update={"max_length": 64})}))
