"""The chunked cross-entropy against torch's, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from isolora.tasks.cross_entropy import CHUNK_ROWS, from_logits, frozen_head

torch.set_num_threads(1)
ENTRIES, WIDTH = 37, 8


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 3])
def test_equals_torchs(rows: int) -> None:
    hidden = (3 * torch.randn(rows, WIDTH)).requires_grad_()
    head, targets, weights = torch.randn(ENTRIES, WIDTH), torch.randint(ENTRIES, (rows,)), torch.rand(rows)
    total, losses = frozen_head(hidden, head, targets, weights)
    (5 * total).backward()
    reference = hidden.detach().clone().requires_grad_()
    expected = cross_entropy(reference @ head.T, targets, reduction="none")
    (5 * (expected * weights).sum()).backward()
    assert hidden.grad is not None
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(total.detach(), (expected * weights).sum().detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden.grad, reference.grad, rtol=1e-6, atol=1e-5)


def test_row_losses_are_unweighted_and_carry_no_gradient() -> None:
    hidden, head, targets = torch.randn(6, WIDTH, requires_grad=True), torch.randn(ENTRIES, WIDTH), torch.arange(6)
    weights = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.5, 0.0])
    total, losses = frozen_head(hidden, head, targets, weights)
    assert not losses.requires_grad
    torch.testing.assert_close(total.detach(), (losses * weights).sum())
    total.backward()
    assert hidden.grad is not None
    assert not hidden.grad[weights == 0].any()


def test_large_logits_stay_finite() -> None:
    hidden = torch.full((2, WIDTH), 500.0, requires_grad=True)
    total, losses = frozen_head(hidden, torch.randn(ENTRIES, WIDTH), torch.tensor([0, 1]), torch.ones(2))
    total.backward()
    assert hidden.grad is not None
    assert torch.isfinite(losses).all()
    assert torch.isfinite(hidden.grad).all()


def test_a_row_that_is_not_finite_does_not_reach_the_others() -> None:
    hidden, head = torch.randn(4, WIDTH), torch.randn(ENTRIES, WIDTH)
    hidden[1] = torch.nan
    hidden.requires_grad_()
    total, losses = frozen_head(hidden, head, torch.arange(4), torch.ones(4))
    total.backward()
    assert hidden.grad is not None
    assert torch.isfinite(losses).tolist() == [True, False, True, True]
    assert torch.isfinite(hidden.grad).all(1).tolist() == [True, False, True, True]


def test_no_gradient_is_computed_for_an_evaluation() -> None:
    hidden, head = torch.randn(4, WIDTH, requires_grad=True), torch.randn(ENTRIES, WIDTH)
    with torch.no_grad():
        total, losses = frozen_head(hidden, head, torch.arange(4), torch.ones(4))
    assert not total.requires_grad
    torch.testing.assert_close(losses, cross_entropy(hidden @ head.T, torch.arange(4), reduction="none").detach())


def test_under_autocast() -> None:
    hidden, head, targets = (
        torch.randn(300, WIDTH, requires_grad=True),
        torch.randn(ENTRIES, WIDTH),
        torch.randint(ENTRIES, (300,)),
    )
    with torch.autocast("cpu", torch.bfloat16):
        for states in (hidden, hidden.bfloat16()):
            total, losses = frozen_head(states, head, targets, torch.ones(300))
            total.backward()
            expected = cross_entropy(hidden.detach() @ head.T, targets, reduction="none").float()
            torch.testing.assert_close(losses, expected, rtol=0.1, atol=0.1)


def test_trained_heads_take_the_plain_way() -> None:
    hidden, head, targets, weights = (
        torch.randn(9, WIDTH),
        torch.randn(ENTRIES, WIDTH, requires_grad=True),
        torch.arange(9),
        torch.rand(9),
    )
    total, losses = from_logits(hidden @ head.T, targets, weights)
    total.backward()
    expected, expected_losses = frozen_head(hidden, head.detach(), targets, weights)
    torch.testing.assert_close(total.detach(), expected)
    torch.testing.assert_close(losses, expected_losses)
    assert head.grad is not None


def test_on_meta_the_products_are_booked_where_autograd_puts_them() -> None:
    hidden, head = torch.randn(4, WIDTH, device="meta", requires_grad=True), torch.randn(ENTRIES, WIDTH, device="meta")
    total, _ = frozen_head(hidden, head, torch.zeros(4, dtype=torch.long, device="meta"), torch.ones(4, device="meta"))
    assert total.is_meta
    assert total.requires_grad
