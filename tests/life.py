"""What a test asks of any method on any architecture: answers, a few steps of training, FLOPs of a real step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isolora import registry
from isolora.config import RunConfig, parse
from isolora.models import narrow_last_layer
from isolora.tasks.base import Batch


def answers(model: Any, ids: Tensor | None = None) -> Tensor:
    """All logits that a model gives, whatever its head: [rows, ...]."""
    ids = tiny.ids() if ids is None else ids
    second = {"decoder_input_ids": ids[:, :5]} if model.config.is_encoder_decoder else {}
    out = model(input_ids=ids, use_cache=False, **second) if model.config.use_cache else model(input_ids=ids, **second)
    found: Tensor = torch.stack([out.start_logits, out.end_logits], -1) if "start_logits" in out else out.logits
    return found


def logits(model: Any) -> Tensor:
    """As a person gets them, without gradients: [rows, length, vocabulary]."""
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=tiny.ids()).logits
    return found


def frozen_answers(model: Any) -> Tensor:
    """With no weight asking for gradients: torch rounds otherwise where one does."""
    found = answers(model.requires_grad_(False))
    model.requires_grad_(True)
    return found


def fit(attached: Any, steps: int, learning_rate: float = 1e-2) -> list[float]:
    """Losses of a plain loop that pulls the answers towards random classes."""
    target = torch.randint(2, (tiny.ids().numel() * 5,), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(attached.tensors(0), lr=learning_rate)
    losses = []
    attached.train(True)
    for _ in range(steps):
        optimizer.zero_grad()
        with attached.rows([(0, 0, -1)]):
            found = answers(attached.model).flatten(0, -2)
            loss = torch.nn.functional.cross_entropy(found, target[: len(found)] % found.shape[-1])
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    attached.train(False)
    return losses


def recomputes_alike(attach: Callable[[], Any]) -> None:
    """Gradient checkpointing changes no gradient, with the dropout of two members."""
    gradients = []
    for recompute in (False, True):
        attached = attach()
        for tensor in attached.tensors(0):
            tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
        if recompute:
            attached.model.activation_checkpointing_enable()
        attached.train(True)
        with attached.rows([(0, 0, 2), (1, 2, 3)]):
            answers(attached.model).square().mean().backward()
        gradients.append([parameter.grad.clone() for k in (0, 1) for parameter in attached.tensors(k)])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert any(gradient.any() for gradient in gradients[0])


def state(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model: Any, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return list(now) == list(before) and all(torch.equal(now[name], before[name]) for name in now)


def a_run(folder: Path, model: Any, method: dict[str, Any]) -> RunConfig:
    """A run of a method on an architecture whose configuration lies in `folder`; enough for a rehearsal."""
    model.config.save_pretrained(folder)
    return parse(RunConfig, {"model": str(folder), "method": method, "training": {"steps": 1}})


def counted_flops(config: RunConfig, model: Any, rows: int, length: int, labels: int, formulas: Any = None) -> int:
    """FLOPs that torch counts in a real forward and backward pass on the CPU, attention done in plain products.

    formulas: of products that torch does not know.
    """
    method = registry.load_plug_in("method", config.method.name)
    attached = method.attach(model, [method.settings(config.method.fields())], [0])
    attached.train(True)
    narrow_last_layer(model)  # as a loaded base is
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # one plain product for each expert that was chosen
    positions = torch.arange(labels)
    ids, targets = tiny.ids(rows, length), positions % tiny.VOCABULARY
    batch = Batch(ids, positions, targets, positions // length, torch.ones(rows), torch.full((rows,), length))
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops, **(formulas or {})})
    with sdpa_kernel(SDPBackend.MATH), counter, attached.rows([(0, 0, -1)]):
        loss, extra = registry.load_plug_in("task", "causal-lm").loss(attached.model, batch).objective, attached.extra_loss()
        (loss if extra is None else loss + extra).backward()
    return counter.get_total_flops()


def addmm_flops(_: Any, a: Any, b: Any, **more: Any) -> int:
    """a [m, k] and b [k, n] arrive as shapes; torch's counter does not know the product in place."""
    return 2 * a[0] * a[1] * b[1]
