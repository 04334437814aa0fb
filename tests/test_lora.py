"""Our LoRA against PEFT's: the same numbers, the same files; and the low-rank update against finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isolora import registry
from isolora.config import parse
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, DataError
from isolora.methods.lora import CONFIG, WEIGHTS, LoraSettings, saved_lora_settings, target_modules
from isolora.methods.low_rank import AdaptedLinear, AdaptedProduct, LowRankUpdate, Rows, dropout_mask

torch.set_num_threads(1)
# PEFT asks transformers for an attribute that will be renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
lora = registry.load_plug_in("method", "lora")

LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "gpt2": ("gpt2", ["c_attn", "c_proj", "c_fc"], {}),
    "gpt2-stabilised": ("gpt2", "all-linear", {"rank_stabilised": True}),
    "gpt2-pattern": ("gpt2", r"transformer\.h\.1\..*c_attn", {}),
    "gpt2-embedding": ("gpt2", ["wte", "c_attn"], {"alpha": 5.0}),
    "llama": ("llama", LLAMA, {"alpha": 3.5}),
    "llama-all-linear": ("llama", "all-linear", {"rank_stabilised": True}),
    "llama-head": ("llama", ["q_proj", "lm_head"], {}),
    "bert": ("bert", ["query", "value", "dense"], {"rank_stabilised": True}),
    "bert-embedding": ("bert", ["word_embeddings", "query", "value"], {}),
    "bert-classifier": ("bert_classifier", ["query", "key", "value", "word_embeddings"], {"alpha": 1.0}),
}


def peft_config(targets: Any, settings: LoraSettings, **changes: Any) -> LoraConfig:
    return LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, use_rslora=settings.rank_stabilised, **changes
    )


def randomise(attached: Any) -> None:
    """Neither factor zero, so that every gradient counts."""
    generator = torch.Generator().manual_seed(3)
    for tensor in attached.tensors(0):
        tensor.data.normal_(std=0.2, generator=generator)


def pair(case: str) -> tuple[Any, Any]:
    """Our adapted model and PEFT's, with the same weights in both."""
    kind, targets, fields = CASES[case]
    settings = LoraSettings(rank=4, targets=targets, **fields)
    ours = lora.attach(tiny.MODELS[kind](), [settings], [0])
    randomise(ours)
    theirs = get_peft_model(tiny.MODELS[kind](), peft_config(targets, settings, fan_in_fan_out=kind == "gpt2")).eval()
    parameters = peft_parameters(theirs)
    assert len(parameters) == 2 * len(ours.layers)
    for key, value in ours._named(0):
        parameters[key].data.copy_(value)
    return ours, theirs


def peft_parameters(model: Any) -> dict[str, Tensor]:
    """PEFT's trained tensors under the names they have in its files."""
    trained = {name: p for name, p in model.named_parameters() if "lora_" in name}
    return {name.replace(".default", ""): p for name, p in trained.items()}


def logits(model: Any) -> Tensor:
    """In double precision, so that the order of sums does not show."""
    ids = tiny.ids()
    ids[0, 6:] = 0  # padding entries, whose embedding never learns
    found: Tensor = model.double()(input_ids=ids).logits
    return found


@pytest.mark.parametrize("case", CASES)
def test_same_logits_and_gradients_as_peft(case: str) -> None:
    ours, theirs = pair(case)
    mine, yours = logits(ours.model), logits(theirs)
    assert float((mine - yours).detach().abs().max()) <= 1e-12
    direction = torch.randn(mine.shape)
    (mine * direction).mean().backward()
    (yours * direction).mean().backward()
    gradients = {key: p.grad for key, p in peft_parameters(theirs).items()}
    worst = max(float((p.grad - gradients[key]).abs().max()) for key, p in ours._named(0))
    assert worst <= 1e-12


