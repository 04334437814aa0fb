"""Pruning: what a trial is judged by, and what giving up one run leaves of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from studies import RATE, a_search, search_base, trials

from isolora.errors import ConfigError
from isolora.store import DONE, PRUNED, Point
from isolora.study.pruning import evaluation, evaluations
from isolora.study.running import run_study
from isolora.study.search import search_result

torch.set_num_threads(1)
pytest.importorskip("optuna")


def test_a_score_of_the_end_is_for_searches_that_do_not_prune(tmp_path: Path) -> None:
    rows = [{"prompt": tiny.words(4, seed), "completion": tiny.words(3, seed)} for seed in range(30)]
    run = tiny.from_rows(tmp_path, "llama", {"name": "instruction", "max_new_tokens": 3}, rows, tokens=300, evaluate_from=100)
    fields = {"space": {RATE: [1e-2, 5e-2]}, "metric": "rougeL", "trials": 2}
    with pytest.raises(ConfigError, match=r"search.metric: 'rougeL' is taken at the end alone; set task.score_at or"):
        run_study(a_search(run.model_dump(), **fields), tmp_path / "out", quiet=True)
    study = a_search(run.model_dump(), pruner="none", **fields)
    store = run_study(study, tmp_path / "out", quiet=True)
    ends = [json.loads(store.points(row["run"])[-1]["metrics"])["rougeL"] for row in trials(study, tmp_path / "out")]
    assert search_result(study, store).value == max(ends)


def test_a_trainer_stops_where_a_trial_is_pruned(tmp_path: Path) -> None:
    base = search_base(tmp_path)
    study = a_search({**base, "training": {**base["training"], "trainer": "hf"}}, trials=5)
    store = run_study(study, tmp_path / "out", quiet=True)
    rows = trials(study, tmp_path / "out")
    assert [row["round"] for row in rows] == list(range(5)), "one at a time: a Trainer has no stack"
    assert {row["state"] for row in rows} == {DONE, PRUNED}
    last = {row["run"]: row["tokens"] for row in store.points()}
    assert all((last[row["run"]] < 800) == (row["state"] == PRUNED) for row in rows)


def test_a_pruned_member_leaves_the_others_alone(tmp_path: Path) -> None:
    configs = [tiny.run(seed=k, tokens=400, evaluate_from=50) for k in range(3)]
    kept: list[Point] = []
    alone = tiny.stack(configs, kept)
    cut: list[Point] = []
    pruned = tiny.stack(configs, cut)
    tiny.train(alone, tmp_path / "alone")
    tiny.loop(pruned, tmp_path / "pruned", should_prune=lambda point: point.run == "run-1" and point.tokens >= 100).run()
    assert [member.progress.state for member in pruned.members] == [DONE, PRUNED, DONE]
    assert 100 <= pruned.members[1].progress.tokens < 200
    own = {name: [point.loss for point in cut if point.run == name] for name in pruned.names}
    for name in ("run-0", "run-2"):
        assert own[name] == pytest.approx([point.loss for point in kept if point.run == name], rel=1e-5)
    assert len(own["run-1"]) == 2


def test_evaluations_count_marks() -> None:
    training = tiny.run(tokens=800, evaluate_from=50, evaluate_ratio=2.0).training
    assert evaluations([tiny.run(tokens=800, evaluate_from=50)]) == 5, "50, 100, 200, 400 and the end"
    assert evaluations([tiny.run(tokens=801, evaluate_from=50), tiny.run(tokens=100, evaluate_from=50)]) == 6
    assert evaluations([tiny.run(tokens=40, evaluate_from=50)]) == 1
    assert evaluations([tiny.run(steps=3)]) is None
    assert [evaluation(training, tokens, previous) for tokens, previous in [(50, 0), (103, 1), (430, 2), (800, 4)]] == [
        1,
        2,
        4,
        5,
    ]
    assert evaluation(training, 520, 4) == 5, "the end of a budget between two marks"
