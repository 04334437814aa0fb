"""AdaLoRA: ranks are really taken away, by schedule, and what is saved is what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import load_file

from isolora import registry
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.store import Point
from isolora.training.stack import Stack

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LAYERS, FIRST, TARGET = 2 * 7, 6, 2
NEVER = 1e9
adalora = registry.load_plug_in("method", "adalora")


def a_run(**changes: Any) -> RunConfig:
    method = {"name": "adalora", "init_rank": FIRST, "target_rank": TARGET, "interval_steps": 2, "dropout": 0.2}
    return tiny.run(**{"steps": 40, "seed": 3, "evaluate_from": 400, "method": method, **changes})


def total_rank(stack: Stack) -> int:
    return int(stack.attached.facts(0)["total_rank"])


def test_the_total_rank_falls_to_its_target_on_schedule(tmp_path: Path) -> None:
    """Pruned at every second step between a tenth and seven tenths of the budget; the optimiser revives what is not final."""
    ranks: list[int] = []
    stack = tiny.stack([a_run()])
    tiny.train(stack, tmp_path, NEVER, lambda stack: ranks.append(total_rank(stack)))
    assert ranks[:5] == [LAYERS * FIRST] * 5
    pruned = ranks[5:27:2]
    assert pruned == [int(LAYERS * (TARGET + (FIRST - TARGET) * ((0.7 - step / 40) / 0.6) ** 3)) for step in range(6, 28, 2)]
    assert ranks[27:] == [LAYERS * TARGET] * 13
    by_layer = stack.attached.facts(0)["ranks"]
    assert len(by_layer) == LAYERS
    assert len(set(by_layer.values())) > 2, "layers keep different ranks"
    assert sum(by_layer.values()) == LAYERS * TARGET


def test_the_averaged_adapter_is_saved_as_it_was_measured(tmp_path: Path) -> None:
    """The average remembers steps before the pruning; neither the held-out loss nor the file may."""
    points: list[Point] = []
    stack = tiny.stack([a_run()], points)
    tiny.train(stack, tmp_path / "checkpoints", NEVER)
    stack.members[0].optimizer.exchange()
    stack.attached.save(0, tmp_path / "adapter")
    tensors = load_file(str(tmp_path / "adapter" / "adapter_model.safetensors"))
    by_layer = stack.attached.facts(0)["ranks"]
    for name, rank in by_layer.items():
        shapes = [tuple(tensors[f"base_model.model.{name}.lora_{factor}"].shape) for factor in "EAB"]
        assert (shapes[0], shapes[1][0], shapes[2][1]) == ((rank, 1), rank, rank)
    saved = adalora.load(tiny.llama(), tmp_path / "adapter")
    again = tiny.stack([a_run()])
    again.attached = saved
    again.members[0].optimizer.groups = []
    assert tiny.loop(again, tmp_path).evaluate([0])[0] == pytest.approx(points[-1].loss, rel=1e-6)


@pytest.mark.parametrize("cut", [4, 17, 33])
def test_a_resumed_run_is_the_uninterrupted_one(cut: int, tmp_path: Path) -> None:
    """Cut before the first pruning, between two, and after the last: averages, masks and dropout go on exactly."""
    points: list[Point] = []
    whole = tiny.stack([a_run()], points)
    tiny.train(whole, tmp_path / "whole", NEVER)

    def stop(stack: Stack) -> None:
        if stack.steps == cut:
            tiny.checkpoint(stack, tmp_path / "cut")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tiny.stack([a_run()]), tmp_path / "cut", NEVER, stop)
    rest: list[Point] = []
    resumed = tiny.stack([a_run()], rest)
    tiny.train(resumed, tmp_path / "cut", NEVER)
    assert torch.equal(whole.members[0].optimizer.groups[0].weights, resumed.members[0].optimizer.groups[0].weights)
    assert rest[-1].loss == points[-1].loss
    assert resumed.attached.facts(0) == whole.attached.facts(0)


@pytest.mark.parametrize("budget", [{"tokens": 1000}, {"steps": 12}, {"epochs": 1.5}], ids=str)
def test_every_budget_ends_at_the_target(budget: dict[str, Any], tmp_path: Path) -> None:
    """With no final share, the last step itself is the last pruning."""
    method = {"name": "adalora", "init_rank": FIRST, "target_rank": TARGET, "final_share": 0}
    stack = tiny.stack([tiny.run(method=method, **budget)])
    tiny.train(stack, tmp_path, NEVER)
    assert total_rank(stack) == LAYERS * TARGET


def test_the_orthogonality_loss_counts_once_a_step(tmp_path: Path) -> None:
    method = {"name": "adalora", "init_rank": FIRST, "target_rank": TARGET, "orthogonality": 0.5}
    once, split = (tiny.stack([tiny.run(method=method, steps=8, accumulation=parts)]) for parts in (1, 3))
    tiny.train(once, tmp_path / "1", NEVER)
    tiny.train(split, tmp_path / "3", NEVER)
    torch.testing.assert_close(*(stack.members[0].optimizer.groups[0].weights for stack in (once, split)), rtol=0, atol=1e-4)


def test_the_orthogonality_loss_is_pefts() -> None:
    ids = tiny.ids()
    ours = adalora.attach(tiny.llama(), [adalora.settings({"init_rank": 4, "target_rank": 2, "orthogonality": 0.3})], [0])
    config = AdaLoraConfig(init_r=4, total_step=9, orth_reg_weight=0.3, target_modules=ours.config.target_modules)
    theirs = get_peft_model(tiny.llama(), config)
    for name, parameter in theirs.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(ours.peft.get_parameter(name))
    with_loss = theirs.base_model(input_ids=ids, labels=ids).loss
    without = theirs.base_model.model(input_ids=ids, labels=ids).loss
    found = ours.extra_loss()
    assert found is not None
    assert float(found.detach()) == pytest.approx(float((with_loss - without).detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"init_rank": 4, "target_rank": 5}, "method.target_rank: 5 is larger than init_rank 4"),
        ({"warmup_share": 0.5, "final_share": 0.5}, "no budget is left for pruning"),
        ({"rank": 4}, "unknown key 'rank'"),
    ],
)
def test_bad_settings_are_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        tiny.run(method={"name": "adalora", **fields})
    assert "\n" not in str(caught.value)


def test_wrong_targets_name_what_exists() -> None:
    with pytest.raises(ConfigError, match=r"nothing matches .*q_proj"):
        adalora.attach(tiny.llama(), [adalora.settings({"targets": ["q_prj"]})], [0])
