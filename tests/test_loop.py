"""The loop: a stacked member walks the path of the same run alone, and every budget stops where it should."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora import registry
from isolora.config import DataConfig, RunConfig
from isolora.ledger import GROUPS, PHASES, TERMS, Ledger
from isolora.runs.optimizer import averaging_weight, rate_factor
from isolora.store import DIVERGED, DONE, Point, Store
from isolora.training import train, train_stack
from isolora.training.progress_bar import ProgressBar
from isolora.training.stack import Stack

torch.set_num_threads(1)
NEVER = 1e9
# Rates at which a path is not chaotic: at 2e-2 the third, started 1e-7 beside itself, is 10 % off after 50 steps, alone as well.
FOUR = [
    tiny.run(seed=1, method={"rank": 2}, steps=50, learning_rate=3e-3),
    tiny.run(seed=2, method={"rank": 4, "dropout": 0.3}, steps=50, learning_rate=1e-2),
    tiny.run(seed=3, method={"rank": 8, "rank_stabilised": True}, steps=50, learning_rate=5e-3, clip_norm=0.1),
    tiny.run(seed=4, method={"rank": 16, "b_learning_rate_ratio": 4}, steps=50, learning_rate=5e-3, schedule="linear"),
]


def wide() -> Any:
    """Wide enough for rank 16."""
    return tiny.llama(hidden_size=32, num_key_value_heads=4)


def losses_of(stack: Stack, folder: Path) -> list[list[float]]:
    """Training loss of every member at every step but those that end in an evaluation, which starts the sum anew."""
    seen: list[list[float]] = [[] for _ in stack.members]

    def on_step(stack: Stack) -> None:
        for losses, member in zip(seen, stack.members, strict=True):
            if member.running and member.progress.loss_count:
                losses.append(member.progress.loss_sum / member.progress.loss_count)

    tiny.train(stack, folder, NEVER, on_step)
    return seen


def relative(one: Sequence[float], other: Sequence[float]) -> float:
    assert len(one) == len(other) > 0
    return float(np.max(np.abs(np.array(one) / np.array(other) - 1)))


def test_four_members_together_are_the_four_alone(tmp_path: Path, record_property: Any) -> None:
    points: list[Point] = []
    together = losses_of(tiny.stack(FOUR, points, wide()), tmp_path / "together")
    worst = 0.0
    for k, config in enumerate(FOUR):
        own: list[Point] = []
        alone = tiny.stack([config], own, wide())
        alone.names = [f"run-{k}"]
        worst = max(worst, relative(together[k], losses_of(alone, tmp_path / f"alone-{k}")[0]))
        mine = [point for point in points if point.run == f"run-{k}"]
        worst = max(worst, relative([p.loss for p in mine], [p.loss for p in own]))
        assert [counts(p) for p in mine] == [counts(p) for p in own]
        assert together[k][-1] < together[k][0], "something is learnt"
    record_property("largest relative difference", worst)
    assert worst <= 1e-5


def counts(point: Point) -> dict[str, Any]:
    """What does not depend on arithmetic, clocks or the process."""
    left_out = {"loss": 0, "train_loss": 0, "seconds": 0, "peak_memory_bytes": 0}
    return dataclasses.asdict(dataclasses.replace(point, **left_out))


def test_dropout_is_really_on(tmp_path: Path) -> None:
    plain = FOUR[1].model_copy(update={"method": FOUR[0].method})
    dropped = tiny.run(seed=2, method={"rank": 2, "dropout": 0.3}, steps=50, learning_rate=1e-2)
    first, second = (losses_of(tiny.stack([config]), tmp_path / str(k))[0] for k, config in enumerate((plain, dropped)))
    assert relative(first, second) > 1e-3


@pytest.mark.parametrize("how", ["nan", "rate"])
def test_a_diverging_member_does_not_disturb_the_others(how: str, tmp_path: Path) -> None:
    configs = [tiny.run(seed=seed, steps=12, learning_rate=1e30 if how == "rate" and seed == 1 else 1e-2) for seed in range(3)]
    points: list[Point] = []
    stack = tiny.stack(configs, points)

    def on_step(stack: Stack) -> None:
        if how == "nan" and stack.steps == 4:
            stack.members[1].optimizer.groups[0].weights.data[0] = torch.nan

    tiny.train(stack, tmp_path / "together", NEVER, on_step)
    assert [member.progress.state for member in stack.members] == [DONE, DIVERGED, DONE]
    assert all(np.isfinite(point.loss) for point in points)
    for k in (0, 2):
        own: list[Point] = []
        tiny.train(tiny.stack([configs[k]], own), tmp_path / f"alone-{k}", NEVER)
        assert relative([p.loss for p in points if p.run == f"run-{k}"], [p.loss for p in own]) < 1e-5


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_accumulation_changes_nothing_but_rounding(parts: int, tmp_path: Path) -> None:
    once, split = (
        losses_of(tiny.stack([tiny.run(seed=1, steps=20, accumulation=accumulation)]), tmp_path / str(accumulation))[0]
        for accumulation in (1, parts)
    )
    assert relative(once, split) < 1e-4


def test_recomputation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    kept, recomputed = tiny.llama(), tiny.llama()
    recomputed.activation_checkpointing_enable()
    first, second = (
        losses_of(tiny.stack(FOUR[:2], model=model), tmp_path / str(k)) for k, model in enumerate((kept, recomputed))
    )
    assert relative(first[1], second[1]) < 1e-6


# Six examples that fall into three batches whatever their order: 4+4+4, 4+6 with 2 of padding, 6.
LENGTHS = [4, 4, 4, 4, 6, 6]
PASS = {"tokens": 28, "padding_tokens": 2, "flops": 3 * (120 + 48 + 45) + 3 * (120 + 72 + 40) + 3 * (60 + 36 + 25)}


def worked(folder: Path, **training: Any) -> tuple[list[Point], list[int]]:
    """Points of a run over the six examples, and its tokens after every step."""
    points: list[Point] = []
    tokens: list[int] = []
    config = tiny.run(**{"batch_tokens": 12, "evaluate_from": NEVER, **training})
    stack = tiny.stack([config], points, train=tiny.examples(LENGTHS))
    tiny.train(stack, folder, NEVER, lambda stack: tokens.append(stack.members[0].progress.tokens))
    return points, tokens


def test_counts_by_hand(tmp_path: Path) -> None:
    (point,), tokens = worked(tmp_path, epochs=2)
    assert (point.step, tokens[-1]) == (6, 56)
    assert (point.tokens, point.padding_tokens, point.flops) == tuple(
        2 * PASS[key] for key in ("tokens", "padding_tokens", "flops")
    )
    assert (point.unique_tokens, point.unique_examples, point.passes) == (28, 6, 2.0)
    assert (point.trainable_parameters, point.body_parameters, point.model_parameters) == (7, 11, 13)


def test_flops_are_kept_by_group_and_phase(tmp_path: Path) -> None:
    """The price of tiny.LEDGER is the adapter's alone, a third in each phase; what a checkpoint holds goes on."""
    (point,), _ = worked(tmp_path / "whole", epochs=2)
    third = pytest.approx(2 * PASS["flops"] / 3, rel=1e-12)
    booked = {"forward": third, "backward_inputs": third, "backward_weights": third, "recomputation": 0, "reference": 0}
    assert json.loads(point.flops_by_group) == {"adapter": booked}
    points: list[Point] = []
    config = tiny.run(batch_tokens=12, evaluate_from=NEVER, epochs=2)
    first, second = (tiny.stack([config], points, train=tiny.examples(LENGTHS)) for _ in range(2))
    for _ in range(4):
        first.step()
    tiny.checkpoint(first, tmp_path / "cut")
    tiny.train(second, tmp_path / "cut", NEVER)
    assert points[-1].flops_by_group == point.flops_by_group


