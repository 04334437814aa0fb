"""LoRA on a quantised base: the base's storage by the byte, the adapter's life on either base."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from peft import PeftModel
from test_checkpoint import comparable, in_pieces, weights
from torch import Tensor, nn

from isolora import registry
from isolora.config import RunConfig, parse
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, MissingExtra
from isolora.ledger import BatchShape
from isolora.methods.qlora import QloraSettings

pytest.importorskip("bitsandbytes")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
qlora = registry.load_plug_in("method", "qlora")
KINDS = ("nf4", "nf4-double", "int8")
SIZES: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 96},
    "gpt2": {"n_embd": 64},
    "bert_classifier": {"hidden_size": 64, "intermediate_size": 128},
}
CASES = [(kind, quantisation) for kind in SIZES for quantisation in KINDS]


def plain(kind: str) -> Any:
    return tiny.MODELS[kind](**SIZES[kind])


def quantised(kind: str, quantisation: str, folder: Path) -> Any:
    model = plain(kind)
    model.save_pretrained(folder)
    options = qlora.model_options(QloraSettings(quantisation=quantisation))
    loaded: Any = type(model).from_pretrained(folder, dtype="float32", **options).eval()
    loaded.name_or_path = str(folder)
    return loaded


def trained(kind: str, quantisation: str, folder: Path, heads: bool = False) -> Any:
    """One member whose factors are all random, on a quantised base."""
    settings = QloraSettings(rank=4, quantisation=quantisation)
    attached = qlora.attach(quantised(kind, quantisation, folder), [settings], [0], heads)
    for tensor in attached.tensors(0):
        tensor.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    return attached


def held(weight: Any) -> dict[int, int]:
    """Storage -> bytes of all that a quantised weight consists of."""
    state = getattr(weight, "quant_state", None)
    outer = state.state2 if state is not None and state.nested else None
    parts = [weight.data, getattr(weight, "SCB", None)]
    parts += [state.absmax, state.code, state.offset] if state is not None else []
    parts += [outer.absmax, outer.code] if outer is not None else []
    return {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts if part is not None}


@pytest.mark.parametrize(("kind", "quantisation"), CASES)
def test_storage_is_what_is_booked(kind: str, quantisation: str, tmp_path: Path) -> None:
    model, skeleton = quantised(kind, quantisation, tmp_path), plain(kind)
    settings = QloraSettings(quantisation=quantisation)
    booked = {name: qlora.stored_bytes(settings, name, layer) for name, layer in skeleton.named_modules()}
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
            bias = 0 if layer.bias is None else layer.bias.nbytes
            found[name] = sum(held(layer.weight).values()) + bias
    assert len(found) == {"llama": 14, "gpt2": 8, "bert_classifier": 12}[kind]
    assert {name: size for name, size in booked.items() if size is not None} == found


def test_bits_per_weight() -> None:
    layer = nn.Linear(4096, 4096, bias=False, device="meta")
    bits = {kind: 8 * qlora.stored_bytes(QloraSettings(quantisation=kind), "layers.0.x", layer) / 4096**2 for kind in KINDS}
    assert bits["nf4"] == pytest.approx(4 + 32 / 64, abs=1e-3)
    assert bits["nf4-double"] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)  # 4.127, as in the paper
    assert bits["int8"] == pytest.approx(8 + 32 / 4096)


@pytest.mark.parametrize(("kind", "quantisation"), CASES)
def test_starts_as_the_quantised_base_and_gives_it_back(kind: str, quantisation: str, tmp_path: Path) -> None:
    model = quantised(kind, quantisation, tmp_path)
    bare, before = life.answers(model).detach(), life.state(model)
    attached = qlora.attach(model, [QloraSettings(rank=4, quantisation=quantisation)], [0])
    torch.testing.assert_close(life.answers(model), bare, rtol=0, atol=2e-6)
    losses = life.fit(attached, 30)
    assert losses[-1] < 0.8 * losses[0]
    attached.detach()
    assert life.same_state(model, before)
    torch.testing.assert_close(life.answers(model), bare, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("kind", "quantisation"), CASES)
def test_loads_on_either_base_and_merges_into_the_plain_one(kind: str, quantisation: str, tmp_path: Path) -> None:
    attached = trained(kind, quantisation, tmp_path / "base")
    attached.save(0, tmp_path / "adapter")
    own = life.answers(attached.model).detach()
    again = qlora.load(quantised(kind, quantisation, tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(life.answers(again.model), own)
    base = quantised(kind, quantisation, tmp_path / "base")
    qlora.after_loading(base)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(life.answers(theirs), own, rtol=0, atol=2e-5)
    with pytest.raises(ConfigError, match="merges into the full-precision base"):
        again.merge(0)

    on_plain = qlora.load(plain(kind), tmp_path / "adapter")
    unmerged = life.answers(on_plain.model).detach()
    torch.testing.assert_close(life.answers(on_plain.merge(0)), unmerged, rtol=0, atol=2e-5)
    assert float((own - unmerged).abs().max()) > 1e-3, "the bases differ by their rounding"


def test_a_new_head_is_left_in_full_precision(tmp_path: Path) -> None:
    attached = trained("bert_classifier", "nf4", tmp_path / "base", heads=True)
    attached.save(0, tmp_path / "adapter")
    again = qlora.load(quantised("bert_classifier", "nf4", tmp_path / "base"), tmp_path / "adapter", heads=True)
    assert torch.equal(life.answers(again.model), life.answers(attached.model))
    assert attached.model.get_submodule("classifier.base").weight.dtype == torch.float32


MEMBERS = [
    parse(RunConfig, {"seed": seed, "method": {"name": "qlora", "rank": rank, "dropout": 0.2}, "training": {"steps": 30} | more})
    for seed, rank, more in (
        (1, 4, {"batch_tokens": 200, "learning_rate": 1e-2, "warmup_steps": 2, "evaluate_from": 500}),
        (2, 2, {"batch_tokens": 200, "learning_rate": 3e-2, "warmup_steps": 2, "evaluate_from": 500}),
    )
]


def test_learns_in_the_loop_together_as_alone_and_resumes_exactly(tmp_path: Path) -> None:
    def stack(configs: Any, points: list[Any]) -> Any:
        return tiny.stack(configs, points, quantised("llama", "nf4-double", tmp_path / "base"))

    together: list[Any] = []
    whole = stack(MEMBERS, together)
    tiny.train(whole, tmp_path / "together", 1e9)
    alone: list[Any] = []
    tiny.train(stack(MEMBERS[:1], alone), tmp_path / "alone", 1e9)
    mine = [point.loss for point in together if point.run == "run-0"]
    assert mine == pytest.approx([point.loss for point in alone], rel=1e-4)
    assert mine[-1] < mine[0] - 0.2

    pieces, points = in_pieces(lambda points: stack(MEMBERS, points), tmp_path / "pieces", (7, None), 0)
    assert comparable(points) == comparable(together)
    assert all(torch.equal(one, other) for one, other in zip(weights(pieces), weights(whole), strict=True))


def formulas() -> dict[Any, Any]:
    """bitsandbytes' own products of x [..., in] with a weight [out, in]."""
    return {
        torch.ops.bitsandbytes.gemm_4bit: lambda x, packed, weight, *_, **__: 2 * math.prod(x) * weight[0],
        torch.ops.bitsandbytes.int8_mixed_scaled_mm: lambda x, rounded, weight, *_, **__: 2 * math.prod(x) * weight[0],
    }