@pytest.mark.parametrize("case", CASES)
def test_our_files_load_in_peft(case: str, tmp_path: Path) -> None:
    ours, _ = pair(case)
    ours.save(0, tmp_path)
    theirs = PeftModel.from_pretrained(tiny.MODELS[CASES[case][0]](), str(tmp_path)).eval()
    torch.testing.assert_close(logits(theirs), logits(ours.model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:.*tie")
def test_peft_files_load_here(case: str, tmp_path: Path) -> None:
    _, theirs = pair(case)
    theirs.save_pretrained(str(tmp_path))
    ours = lora.load(tiny.MODELS[CASES[case][0]](), tmp_path)
    torch.testing.assert_close(logits(ours.model), logits(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*tie")
def test_merged_equals_unmerged(case: str) -> None:
    ours, _ = pair(case)
    before = logits(ours.model)
    merged = ours.merge(0)
    assert not any("lora" in type(module).__module__ or "_low_rank" in type(module).__module__ for module in merged.modules())
    torch.testing.assert_close(logits(merged), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_detach_gives_the_base_back(kind: str) -> None:
    model = tiny.MODELS[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attached = lora.attach(model, [LoraSettings(rank=2), LoraSettings(rank=4)], [0, 1])
    randomise(attached)
    logits(model)
    attached.detach()
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_starts_as_the_bare_base_and_depends_on_its_seed_alone() -> None:
    bare = logits(tiny.llama())
    alone = lora.attach(tiny.llama(), [LoraSettings(rank=4)], [5])
    assert torch.equal(logits(alone.model), bare)
    stacked = lora.attach(tiny.llama(), [LoraSettings(rank=2), LoraSettings(rank=4)], [9, 5])
    assert all(torch.equal(a, b) for a, b in zip(alone.tensors(0), stacked.tensors(1), strict=True))


def test_scaling() -> None:
    assert LoraSettings(rank=16, alpha=8).scaling == 0.5
    assert LoraSettings(rank=16, alpha=8, rank_stabilised=True).scaling == 2.0


def test_lora_plus_groups() -> None:
    attached = lora.attach(tiny.llama(), [LoraSettings(rank=2, targets=["q_proj"], b_learning_rate_ratio=16)], [0])
    a, b = attached.groups(0)
    assert (a.learning_rate_ratio, b.learning_rate_ratio) == (1, 16)
    assert [tuple(p.shape) for p in a.parameters] == [(2, 16)] * 2
    assert [tuple(p.shape) for p in b.parameters] == [(16, 2)] * 2


def test_each_member_sees_its_own_rows() -> None:
    """In double precision, where the order of sums is nothing: other libraries than the plain base's make the products."""
    attached = lora.attach(tiny.llama().double(), [LoraSettings(rank=2), LoraSettings(rank=4)], [0, 1])
    for member in (0, 1):
        for tensor in attached.tensors(member):
            tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(member))
    ids = tiny.ids(rows=5)
    with attached.rows([(1, 0, 2), (0, 3, 5)]):
        stacked = attached.model(input_ids=ids).logits
    for member, span in ((1, slice(0, 2)), (0, slice(3, 5))):
        with attached.rows([(member, 0, -1)]):
            torch.testing.assert_close(stacked[span], attached.model(input_ids=ids[span]).logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(stacked[2:3], tiny.llama().double()(input_ids=ids[2:3]).logits, rtol=0, atol=1e-12)


def test_uncovered_rows_of_an_embedding_see_the_base() -> None:
    attached = lora.attach(tiny.gpt2(), [LoraSettings(rank=2, targets=["wte"])], [0])
    randomise(attached)
    ids = tiny.ids(rows=3)
    with attached.rows([(0, 0, 1), (0, 2, 3)]):
        found = attached.model.transformer.wte(ids)
    bare = tiny.gpt2().transformer.wte(ids)
    assert torch.equal(found[1], bare[1])
    assert not torch.equal(found[2], bare[2])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"targets": ["q_prj"]}, "nothing matches"),
        ({"targets": "q_proj"}, "nothing matches"),
        ({"targets": "q_proj("}, "no valid pattern"),
        ({"targets": []}, "nothing matches"),
        ({"rank": 9, "targets": ["k_proj"]}, "at most 8"),
    ],
)
def test_bad_targets_and_ranks_are_one_line(fields: dict[str, Any], line: str) -> None:
    model = tiny.llama()
    with pytest.raises(ConfigError, match=line) as caught:
        lora.attach(model, [LoraSettings(**fields)], [0])
    assert "\n" not in str(caught.value)
    assert type(model.model.layers[0].self_attn.k_proj) is nn.Linear, "a refused adapter leaves the model alone"


def test_stacked_targets_must_agree() -> None:
    with pytest.raises(ConfigError, match="same targets"):
        lora.attach(tiny.llama(), [LoraSettings(), LoraSettings(targets=["q_proj"])], [0, 1])


def test_all_linear_leaves_the_head_out() -> None:
    assert len(target_modules(tiny.llama(), "all-linear")) == 2 * 7
    assert len(target_modules(tiny.gpt2(), "all-linear")) == 2 * 4


def test_gpt2_in_full_counts_as_peft_does(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    config = tiny.run(method={"rank": 8, "targets": ["c_attn"]}).model_copy(update={"model": str(tmp_path)})
    ledger = rehearse(config)
    assert ledger.trainable_parameters == 294_912
    assert ledger.trainable_parameters + ledger.model_parameters == 124_734_720
    assert ledger.body_parameters == 124_439_808 - 50_257 * 768


def test_target_order_does_not_matter_to_the_numbers() -> None:
    assert target_modules(tiny.llama(), ["v_proj", "q_proj"]) == target_modules(tiny.llama(), ["q_proj", "v_proj"])


@pytest.mark.parametrize(
    "change",
    [
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"layers_to_transform": [0]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"peft_type": "IA3"},
        {"target_modules": None},
        {"r": "eight"},
    ],
    ids=str,
)
def test_what_is_not_plain_lora_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    peft_config(["q_proj"], LoraSettings()).save_pretrained(str(tmp_path))
    path = tmp_path / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=next(iter(change))) as caught:
        saved_lora_settings(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_foreign_or_changed_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable adapter_config"):
        lora.load(tiny.llama(), tmp_path)
    lora.attach(tiny.llama(), [LoraSettings(rank=2)], [0]).save(0, tmp_path)
    tensors = load_file(str(tmp_path / WEIGHTS))
    first = next(iter(tensors))
    changes = {
        "is missing": {key: value for key, value in tensors.items() if key != first},
        "the base needs": tensors | {first: torch.zeros(3, 3)},
        "neither a tensor": tensors | {"base_model.model.model.embed_tokens.weight": torch.zeros(tiny.VOCABULARY, 16)},
    }
    for line, changed in changes.items():
        save_file(changed, str(tmp_path / WEIGHTS))
        model = tiny.llama()
        with pytest.raises(DataError, match=line):
            lora.load(model, tmp_path)
        assert type(model.model.layers[0].self_attn.q_proj) is nn.Linear
    (tmp_path / WEIGHTS).write_bytes(b"torn")
    with pytest.raises(DataError, match="no readable adapter_model"):
        lora.load(tiny.llama(), tmp_path)


@pytest.mark.parametrize("x_learns", [True, False])
def test_low_rank_update_gradients(x_learns: bool) -> None:
    """Several spans, with rows before, between and after them that belong to nobody."""
    torch.manual_seed(0)
    spans, scalings = [(1, 1, 3), (0, 3, 4), (2, 6, 9)], [0.5, 2.0, 1.5]
    y, x = (torch.randn(10, width, dtype=torch.float64) for width in (4, 3))
    factors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for r in (2, 1, 3) for shape in ((r, 3), (4, r))]
    y.requires_grad_(True)
    x.requires_grad_(x_learns)

    def update(y: Tensor, x: Tensor, *factors: Tensor) -> Tensor:
        updated: Tensor = LowRankUpdate.apply(y.clone(), x, spans, scalings, *factors)
        return updated

    assert torch.autograd.gradcheck(update, (y, x, *factors))
    expected = y.detach().clone()
    for k, (_, start, stop) in enumerate(spans):
        expected[start:stop] += scalings[k] * x[start:stop].detach() @ (factors[2 * k + 1] @ factors[2 * k]).detach().T
    torch.testing.assert_close(update(y, x, *factors).detach(), expected)
    weight, bias = (torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (4,)))

    def product(x: Tensor, *factors: Tensor) -> Tensor:
        adapted: Tensor = AdaptedProduct.apply(x, weight, bias, spans, scalings, *factors)
        return adapted

    assert torch.autograd.gradcheck(product, (x, *factors))
    changed = expected - y.detach() + (x.detach() @ weight.T + bias)
    torch.testing.assert_close(product(x, *factors).detach(), changed)