def test_accumulation_pads_less(tmp_path: Path) -> None:
    (point,), _ = worked(tmp_path, epochs=1, accumulation=2)
    assert (point.tokens, point.padding_tokens) == (28, 0)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 4}, 4),
        ({"tokens": 28}, 3),
        ({"tokens": 28.5}, 4),
        ({"epochs": 1}, 3),
        ({"epochs": 4 / 3}, 4),
        ({"flops": PASS["flops"]}, 3),
        ({"flops": PASS["flops"] + 1}, 4),
        ({"tokens": 1}, 1),
    ],
    ids=str,
)
def test_budgets_stop_where_they_should(budget: dict[str, float], steps: int, tmp_path: Path) -> None:
    (point,), tokens = worked(tmp_path, **budget)
    assert point.step == len(tokens) == steps
    assert point.passes == pytest.approx(point.tokens / min(28, point.tokens))


def test_evaluations_are_spaced(tmp_path: Path) -> None:
    points, tokens = worked(tmp_path, epochs=6, evaluate_from=20, evaluate_ratio=2)
    expected = sorted({next(count for count in tokens if count >= mark) for mark in (20, 40, 80, 160)} | {tokens[-1]})
    assert [point.tokens for point in points] == expected
    assert all(point.train_loss > 0 for point in points)


