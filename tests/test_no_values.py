"""Operations on tensors without values that are remembered: the same shapes, strides and types as torch works out itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from isolora.config import TaskConfig
from isolora.cost import no_values
from isolora.cost.memory import peak
from isolora.ledger import BatchShape

torch.set_num_threads(1)


class Remembering(TorchDispatchMode):
    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.mode = mode
        self.worked_out: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}

        def act() -> Any:
            self.worked_out.append(str(func))
            return func(*args, **given)

        return no_values.made(func, args, given, act, self.mode)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


ACTS: dict[str, Callable[[], Tensor]] = {
    "product": lambda: meta(3, 4) @ meta(4, 5),
    "strides": lambda: meta(4, 3).T * 2.0,
    "whole number": lambda: meta(3, dtype=torch.int64) * 2,
    "number with a point": lambda: meta(3, dtype=torch.int64) * 2.0,
    "truth": lambda: meta(3, dtype=torch.int64) * True,
    "types": lambda: meta(3, 4) + meta(4, dtype=torch.float64),
    "half": lambda: meta(2, 3, dtype=torch.bfloat16).float(),
    "list": lambda: torch.cat([meta(2, 3), meta(5, 3)]),
    "reduction": lambda: meta(2, 3, 4).mean(-1, keepdim=True),
    "softmax": lambda: functional.softmax(meta(2, 3), -1, dtype=torch.float64),
    "view": lambda: meta(4, 6).view(2, 2, 6).transpose(0, 1),
    "in place": lambda: meta(3, 4).mul_(meta(4)),
    "into": lambda: torch.mm(meta(2, 3), meta(3, 4), out=meta(2, 4)),
}


def told(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.storage_offset(), tensor.untyped_storage().nbytes()


@pytest.mark.parametrize("name", ACTS)
def test_the_same_twice_as_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_values, "_known", {})
    expected = told(ACTS[name]())
    with Remembering():
        first, second = ACTS[name](), ACTS[name]()
    assert told(first) == told(second) == expected
    assert first.untyped_storage()._cdata != second.untyped_storage()._cdata


def test_what_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_values, "_known", {})
    x, w = meta(3, 4), meta(4, 5)
    with Remembering() as mode:
        for _ in range(3):
            y = x @ w
            assert y.add_(1.0) is y, "changed in place"
            assert y.view(5, 3).untyped_storage()._cdata == y.untyped_storage()._cdata, "a view shares its memory"
    count = {name: sum(name in done for done in mode.worked_out) for name in ("mm", "add_", "view")}
    assert count == {"mm": 1, "add_": 1, "view": 3}


def norms_gradients() -> tuple[Tensor | None, ...]:
    """Of the inputs and the weight, not of the bias: the third answer is None."""
    x, one = meta(2, 3, 4), meta(2, 3, 1)
    found = torch.ops.aten.native_layer_norm_backward(x, x, [4], one, one, meta(4), meta(4), [True, True, False])
    return tuple(found)


def test_several_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_values, "_known", {})
    expected = [None if each is None else told(each) for each in norms_gradients()]
    with Remembering() as mode:
        answers = [norms_gradients() for _ in range(3)]
    assert [done for done in mode.worked_out if "layer_norm" in done] == ["aten.native_layer_norm_backward.default"]
    for answer in answers:
        assert [None if each is None else told(each) for each in answer] == expected
    assert expected[2] is None
    held = [each.untyped_storage()._cdata for answer in answers for each in answer if each is not None]
    assert len(set(held)) == 6, "each has memory of its own"


def test_tensors_that_bear_a_device_and_their_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_values, "_known", {})
    by_kernel, worked_out = no_values._by_meta_kernel, []
    monkeypatch.setattr(
        no_values, "_by_meta_kernel", lambda func, *given: (worked_out.append(str(func)), by_kernel(func, *given))[1]
    )
    with FakeTensorMode() as fake, Remembering(fake) as mode:
        x = torch.empty(4, 6)
        views = [x[1:3].transpose(0, 1) for _ in range(2)]
        later = x[2:4].transpose(0, 1)
        products = [view.mul(2.0) for view in views]
    assert {(view.shape, view.stride(), view.storage_offset()) for view in views} == {((6, 2), (1, 6), 6)}
    assert later.storage_offset() == 12
    assert {view.untyped_storage()._cdata for view in (*views, later)} == {x.untyped_storage()._cdata}
    assert {(made.device.type, made.stride()) for made in products} == {("cpu", (1, 6))}
    assert [sum(name in done for done in worked_out) for name in ("slice", "transpose", "mul")] == [2, 1, 1]
    assert set(mode.worked_out) <= {"prim.device.default"}, "nothing else is left to FakeTensor"


def test_a_view_that_names_its_place_in_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(no_values, "_known", {})
    with FakeTensorMode() as fake, Remembering(fake):
        x = torch.empty(4, 6)
        offsets = [part.as_strided((2, 3), (6, 1), 7).storage_offset() for part in (x, x[1:], x[1:])]
        follow = [part.as_strided((2, 3), (6, 1)).storage_offset() for part in (x, x[1:], x[2:])]
    assert offsets == [7, 7, 7]
    assert follow == [0, 6, 12]


def test_it_is_forgotten_before_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[Any, Any] = {}
    monkeypatch.setattr(no_values, "_known", known)
    monkeypatch.setattr(no_values, "MOST", 3)
    with Remembering():
        for size in range(2, 9):
            meta(size).exp()
    assert 0 < len(known) <= 3


ON_A_DEVICE: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "product": lambda x, n: x @ x.T,
    "product in place": lambda x, n: x.addmm_(x[:, :4], x, alpha=0.5),
    "sum of several": lambda x, n: torch.cat([x, x.T.reshape(4, 6)]),
    "broadcast": lambda x, n: x.T.unsqueeze(1) * x[:, 0],
    "another type": lambda x, n: x.to(torch.bfloat16).add(x.double()),
    "whole numbers": lambda x, n: n.cumsum(0) // 2,
    "rows": lambda x, n: x[n],
    "rows in place": lambda x, n: x.index_add_(0, n, x),
    "chosen": lambda x, n: functional.embedding(n, x),
    "like": lambda x, n: (torch.zeros_like(x.T), x.new_empty(3, 2), torch.full_like(x, 2.0)),
    "made of nothing": lambda x, n: (torch.arange(5), torch.zeros(2, 3, dtype=torch.int64)),
    "views": lambda x, n: x[1:, 2:].T.unsqueeze(0).expand(3, -1, -1),
    "reshaped": lambda x, n: x.T.reshape(3, 8),
    "attention": lambda x, n: functional.scaled_dot_product_attention(*(x.view(1, 2, 2, 6),) * 3),
    "norm": lambda x, n: functional.layer_norm(x, [6]),
    "loss": lambda x, n: functional.cross_entropy(x, n, reduction="sum"),
    "a number": lambda x, n: x.sum() * x.mean(),
    "drawn": lambda x, n: x.uniform_(-1, 1),
}


@pytest.mark.parametrize("name", ON_A_DEVICE)
def test_kernels_for_meta_say_what_fake_tensors_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers() -> list[Any]:
        monkeypatch.setattr(no_values, "_known", {})
        with FakeTensorMode() as fake, Remembering(fake):
            made = ON_A_DEVICE[name](torch.empty(4, 6), torch.zeros(4, dtype=torch.int64))
            return [told(one) for one in (made if isinstance(made, tuple) else (made,))]

    quick = answers()
    monkeypatch.setattr(no_values, "_by_meta_kernel", lambda *_: None)
    assert quick == answers()


@pytest.mark.parametrize(("kind", "task"), [("llama", "causal-lm"), ("t5", "summarization"), ("mixtral", "preference")])
def test_memory_is_the_same_by_either_way(kind: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.save(tmp_path / kind, tiny.ARCHITECTURES[kind]())
    config = tiny.run().model_copy(update={"model": model, "task": TaskConfig(name=task)})
    shape = BatchShape(3, 9, 8, 0 if task == "causal-lm" else 5)
    quick = peak(config, shape)
    monkeypatch.setattr(no_values, "_known", {})
    monkeypatch.setattr(no_values, "_by_meta_kernel", lambda *_: None)
    assert quick == peak(config, shape)


def test_a_copied_head_is_of_the_same_mode() -> None:
    """torch copied its own notes of constants with every copied weight: their memory was freed twice, and some training of a
    BERT with BOFT ended in a segmentation fault."""
    with no_values.WithoutValues() as mode, no_values.taken_for_real():
        torch.tensor(1.0)
        head = nn.Linear(3, 2)
        copied = copy.deepcopy(head)
    assert len(mode.fake_tensor_converter.constant_storage_mapping) == 1
    assert copied.weight.fake_mode is mode
    assert copied.weight.untyped_storage()._cdata != head.weight.untyped_storage()._cdata