def test_dropout_acts_in_training_only() -> None:
    attached = lora.attach(tiny.llama(), [LoraSettings(dropout=0.5)], [0])
    randomise(attached)
    still = logits(attached.model)
    attached.train(True)
    assert not torch.equal(logits(attached.model), still)
    assert not torch.equal(logits(attached.model), logits(attached.model)), "each pass drops anew"
    attached.train(False)
    assert torch.equal(logits(attached.model), still)


def test_dropout_mask_does_not_depend_on_padding() -> None:
    short = dropout_mask(torch.empty(3 * 5, 7), length=5, p=0.3, seed=11).view(3, 5, 7)
    long = dropout_mask(torch.empty(3 * 9, 7), length=9, p=0.3, seed=11).view(3, 9, 7)
    assert torch.equal(short, long[:, :5])
    many = dropout_mask(torch.empty(4000, 50), length=40, p=0.3, seed=1)
    assert float((many == 0).float().mean()) == pytest.approx(0.3, abs=0.005)
    assert float(many.max()) == pytest.approx(1 / 0.7)


def test_recomputed_layers_drop_the_same() -> None:
    settings = [LoraSettings(rank=2, dropout=0.5), LoraSettings(rank=4)]
    life.recomputes_alike(lambda: lora.attach(tiny.llama(), settings, [0, 1]))


