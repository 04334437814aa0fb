"""The picture of a search: the best value so far against what the trials had cost."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from studies import RATE, a_search

from isolora.report.search_history import caption, figure
from isolora.report.source import Search, search_of
from isolora.store import DIVERGED, DONE, PRUNED, Point, Run, Store, Trial
from isolora.study.running import write_description


def test_the_report_draws_the_best_so_far(tmp_path: Path) -> None:
    study = a_search({}, metric="f1")
    write_description(study, tmp_path)
    assert search_of(tmp_path) is None, "nothing was tried yet"
    store = Store(tmp_path)
    assert search_of(tmp_path) == Search("f1", True, [])
    ends = [(DONE, 0.4), (PRUNED, 0.3), (DIVERGED, None), (DONE, 0.6), (DONE, 0.5)]
    rows = [Trial("s", n, 0, f"r{n}", json.dumps({RATE: 1e-2}), state, value) for n, (state, value) in enumerate(ends)]
    store.keep_trials([*rows, replace(rows[-1], number=5)])
    store.add([Run(row.run, "search", "m", "t", "lora", 4, 1e-2, 0, "{}") for row in rows], {})
    store.write([point(row.run, flops=10.0) for row in rows])
    found = search_of(tmp_path)
    assert found is not None
    assert [trial.flops for trial in found.trials] == [10, 20, 40, 50, 50], "the one that diverged and its cost count too"
    plot = figure(cast(Any, SimpleNamespace(search=found)))
    assert plot is not None
    pruned, done, best = plot["data"]
    assert (pruned["x"], done["y"]) == ([20], [0.4, 0.6, 0.5, 0.5])
    assert (best["x"], best["y"]) == ([10, 40, 50, 50], [0.4, 0.6, 0.6, 0.6])
    assert "1 of them given up early" in caption(cast(Any, SimpleNamespace(search=found)))


def point(run: str, flops: float) -> Point:
    zeros = {field.name: 0 for field in fields(Point) if field.default is MISSING and field.name != "run"}
    return Point(run=run, **{**zeros, "flops": flops, "tokens": 1})  # type: ignore[arg-type]
