"""The last layer at labelled positions: the same losses and gradients, whoever's rows they are, at a lower price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_fused import SAMPLE, in_double_precision, small
from torch import Tensor
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from isolora import registry
from isolora.cost.flops import rehearse
from isolora.ledger import BatchShape
from isolora.methods.bottleneck import BottleneckSettings
from isolora.methods.lora import LoraSettings
from isolora.models import narrow_last_layer
from isolora.tasks.base import Batch
from isolora.tasks.causal import NARROWS, causal_loss, plain_head

LABELS = (0, 4, 1, 0, 2)
"""Of each row; the first and the fourth have none."""
NARROWED = {"llama", "qwen2", "qwen3", "mistral", "olmoe"}


def a_batch(model: Any, labels: tuple[int, ...] = LABELS, length: int = 9) -> Batch:
    counts, rows = torch.tensor(labels), len(labels)
    target_rows = torch.arange(rows).repeat_interleave(counts)
    places = torch.cat([torch.arange(length - count, length) for count in labels])
    entries = model.config.get_text_config().vocab_size
    ids = tiny.ids(rows, length) % entries
    targets = tiny.ids(1, len(places), seed=1)[0] % entries
    weights = torch.linspace(0.5, 1, rows)
    return Batch(ids, target_rows * length + places, targets, target_rows, weights, torch.full((rows,), length))


def found(model: Any, batch: Batch, narrows: bool) -> list[Tensor]:
    """Losses of the rows and the gradient of every trained weight; asserts that the head's norm saw labels alone, or not."""
    setattr(model, NARROWS, narrows)
    model.zero_grad()
    seen: list[int] = []
    handle = model.base_model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    loss = causal_loss(model, batch)
    loss.objective.backward()
    handle.remove()
    assert seen == [len(batch.positions) if narrows else batch.input_ids.numel()]
    return [loss.row_losses, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compare(model: Any, batch: Batch) -> None:
    narrow, whole = found(model, batch, True), found(model, batch, False)
    assert len(narrow) == len(whole) > 1
    for one, other in zip(narrow, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", SAMPLE)
def test_the_same_in_every_architecture(kind: str, tmp_path: Path) -> None:
    model = small(kind, tmp_path)
    narrow_last_layer(model)
    assert getattr(model, NARROWS, False) == (kind in NARROWED)
    if kind in NARROWED:
        model.get_output_embeddings().weight.requires_grad_(False)
        compare(model, a_batch(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING)))
def test_the_same_everywhere(kind: str, tmp_path: Path) -> None:
    model = small(kind, tmp_path)
    if model is not None:
        narrow_last_layer(model)
    if not getattr(model, NARROWS, False):
        pytest.skip("not narrowed, or not made from a small configuration")
    model.get_output_embeddings().weight.requires_grad_(False)
    if not plain_head(model):
        pytest.skip("logits are the model's own, at every position")
    compare(model, a_batch(model))


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_every_row_keeps_its_member(method: str) -> None:
    """Also where a member has no label at all."""
    settings: Any = {
        "lora": [LoraSettings(rank=2, dropout=0.0), LoraSettings(rank=4), LoraSettings(rank=3)],
        "bottleneck": [BottleneckSettings(size=2), BottleneckSettings(size=4), BottleneckSettings(size=3)],
    }
    attached = registry.load_plug_in("method", method).attach(tiny.llama(), settings[method], [0, 1, 2])
    narrow_last_layer(attached.model)
    in_double_precision(attached.model)
    for parameter in attached.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2)
    with attached.rows_of({0: 2, 1: 1, 2: 2}):
        compare(attached.model, a_batch(attached.model))
    with attached.rows_of({0: 1, 1: 3, 2: 1}):
        compare(attached.model, a_batch(attached.model))


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
@pytest.mark.parametrize("counts", [{0: 2, 1: 3}, {0: 1, 1: 4}])
def test_what_a_member_drops_is_its_own(method: str, counts: dict[int, int]) -> None:
    """In a stack as alone, also of a member without labels in this batch."""
    settings: Any = {"lora": LoraSettings(rank=2, dropout=0.5), "bottleneck": BottleneckSettings(size=2, dropout=0.5)}[method]
    attached = registry.load_plug_in("method", method).attach(tiny.llama(), [settings, settings], [0, 1])
    narrow_last_layer(attached.model)
    for parameter in attached.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2)
    attached.train(True)

    def row_losses(batch: Batch, rows: dict[int, int]) -> Tensor:
        for generator in attached.generators().values():
            generator.manual_seed(7)
        with attached.rows_of(rows):
            return causal_loss(attached.model, batch).row_losses

    together = row_losses(a_batch(attached.model), counts)
    alone = row_losses(rows_from(a_batch(attached.model), counts[0]), {1: counts[1]})
    torch.testing.assert_close(together[counts[0] :], alone)
    attached.train(False)
    assert not torch.allclose(row_losses(a_batch(attached.model), counts), together)


def rows_from(batch: Batch, first: int) -> Batch:
    """The rows of a batch from one on."""
    kept, length = batch.target_rows >= first, batch.input_ids.shape[1]
    rows, positions = batch.target_rows[kept] - first, batch.positions[kept] - first * length
    return Batch(batch.input_ids[first:], positions, batch.targets[kept], rows, batch.row_weights[first:], batch.lengths[first:])


def test_recomputed_layers() -> None:
    attached = registry.load_plug_in("method", "lora").attach(tiny.llama(), [LoraSettings(), LoraSettings()], [0, 1])
    narrow_last_layer(attached.model)
    batch = a_batch(attached.model)
    with attached.rows_of({0: 2, 1: 3}):
        plain = found(attached.model, batch, True)
        attached.model.activation_checkpointing_enable()
        attached.train(True)
        for one, other in zip(plain, found(attached.model, batch, True), strict=True):
            torch.testing.assert_close(one, other)


def test_generation_sees_every_position() -> None:
    plain, model = tiny.llama(), tiny.llama()
    narrow_last_layer(model)
    torch.testing.assert_close(model(input_ids=tiny.ids()).logits, plain(input_ids=tiny.ids()).logits, rtol=0, atol=0)


def test_the_feed_forward_is_priced_by_labels(tmp_path: Path) -> None:
    """Two layers of width 16 and inner width 40, three products each, rank 2: one label costs one layer's, the head's and a third
    as much again for two passes; a position costs the other layer's."""
    tiny.llama().config.save_pretrained(tmp_path)
    ledger = rehearse(tiny.run(method={"rank": 2}).model_copy(update={"model": str(tmp_path)}))
    of_few, of_more = (ledger.flops(BatchShape(2, 9, labels)).by_group()["feed-forward"] for labels in (4, 10))
    assert of_more["forward"] - of_few["forward"] == 6 * 3 * 2 * 16 * 40
    assert of_few["forward"] == (2 * 9 + 4) * 3 * 2 * 16 * 40
    assert of_few["backward_inputs"] == of_few["forward"]