@pytest.mark.parametrize("quantisation", KINDS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_priced_as_torch_counts(kind: str, quantisation: str, tmp_path: Path) -> None:
    config = life.a_run(tmp_path / "shape", plain(kind), {"name": "qlora", "rank": 3, "quantisation": quantisation})
    found = rehearse(config).flops(BatchShape(2, 13, 20)).total
    model = quantised(kind, quantisation, tmp_path / "base")
    assert found == pytest.approx(life.counted_flops(config, model, 2, 13, 20, formulas()), rel=1e-9)


def test_evaluation_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    """On CPUs with bfloat16, bitsandbytes would repack 4-bit weights when it evaluates, and lose gradients from then on."""
    attached = trained("llama", "nf4", tmp_path)
    layers = [module for module in attached.model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)

    def gradients() -> list[Tensor]:
        found = life.answers(attached.model).square().mean()
        return list(torch.autograd.grad(found, attached.tensors(0)))

    before = gradients()
    attached.train(False)
    with torch.no_grad():
        life.answers(attached.model)
    assert all(torch.equal(one, other) for one, other in zip(gradients(), before, strict=True))


def test_without_bitsandbytes_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isolora.methods.qlora.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'isolora\[bnb\]'"):
        qlora.model_options(QloraSettings())


def test_workers_import_it_only_when_weights_are_quantised() -> None:
    """With it comes torch's compiler: 0.75 processor seconds of a worker's imports."""
    program = """
import gc, sys
gc.disable()  # a third of what the imports take
from isolora.lean_imports import import_peft
import_peft()
import_peft()
print("bitsandbytes" in sys.modules, "torch._inductor.compile_fx" in sys.modules)
from peft import LoraConfig
from peft.tuners.lora import Linear4bit
print(Linear4bit.__name__, "bitsandbytes" in sys.modules)
gc.freeze()
"""
    found = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "Linear4bit", "True"]


@pytest.mark.parametrize(("method", "tuner"), [("adalora", "adalora"), ("peft:IA3", "ia3")])
def test_peft_looks_for_it_only_where_a_layer_may_be_quantised(method: str, tuner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT imports it for AdaLoRA, IA3 and others: 2.4 processor seconds. A quantised base has imported it before."""
    asked: list[str] = []
    monkeypatch.setattr(f"peft.tuners.{tuner}.model.is_bnb_available", lambda: asked.append(tuner))
    for name in [name for name in sys.modules if name.split(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    config = tiny.run(method={"name": method}).method
    loaded = registry.load_plug_in("method", config.name)
    loaded.attach(tiny.llama(), [loaded.settings(config.fields())], [0])
    assert (asked, "bitsandbytes" in sys.modules) == ([], False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    loaded.attach(tiny.llama(), [loaded.settings(config.fields())], [0])
    assert set(asked) == {tuner}


@pytest.mark.parametrize("quantisation", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_trains_in_bfloat16(quantisation: str, dropout: float, tmp_path: Path) -> None:
    """A quantised layer answers in float32 where autocast would have bfloat16, and the update has to follow it."""
    settings = QloraSettings(rank=4, quantisation=quantisation, dropout=dropout)
    found = {}
    for precision in ("float32", "bfloat16"):
        attached = qlora.attach(quantised("llama", quantisation, tmp_path), [settings], [0], False)
        attached.train(True)
        for tensor in attached.tensors(0):
            tensor.data.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
        with attached.all_rows(0), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = life.answers(attached.model).float().square().mean()
        loss.backward()
        found[precision] = torch.cat([tensor.grad.flatten() for tensor in attached.tensors(0) if tensor.grad is not None])
    assert len(found["bfloat16"]) == sum(tensor.numel() for tensor in attached.tensors(0))
    away = (found["bfloat16"] - found["float32"]).norm() / found["float32"].norm()
    assert away < 0.1
