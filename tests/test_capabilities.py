"""What a method declares is what it does: over every method there is, and every type of PEFT's."""

from __future__ import annotations

from typing import Any

import life
import pytest
import tiny
import torch
from person import one_line
from test_peft_variants import FIELDS

from isolora import registry
from isolora.config import parse
from isolora.config.run_config import RunConfig
from isolora.errors import ConfigError
from isolora.methods.peft.pass_through import ONLY_LOADED, types
from isolora.runs.prepared import attach

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
]
NAMES = [*(name for name in registry.names("method") if name != "peft"), *(f"peft:{kind}" for kind in types())]
OWN: dict[str, dict[str, Any]] = {"selective": {"train": "norms"}}
POSITIONS = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
"""Two documents in one row, of 5 and 4 tokens."""


def attached(name: str, model: Any) -> Any:
    method = registry.load_plug_in("method", name)
    fields = OWN.get(name, FIELDS.get(name.removeprefix("peft:"), {}))
    return method.attach(model, [method.settings(fields)], [0])


@torch.no_grad()
def second_document(adapter: Any, ids: torch.Tensor) -> torch.Tensor:
    with adapter.rows([(0, 0, -1)]):
        logits: torch.Tensor = adapter.model(input_ids=ids, position_ids=POSITIONS, use_cache=False).logits[0, 5:]
    return logits


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", NAMES)
def test_position_aware_methods_keep_packed_documents_apart(name: str, kind: str) -> None:
    """Prompt, p-tuning and prefix tuning let the second document see the first: losses moved by 0.03 to 0.28 nats."""
    try:
        adapter = attached(name, tiny.MODELS[kind]())
    except ConfigError:
        pytest.skip("not defined for this architecture")
    generator = torch.Generator().manual_seed(2)
    for tensor in adapter.tensors(0):
        tensor.data.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    adapter.train(False)
    ids = tiny.ids(1, 9)
    other = torch.cat([tiny.ids(1, 5, seed=4), ids[:, 5:]], 1)
    seen = float((second_document(adapter, ids) - second_document(adapter, other)).abs().max())
    assert (seen == 0) == registry.load_plug_in("method", name).position_aware


@pytest.mark.parametrize("name", ["prompt", "p-tuning", "prefix"])
@pytest.mark.parametrize("packing", [True, False])
def test_packing_is_refused_where_documents_would_see_each_other(name: str, packing: bool) -> None:
    """Wherever a run's method is attached: by the loop, by other trainers and by the ledger."""
    task = {"name": "causal-lm", "packing": packing}
    config = parse(RunConfig, {"method": name, "task": task, "training": {"steps": 1}})
    if not packing:
        assert attach([config], tiny.llama(), False, tiny.VOCABULARY).members == 1
        return
    with pytest.raises(ConfigError, match=rf"^task\.packing: method {name} drops the positions") as caught:
        attach([config], tiny.llama(), False, tiny.VOCABULARY)
    one_line(caught)


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_is_declared_where_a_run_can_set_it(name: str) -> None:
    method = registry.load_plug_in("method", name)
    assert method.has_rank == (name in ("lora", "qlora"))
    if method.has_rank:
        assert method.settings({"rank": 3}).rank == 3
    else:
        with pytest.raises(ValueError, match="rank"):
            method.settings({**OWN.get(name, FIELDS.get(name.removeprefix("peft:"), {})), "rank": 3})


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("peft:")])
def test_merging_is_declared(name: str) -> None:
    """PEFT's types are merged in their own tests."""
    adapter = attached(name, tiny.llama())
    if registry.load_plug_in("method", name).mergeable:
        assert life.logits(adapter.merge(0)).isfinite().all()
    else:
        with pytest.raises(ConfigError, match="cannot be merged"):
            adapter.merge(0)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("peft:")])
def test_virtual_tokens_are_positions_that_a_row_loses(name: str) -> None:
    method = registry.load_plug_in("method", name)
    fields = {"virtual_tokens": 7} if "virtual_tokens" in method.Settings.model_fields else OWN.get(name, {})
    assert method.virtual_tokens(method.settings(fields)) == (7 if name in ("prompt", "p-tuning", "prefix") else 0)


@pytest.mark.parametrize("kind", ONLY_LOADED)
def test_a_type_whose_tokens_see_the_whole_batch_is_not_trained(kind: str) -> None:
    """LILY's experts are mixed by their mean over all tokens, those behind a token and those of other rows too."""
    with pytest.raises(ConfigError, match=rf"peft:{kind} cannot be trained here: it mixes its experts") as caught:
        attached(f"peft:{kind}", tiny.llama())
    one_line(caught)


def test_why_lily_is_not_trained() -> None:
    """A token's scores changed with the tokens behind it, so that the loss of a decoder was that of one who peeks."""
    from isolora.methods.peft.adapter import PeftMethod

    method = registry.load_plug_in("method", "peft:LILY")
    adapter = PeftMethod.attach(method, tiny.llama(), [method.settings({"r": 4})], [0])
    for tensor in adapter.tensors(0):
        tensor.data.normal_(generator=torch.Generator().manual_seed(1))
    ids, later = tiny.ids(1, 9), tiny.ids(1, 9)
    later[0, -1] = 2 + (later[0, -1] + 5) % 50
    assert (life.answers(adapter.model, ids)[0, :-1] - life.answers(adapter.model, later)[0, :-1]).abs().max() > 1e-3
