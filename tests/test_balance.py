"""Stacks are handed out so that workers finish together."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from isolora.config import RunConfig, load_study, parse
from isolora.study import design
from isolora.study.balance import balanced, makespan, run_size, weight_bytes

DEMO = Path(__file__).resolve().parents[1] / "src" / "isolora" / "assets" / "demo.yaml"
SIZES = {"nano-1m": 35.0, "nano-440k": 22.0, "nano-150k": 13.0, "nano-55k": 10.0}


def a_job(model: str, members: int = 1) -> design.Job:
    return tuple(RunConfig(model=model, seed=seed) for seed in range(members))


def by_name(run: RunConfig) -> float:
    return SIZES[run.model]


def test_the_longest_goes_first() -> None:
    jobs = [a_job("nano-55k"), a_job("nano-150k"), a_job("nano-440k")]
    assert makespan(jobs, 2, by_name) == 23  # 22 beside 13 + 10; in the order given it would be 32
    assert [job[0].model for job in balanced(jobs, 2, by_name)] == ["nano-440k", "nano-150k", "nano-55k"]
    assert balanced(jobs, 1, by_name) == jobs


def test_a_stack_is_cut_where_one_worker_would_wait() -> None:
    jobs = [a_job("nano-1m", 2), a_job("nano-150k")]
    cut = balanced(jobs, 2, by_name)
    assert [(job[0].model, len(job)) for job in cut] == [("nano-1m", 1), ("nano-1m", 1), ("nano-150k", 1)]
    assert (makespan(jobs, 2, by_name), makespan(cut, 2, by_name)) == (70, 48)
    assert balanced([a_job("nano-1m", 2)] * 2, 2, by_name) == [a_job("nano-1m", 2)] * 2  # both finish together as it is


def test_the_demo_leaves_no_worker_waiting() -> None:
    runs = design.grid_runs(load_study(DEMO))
    jobs = balanced(design.stacks(runs, 8), 2)
    assert sorted(run.identity() for run in chain(*jobs)) == sorted(run.identity() for run in runs)
    alone = sum(map(run_size, runs))
    assert makespan(design.stacks(runs, 8), 2, run_size) > 1.1 * alone / 2
    assert makespan(jobs, 2, run_size) < 1.02 * alone / 2


@pytest.mark.parametrize(("training", "tokens"), [({"tokens": 1000}, 1000), ({"steps": 10, "batch_tokens": 200}, 2000)])
def test_a_size_is_tokens_times_weights(training: dict[str, int], tokens: int) -> None:
    small, large = (parse(RunConfig, {"model": model, "training": training}) for model in ("nano-55k", "nano-1m"))
    assert weight_bytes("nano-1m") == 3_063_448
    assert run_size(large) == tokens * (5e5 + 3_063_448) > 3 * run_size(small)
