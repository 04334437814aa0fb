"""Products with frozen weights by either library: the same to rounding, in either layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from isolora import frozen_products
from isolora.frozen_products import frozen_product

torch.set_num_threads(1)
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
ROWS, INPUTS, OUTPUTS = 37, 24, 50


@pytest.fixture(autouse=True, params=[False, pytest.param(True, marks=pytest.mark.skipif(not AVAILABLE, reason="no oneDNN"))])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    wanted = bool(request.param)
    monkeypatch.setattr(frozen_products, "prefers_onednn", lambda: wanted)
    return wanted


def given(rows: int = ROWS, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (rows, INPUTS), (OUTPUTS, INPUTS), (OUTPUTS,)
    x, weight, bias = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return x, weight, bias


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, ROWS])
def test_is_the_product_forward_and_back(rows: int) -> None:
    x, weight, bias = given(rows)
    close(frozen_product(x, weight), x.double() @ weight.double().T)
    close(frozen_product(x, weight, bias), x.double() @ weight.double().T + bias.double())
    y = torch.randn(rows, OUTPUTS)
    close(frozen_product(y, weight.T), y.double() @ weight.double())


def test_takes_part_of_a_larger_tensor() -> None:
    x, weight, _ = given()
    close(frozen_product(x[3:9], weight[5:20]), x[3:9].double() @ weight[5:20].double().T)
    close(frozen_product(x.T.contiguous().T, weight), x.double() @ weight.double().T)


def test_a_row_that_is_not_finite_stays_alone() -> None:
    x, weight, _ = given()
    x[1] = torch.nan
    assert torch.isfinite(frozen_product(x, weight)).all(1).tolist() == [row != 1 for row in range(ROWS)]


def test_other_precisions_are_kept() -> None:
    x, weight, bias = given(dtype=torch.float64)
    torch.testing.assert_close(frozen_product(x, weight, bias), x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen_product(*given()).dtype == torch.bfloat16


def test_a_rehearsals_tensors_get_a_shape() -> None:
    x, weight, bias = (tensor.to("meta") for tensor in given())
    assert frozen_product(x, weight, bias).shape == (ROWS, OUTPUTS)