def test_held_out_loss_is_that_of_the_averaged_weights(tmp_path: Path) -> None:
    points: list[Point] = []
    config: RunConfig = tiny.run(steps=7, averaging=0, method={"dropout": 0.4})
    held_out = tiny.examples([5, 9, 12], seed=2)
    stack = tiny.stack([config], points, held_out=held_out)
    path: list[torch.Tensor] = []
    tiny.train(stack, tmp_path, NEVER, lambda stack: path.append(stack.members[0].optimizer.groups[0].weights.detach().clone()))
    group = stack.members[0].optimizer.groups[0]
    torch.testing.assert_close(group.average, torch.stack(path).mean(0), rtol=1e-5, atol=1e-6)
    group.exchange()
    total = 0.0
    for start, stop in zip(held_out.starts[:-1], held_out.starts[1:], strict=True):
        ids = torch.from_numpy(held_out.ids[start:stop].astype(np.int64))[None]
        with torch.no_grad():
            total += float(stack.attached.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    assert points[-1].loss == pytest.approx(total / (4 + 8 + 11), rel=1e-5)


def test_lora_plus_steps_are_longer_for_b(tmp_path: Path) -> None:
    """Adam's first step is the learning rate in every direction; A has no gradient while B is zero."""
    config = tiny.run(steps=1, warmup_steps=0, learning_rate=1e-3, method={"b_learning_rate_ratio": 16})
    stack = tiny.stack([config])
    a, b = (group.weights.detach().clone() for group in stack.members[0].optimizer.groups)
    tiny.train(stack, tmp_path, NEVER)
    moved_a, moved_b = (group.weights.detach() for group in stack.members[0].optimizer.groups)
    assert float((moved_b - b).abs().median()) == pytest.approx(16e-3, rel=1e-3)
    assert torch.equal(moved_a, a)


def test_rates_by_hand() -> None:
    training = tiny.run(steps=100, warmup_steps=4).training
    assert [rate_factor(training, step, 0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    linear, cosine = (tiny.run(steps=10, warmup_steps=0, schedule=name).training for name in ("linear", "cosine"))
    assert [rate_factor(linear, step, step / 10) for step in (0, 5, 9)] == pytest.approx([1, 0.5, 0.1])
    assert [rate_factor(cosine, step, step / 10) for step in (0, 5)] == pytest.approx([1, 0.5])


@pytest.mark.parametrize("budget", [{"steps": 6}, {"tokens": 56}, {"epochs": 2}, {"flops": 2 * PASS["flops"]}], ids=str)
def test_a_decayed_schedule_uses_its_last_step(budget: dict[str, float], tmp_path: Path) -> None:
    """The rate of a step depends on the budget spent before it: whole at the first, above zero at the last."""
    stack = tiny.stack([tiny.run(batch_tokens=12, warmup_steps=0, schedule="linear", **budget)], train=tiny.examples(LENGTHS))
    rates: list[float] = []
    tiny.train(stack, tmp_path, NEVER, lambda stack: rates.append(stack.members[0].optimizer.adamw.param_groups[0]["lr"]))
    assert rates[0] == 1e-2
    assert len(rates) == 6
    assert all(earlier > later > 0 for earlier, later in pairwise(rates))


def test_averaging_window() -> None:
    """Weights of the steps in the final average: all alike for exponent 0, a fixed late share for 8."""

    def shares(exponent: float, steps: int) -> np.ndarray:
        shares = np.zeros(steps)
        for step in range(1, steps + 1):
            weight = averaging_weight(exponent, step)
            shares *= 1 - weight
            shares[step - 1] = weight
        return shares

    assert shares(0, 10) == pytest.approx(np.full(10, 0.1))
    for steps in (100, 1000):
        assert shares(8, steps).sum() == pytest.approx(1)
        assert shares(8, steps)[steps // 2 :].sum() == pytest.approx(1 - 0.5**9, abs=0.01)


def test_members_with_other_budgets_end_on_their_own(tmp_path: Path) -> None:
    points: list[Point] = []
    stack = tiny.stack([tiny.run(seed=1, steps=3), tiny.run(seed=2, steps=8), tiny.run(seed=3, epochs=1)], points)
    tiny.train(stack, tmp_path, NEVER)
    last = {point.run: point for point in points}
    assert (last["run-0"].step, last["run-1"].step) == (3, 8)
    assert last["run-2"].unique_examples == 40
    assert stack.steps == max(point.step for point in points)


def test_seconds_are_shared_by_tokens(tmp_path: Path) -> None:
    stack = tiny.stack([tiny.run(seed=1, steps=5, batch_tokens=16), tiny.run(seed=2, steps=5, batch_tokens=160)])
    tiny.train(stack, tmp_path, NEVER)
    small, large = (member.progress for member in stack.members)
    assert 0 < small.seconds < large.seconds


def test_the_ledger_prices_the_loop(tmp_path: Path) -> None:
    points: list[Point] = []
    price = Ledger(np.eye(TERMS)[3] * np.eye(len(GROUPS))[5][:, None] * np.eye(len(PHASES))[0][:, None, None], 1, 1, 1)
    tiny.train(tiny.stack([tiny.run(epochs=1)], points, train=tiny.examples(LENGTHS), ledger=price), tmp_path, NEVER)
    assert points[-1].flops == 28 - 6  # one label less than tokens in each example


@pytest.fixture
def from_files(tmp_path: Path) -> RunConfig:
    """A run whose model and texts lie in a folder."""
    model = tiny.save(tmp_path / "model", tiny.llama())
    rows = [[f"w{entry}" for entry in tiny.examples([9], seed=seed).ids] for seed in range(60)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": " ".join(row)}) + "\n" for row in rows))
    data = DataConfig(source=str(tmp_path / "texts.jsonl"), eval_examples=5)
    return tiny.run(steps=4, batch_tokens=36).model_copy(update={"model": model, "data": data})


def test_from_files_to_an_adapter_that_peft_loads(from_files: RunConfig, tmp_path: Path) -> None:
    ended = train(from_files, tmp_path / "out", quiet=True)
    assert (ended["state"], ended["step"], ended["tokens"]) == ("complete", 4, 4 * 36)
    assert ended == train(from_files, tmp_path / "out", quiet=True), "a finished run is not repeated"
    record = json.loads((tmp_path / "out" / "adapter" / "isolora.json").read_text())
    attached = registry.load_plug_in("method", "lora").load(tiny.llama(), tmp_path / "out" / "adapter")
    assert record["loss"] == ended["loss"]
    assert all(tensor.abs().sum() > 0 for tensor in attached.tensors(0))


def test_divergence_is_entered_with_its_reason(from_files: RunConfig, tmp_path: Path) -> None:
    wild = from_files.training.model_copy(update={"learning_rate": 1e30})
    store = Store(tmp_path / "out")
    names = train_stack([from_files, from_files.model_copy(update={"training": wild, "seed": 1})], store, "grid", quiet=True)
    assert [store.states()[name] for name in names] == [DONE, DIVERGED]
    assert "not finite at step" in store.runs()[1]["reason"]
    assert (tmp_path / "out" / "adapters" / names[0]).is_dir()
    assert not (tmp_path / "out" / "adapters" / names[1]).exists()
    assert not list((tmp_path / "out").glob("checkpoints/*"))


def test_members_own_rows_one_after_the_other() -> None:
    stack = tiny.stack(FOUR, model=wide())
    assigned: list[Any] = []
    stack.attached.rows = assigned.append  # type: ignore[method-assign]
    stack.attached.rows_of({3: 2, 0: 5, 1: 1})
    assert assigned == [[(3, 0, 2), (0, 2, 7), (1, 7, 8)]]


def test_progress_ends_at_a_hundred_per_cent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last batch goes beyond the budget; nobody is told 101 %."""
    monkeypatch.setattr("isolora.training.progress_bar.PLAIN_SECONDS", -1.0)
    with ProgressBar("nano-55k x 6") as bar:
        bar.update(1.013, "")
    assert capsys.readouterr().err == "nano-55k x 6: 100%\n"
