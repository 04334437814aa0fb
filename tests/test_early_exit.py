"""Early exit of a grid's runs: who is ended, who is not, and what is said of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from studies import RANK, base

from isolora.cli.studies import study_summary
from isolora.config import StudyConfig, parse
from isolora.errors import ConfigError
from isolora.store import DONE, PRUNED, Point, Run, Store
from isolora.study import early_exit
from isolora.study.early_exit import FEWEST_POINTS, GridPruner, hopeless_cells
from isolora.study.running import run_study
from isolora.study.status import stopped_early, unspent_share
from isolora.training.stack import Stack

torch.set_num_threads(1)
MARKS = [8192 * 2 ** (k / 2) for k in range(7)]


def measured(store: Store, body: float, rank: int, marks: list[float] = MARKS, gain: float = 0.0) -> list[Point]:
    """Points of a base of so many parameters, on a law of size and tokens; gain: how much better the base is than its size."""
    model = f"base-{body:g}"
    name = f"{model}-{rank}"
    run = Run(name, "grid", model, "causal-lm", "lora", rank, 5e-3, int(body) + rank, "{}")
    store.add([run], {})
    losses = [2.5 + 40 * body**-0.3 + 12 * tokens**-0.25 - 0.002 * rank - gain for tokens in marks]
    counts = {"padding_tokens": 0, "unique_tokens": int(1e9), "unique_examples": int(1e7), "passes": 1.0, "seconds": 1.0}
    sizes = {"body_parameters": int(body), "model_parameters": int(body), "trainable_parameters": 100 * rank}
    own: dict[str, Any] = {"peak_memory_bytes": 1, **counts, **sizes}
    points = [
        Point(run=name, step=k, tokens=int(tokens), flops=4 * body * tokens, loss=loss, train_loss=loss, **own)
        for k, (tokens, loss) in enumerate(zip(marks, losses, strict=True))
    ]
    store.write(points)
    return points


def ended(store: Store) -> set[tuple[str, int]]:
    return {(model, rank) for model, _, rank in hopeless_cells(store, 4 * 1e6 * MARKS[-1])}


def test_small_bases_end_and_large_ones_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for body in (1e6, 4e5, 5e4):
        for rank in (2, 8):
            measured(store, body, rank, MARKS if body > 1e5 else MARKS[:5])
    assert ended(store) == {("base-50000", 2), ("base-50000", 8)}
    reason = hopeless_cells(store, 4 * 1e6 * MARKS[-1])["base-50000", "lora", 2]
    cell = r"base-50000 with lora of rank 2 would reach (\S+) at best"
    found = re.fullmatch(rf"at (\S+) FLOPs {cell}, and base-1e\+06 with lora of rank \d (\S+) at worst", reason)
    assert found, reason
    assert float(found[1]) == pytest.approx(4e6 * MARKS[-1], rel=0.01), "the study's largest budget"
    assert float(found[2]) > float(found[3])


def test_nobody_ends_where_bases_are_alike_or_too_little_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    measured(store, 1e6, 2, MARKS[:3])
    assert hopeless_cells(store, 1e12) == {}, "three points carry no law"
    for rank in (4, 8):
        measured(store, 1e6, rank)
    assert ended(store) == set()


def test_a_base_that_wins_on_larger_budgets_goes_on(tmp_path: Path) -> None:
    """Behind at the study's own budget is not enough."""
    store = Store(tmp_path)
    for body in (1e6, 4e5, 5e4):
        measured(store, body, 8)
    cells = {"near": {("base-50000", "lora", 8): "behind", ("base-1e+06", "lora", 8): "behind"}, "far": {}}
    asked = []

    def behind(fit: object, options: object, budget: Any, examples: object) -> dict[Any, str]:
        asked.append(budget.amount)
        return cells["near" if len(asked) == 1 else "far"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(early_exit, "behind", behind)
        assert hopeless_cells(store, 1e12) == {}
        cells["far"], asked[:] = {("base-50000", "lora", 8): "behind"}, []
        assert hopeless_cells(store, 1e12) == {("base-50000", "lora", 8): "behind"}
    assert asked == [1e12, 4e12]


def test_no_run_ends_before_it_has_four_points(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for body in (1e6, 4e5):
        for rank in (2, 8):
            measured(store, body, rank)
    pruner = GridPruner(store, 4 * 1e6 * MARKS[-1])(())
    points = measured(store, 5e4, 2, MARKS[: FEWEST_POINTS - 1])
    assert [pruner(point) for point in points] == ["", "", ""]
    *_, last = measured(store, 5e4, 2, MARKS[:FEWEST_POINTS])
    assert "would reach" in pruner(last)
    assert pruner(replace(last, run="base-1e+06-8")) == "", "of the same evaluation, another cell"


def test_a_study_says_what_it_ended_and_what_that_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"base": base(tmp_path, tokens=800, batch_tokens=50, evaluate_from=50), "grid": {RANK: [2, 4]}, "stop_early": True}
    study = parse(StudyConfig, given)
    asked = []

    def rank_2(store: Store, largest_flops: float) -> dict[Any, str]:
        asked.append(largest_flops)
        return {(study.base["model"], "lora", 2): "it lies behind"}

    monkeypatch.setattr(early_exit, "hopeless_cells", rank_2)
    store = run_study(study, tmp_path / "out", quiet=True)
    rows = {row["rank"]: row for row in store.runs()}
    points = {rank: store.points(row["run"]) for rank, row in rows.items()}
    assert (rows[2]["state"], rows[4]["state"]) == (PRUNED, DONE)
    assert len(points[2]) == FEWEST_POINTS < len(points[4])
    assert re.fullmatch(r"pruned at \d+% of its budget: it lies behind", rows[2]["reason"])
    assert asked[0] == pytest.approx(points[4][-1]["flops"]), "of the largest run, before it is run"
    early = stopped_early(store)
    assert early["runs"] == 1
    assert early["flops"] == points[2][-1]["flops"]
    assert early["flops"] + early["saved_flops"] == pytest.approx(points[2][-1]["flops"] * (1 + unspent_share(rows[2])))
    assert 0.7 * asked[0] < early["flops"] + early["saved_flops"] < asked[0], "rank 2 costs a little less than rank 4"
    result, words = study_summary(store)
    assert result["stopped_early"] == early
    assert "stopped early: 1 runs, which saved" in words
    assert stopped_early(Store(tmp_path / "nobody")) == {}
    assert run_study(study, tmp_path / "out", quiet=True).states() == store.states(), "it stays ended"


def test_it_is_off_unless_asked_for_and_not_for_a_search(tmp_path: Path) -> None:
    assert parse(StudyConfig, {"base": {}, "grid": {RANK: [2]}}).stop_early is False
    with pytest.raises(ConfigError, match=r"stop_early: is for a grid; a search has search.pruner"):
        parse(StudyConfig, {"base": {}, "search": {"space": {RANK: [2]}}, "stop_early": True})


def test_places_of_cells_that_end_go_to_the_next_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four seeds of two ranks, two places: those of rank 2 end early, and nobody waits for their neighbours."""
    grid = {RANK: [2, 4], "seed": [0, 1, 2, 3]}
    given = {"base": base(tmp_path, tokens=800, batch_tokens=50, evaluate_from=50), "grid": grid, "stop_early": True, "stack": 2}
    study, counts, step = parse(StudyConfig, given), list[int](), Stack.step

    def counted(stack: Stack) -> None:
        counts.append(len(stack.running))
        step(stack)

    monkeypatch.setattr(early_exit, "hopeless_cells", lambda *_: {(study.base["model"], "lora", 2): "it lies behind"})
    monkeypatch.setattr(Stack, "step", counted)
    store = run_study(study, tmp_path / "out", quiet=True)
    assert {(row["rank"], row["state"]) for row in store.runs()} == {(2, PRUNED), (4, DONE)}
    assert len(store.runs()) == 8
    assert counts.count(1) <= 2, "of the last two"
