"""The design of a study: which runs a grid means, what tuning picks, and who rides with whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from isolora import registry
from isolora.config import RunConfig, StudyConfig, parse
from isolora.errors import ConfigError
from isolora.methods.lora import Lora
from isolora.study.design import cell_words, grid_runs, stacks, trial_runs, tuned_runs

RATE, RANK = "training.learning_rate", "method.rank"
RATES = [1e-3, 1e-2, 1e-1]


def a_study(grid: dict[str, list[Any]], **fields: Any) -> StudyConfig:
    base = {"model": "tiny", "data": {"source": "texts.jsonl"}, "training": {"steps": 6, "batch_tokens": 48}}
    return parse(StudyConfig, {"base": base, "grid": grid, "own_seeds": False, **fields})


def tuned(seeds: list[int] | None = None, **fields: Any) -> StudyConfig:
    grid = {RANK: [2, 4], RATE: RATES, **({"seed": seeds} if seeds else {})}
    return a_study(grid, tune={"over": RATE, "tokens": 5000}, **fields)


def losses(study: StudyConfig, loss: Callable[[int, float], float | None]) -> dict[RunConfig, float]:
    """loss(rank, learning rate) of every trial; None for one that diverged."""
    found = {run: loss(rank(run), run.training.learning_rate) for run in trial_runs(study)}
    return {run: value for run, value in found.items() if value is not None}


def rank(run: RunConfig) -> int:
    return int(run.method.fields()["rank"])


def test_the_first_key_of_a_grid_turns_slowest() -> None:
    runs = grid_runs(a_study({RANK: [4, 2], RATE: [1e-2, 1e-3], "seed": [0, 1]}))
    found = [(rank(run), run.training.learning_rate, run.seed) for run in runs]
    assert found == [(r, rate, seed) for r in (4, 2) for rate in (1e-2, 1e-3) for seed in (0, 1)]
    assert {run.training.budget for run in runs} == {("steps", 6.0)}
    assert len({run.identity() for run in runs}) == 8


def test_a_grid_may_replace_the_budget_of_its_base() -> None:
    runs = grid_runs(a_study({"training.tokens": [100, 200]}))
    assert [run.training.budget for run in runs] == [("tokens", 100.0), ("tokens", 200.0)]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"method.rnk": [2]}, "method.rnk: unknown key 'rnk'; did you mean 'rank'"),
        ({RATE: [1e-3, -1]}, "training.learning_rate"),
        ({"model.size": [1]}, "model.size: model is not a group of keys"),
    ],
)
def test_a_wrong_field_is_named(grid: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        grid_runs(a_study(grid))
    assert "\n" not in str(caught.value)


def test_own_seeds_differ_and_can_be_drawn_again() -> None:
    grid = {RANK: [2, 4], RATE: RATES}
    first, second = (grid_runs(a_study(grid, own_seeds=True)) for _ in range(2))
    assert [run.seed for run in first] == [run.seed for run in second]
    assert len({run.seed for run in first}) == 6
    assert [run.seed for run in grid_runs(a_study({**grid, "seed": [3]}, own_seeds=True))] == [3] * 6
    named = grid_runs(a_study({}, own_seeds=True, runs=[{"seed": 5}, {"method.rank": 2}]))
    assert named[0].seed == 5, "a run that names its seed has it"
    assert named[1].seed not in (0, 5)


def test_trials_are_the_grid_on_the_small_budget_and_the_first_seed() -> None:
    trials = trial_runs(tuned(seeds=[5, 6], own_seeds=True))
    assert [(rank(run), run.training.learning_rate) for run in trials] == [(r, rate) for r in (2, 4) for rate in RATES]
    assert {(run.seed, run.training.budget, run.training.evaluate_from) for run in trials} == {(5, ("tokens", 5000.0), 5000.0)}


def test_each_cell_goes_on_with_its_best_rate() -> None:
    """Rank 2 is best in the middle; rank 4 at the upper edge, which is said."""
    study = tuned(seeds=[5, 6])
    best = {2: 1e-2, 4: 1e-1}
    runs, remarks = tuned_runs(study, losses(study, lambda r, rate: 3.0 if rate == best[r] else 4.0))
    assert [(rank(run), run.training.learning_rate, run.seed) for run in runs] == [
        (r, best[r], s) for r in (2, 4) for s in (5, 6)
    ]
    assert {run.training.budget for run in runs} == {("steps", 6.0)}
    assert remarks == [f"{RATE}: the best value 0.1 lies at the edge of the grid for {RANK} 4; a value beyond it may be better"]


def test_a_cell_of_a_method_is_said_in_words() -> None:
    assert cell_words({"model": "m", "method": {"name": "lora", "rank": 8}}) == "model m, method lora with rank 8"
    assert cell_words({"method": {"name": "full"}}) == "method full"
    assert cell_words({}) == "the only cell"


def test_cells_at_the_same_edge_are_said_in_one_sentence() -> None:
    study = tuned()
    _, remarks = tuned_runs(study, losses(study, lambda r, rate: 1 / rate))
    assert remarks == [
        f"{RATE}: the best value 0.1 lies at the edge of the grid for 2 cells, such as {RANK} 2; a value beyond it may be better"
    ]


def test_winners_get_seeds_of_their_own() -> None:
    study = tuned(own_seeds=True)
    runs, _ = tuned_runs(study, losses(study, lambda r, rate: abs(rate - 1e-2)))
    assert len({run.seed for run in runs} | {0}) == 3
    assert {run.identity() for run in runs} <= {run.identity() for run in grid_runs(study)}


def test_a_diverged_trial_is_never_chosen() -> None:
    study = tuned()
    runs, remarks = tuned_runs(study, losses(study, lambda r, rate: None if rate == 1e-1 else 10 - rate))
    assert [run.training.learning_rate for run in runs] == [1e-2, 1e-2]
    assert remarks == []


def test_a_cell_whose_trials_all_diverged_is_named() -> None:
    study = tuned()
    runs, remarks = tuned_runs(study, losses(study, lambda r, rate: None if r == 4 else abs(rate - 1e-2)))
    assert len(runs) == 2
    assert remarks == [f"{RATE}: every trial diverged for {RANK} 4; going on with 0.001"]


def test_one_value_has_no_edge() -> None:
    study = a_study({RANK: [2], RATE: [1e-2]}, tune={"over": RATE, "tokens": 100})
    assert tuned_runs(study, losses(study, lambda r, rate: 1.0))[1] == []


def test_the_tuned_key_has_to_be_in_the_grid() -> None:
    with pytest.raises(ConfigError, match=r"tune\.over: 'training\.learning_rate' is not a key of grid \(valid: method\.rank\)"):
        a_study({RANK: [2]}, tune={"over": RATE, "tokens": 100})


@pytest.mark.parametrize(
    ("grid", "size", "widths"),
    [
        ({RANK: [2, 4], RATE: RATES, "seed": [0, 1]}, 8, [8, 4]),
        ({RANK: [2, 4], RATE: RATES, "seed": [0, 1]}, 1, [1] * 12),
        ({"method.dropout": [0, 0.1], "method.alpha": [8, 16], "method.rank_stabilised": [True, False]}, 8, [8]),
        ({"training.head_learning_rate_ratio": [1, 10], RATE: RATES}, 8, [6]),
        ({"model": ["a", "b"], RATE: RATES}, 8, [3, 3]),
        ({"training.tokens": [100, 200], RANK: [2, 4]}, 8, [2, 2]),
        ({"data.train_examples": [10, 20], RANK: [2, 4]}, 8, [2, 2]),
        ({"training.batch_tokens": [48, 96], RANK: [2, 4]}, 8, [2, 2]),
        ({"method.targets": [["q_proj"], "all-linear"], RANK: [2, 4]}, 8, [2, 2]),
        ({"training.clip_norm": [1.0, None]}, 8, [1, 1]),
    ],
    ids=str,
)
def test_who_rides_together(grid: dict[str, list[Any]], size: int, widths: list[int]) -> None:
    runs = grid_runs(a_study(grid))
    found = stacks(runs, size)
    assert [len(stack) for stack in found] == widths
    assert sorted(run.identity() for stack in found for run in stack) == sorted(run.identity() for run in runs)


def test_a_stack_keeps_the_order_of_its_runs() -> None:
    runs = grid_runs(a_study({RANK: [2, 4], "model": ["a", "b"]}))
    assert [[(run.model, rank(run)) for run in stack] for stack in stacks(runs, 8)] == [
        [("a", 2), ("a", 4)],
        [("b", 2), ("b", 4)],
    ]


def test_a_method_that_cannot_be_stacked_rides_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(registry.load_plug_in("method", "lora"), Lora)
    monkeypatch.setattr(Lora, "stackable", False)
    assert [len(stack) for stack in stacks(grid_runs(a_study({RANK: [2, 4]})), 8)] == [1, 1]