def test_settings_fields_are_checked_by_the_run() -> None:
    with pytest.raises(ConfigError, match=r"^method\.rank: .*greater than or equal to 1"):
        parse(type(tiny.run()), {"method": {"rank": 0}})


@pytest.mark.parametrize(("dropout", "step"), [(0.0, "AdaptedProduct"), (0.5, "LowRankUpdate")])
def test_autograd_copies_nothing_for_a_change_in_place(dropout: float, step: str) -> None:
    """An update of a view becomes a `CopySlices`, which clones the gradient of the whole product: a tenth of a step."""
    ours = lora.attach(tiny.llama(), [LoraSettings(dropout=dropout)], [0])
    ours.train(True)
    seen, waiting = set(), [logits(ours.model).grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    names = [node.name() for node in seen]
    assert sum(step in name for name in names) == 2 * 7
    assert not [name for name in names if "CopySlices" in name]


@pytest.mark.parametrize("by", ["forward hook", "forward of its own", "weights in halves"])
def test_what_is_put_around_a_base_layer_is_called(by: str) -> None:
    """An offloading library hangs on to a layer's forward; its base is then called as it is."""
    attached = lora.attach(tiny.llama(), [LoraSettings()], [0])
    layer = attached.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, AdaptedLinear)
    plain, own = layer(x := torch.randn(2, 3, 16)), layer.base.forward
    if by == "forward hook":
        layer.base.register_forward_hook(lambda module, given, out: 2 * out)
    elif by == "forward of its own":
        layer.base.forward = lambda x: 2 * own(x)
    else:
        layer.base.to(torch.bfloat16)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        return
    torch.testing.assert_close(layer(x), 2 * plain)


@pytest.mark.parametrize("rank", [15, 16])
def test_thin_and_wide_factors_are_the_same_sum(rank: int) -> None:
    """On both sides of where products are made with rows and columns exchanged."""
    layer = AdaptedLinear(torch.nn.Linear(24, 20).requires_grad_(False), Rows(), 0, [0.5], [0.0])
    layer.add_member(rank, torch.Generator().manual_seed(0))
    layer.double().b[0].data.normal_()
    x, direction = torch.randn(3, 7, 24, dtype=torch.float64, requires_grad=True), torch.randn(3, 7, 20, dtype=torch.float64)
    trained = [x, layer.a[0], layer.b[0]]
    plain = torch.nn.functional.linear(x, layer.weight + layer.delta(0), layer.bias)
    torch.testing.assert_close(layer(x), plain)
    found, expected = (torch.autograd.grad(y, trained, direction) for y in (layer(x), plain))
    torch.testing.assert_close(found, expected)
