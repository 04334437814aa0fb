"""Plans in hours and money of an accelerator that nobody measured on: from its peak rate and a share of it."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from person import run
from test_charge import study

from isolora.cost.accelerators import Place
from isolora.cost.table_times import computed_in, memory_on, timed_on
from isolora.errors import ConfigError, TableError
from isolora.plan import Limits, NoRecommendation, Reached, Recommendation, asked_limits, asked_plan
from isolora.store import Run, Store
from isolora.table import Table

NOWHERE = Path("points.csv")
H100 = Place("h100", 0.4)
RATE = 0.4 * 989.5e12


def without(table: Table, *names: str) -> Table:
    return dataclasses.replace(table, columns={name: column for name, column in table.columns.items() if name not in names})


def written(folder: Path, table: Table) -> Path:
    with (folder / "points.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([table.columns, *zip(*table.columns.values(), strict=True)])
    return folder / "points.csv"


def test_times_are_flops_over_the_share_of_the_peak() -> None:
    timed = timed_on(study(), NOWHERE, H100)
    np.testing.assert_allclose(timed["seconds"], study()["flops"] / RATE)
    assert timed.notes[-1] == "times are those of H100 at 0.4 of 989.5 TFLOP/s in bfloat16"
    single = timed_on(study(), NOWHERE, H100, "float32")
    np.testing.assert_allclose(single["seconds"], study()["flops"] / (0.4 * 67e12))
    table = study()
    assert timed_on(table, NOWHERE, Place()) is table


def test_a_budget_of_time_there_is_one_of_flops() -> None:
    """So a table without times has budgets in time and money, and every answer says whose times they are."""
    timed = timed_on(without(study(), "seconds"), NOWHERE, H100)
    budget = 5e14
    hours = asked_plan(timed, f"{budget / RATE!r}s", None, 2.5, Limits(), bootstrap=50)
    flops = asked_plan(study(), f"{budget!r}flops", None, None, Limits(), bootstrap=50)
    assert isinstance(hours, Recommendation)
    assert isinstance(flops, Recommendation)
    assert (hours.model, hours.tokens, hours.interval) == (flops.model, flops.tokens, pytest.approx(flops.interval))
    assert hours.seconds == pytest.approx(hours.flops / RATE)
    assert hours.money == pytest.approx(2.5 * hours.flops / RATE / 3600)
    assert any("those of H100 at 0.4" in sentence for sentence in hours.warnings)
    reached = asked_plan(timed, None, "loss=2.3", 2.5, Limits(), bootstrap=50)
    assert isinstance(reached, Reached)
    assert reached.seconds == pytest.approx(reached.flops / RATE)
    assert any("those of H100 at 0.4" in sentence for sentence in reached.warnings)
    with pytest.raises(NoRecommendation) as refused:
        asked_plan(timed, "1000d", None, None, Limits(), bootstrap=50)
    assert any("those of H100 at 0.4" in sentence for sentence in refused.value.warnings)


def test_runs_compute_in_what_those_of_the_study_did(tmp_path: Path) -> None:
    assert computed_in(tmp_path) == "bfloat16"
    config = tiny.run().model_dump_json()
    row = {"stage": "grid", "model": "m", "task": "causal-lm", "method": "lora", "rank": 8, "learning_rate": 0.01, "seed": 0}
    store = Store(tmp_path)
    store.add([Run(run="a", config=config, **row)], {})
    assert computed_in(tmp_path) == computed_in(tmp_path / "study.sqlite") == "float32"
    store.add([Run(run="b", config=tiny.run(precision="bfloat16").model_dump_json(), **row)], {})
    assert computed_in(tmp_path) == "bfloat16"


def test_the_accelerators_memory_is_a_limit_where_the_table_tells_of_memory() -> None:
    assert memory_on(H100, study()) is None
    told = Table({**study().columns, "peak_memory_bytes": 1e4 * study()["body_parameters"]})
    assert memory_on(Place(), told) is None
    assert asked_limits(memory_bytes=memory_on(H100, told)).memory_bytes == 80e9
    assert asked_limits(memory="90GB", memory_bytes=memory_on(H100, told)).memory_bytes == 90e9
    large = timed_on(study(), NOWHERE, H100)
    found = asked_plan(large, "1s", None, None, Limits(), bootstrap=50)
    fits = asked_plan(timed_on(told, NOWHERE, H100), "1s", None, None, Limits(memory_bytes=80e9), bootstrap=50)
    assert isinstance(found, Recommendation)
    assert isinstance(fits, Recommendation)
    assert (found.model, fits.model) == ("10000000", "3000000")


@pytest.mark.parametrize(
    ("place", "precision", "words"),
    [
        (Place("H100"), None, "--on: H100 needs --utilisation U, the share of its peak rate that such runs reach"),
        (Place("H10", 0.4), None, "--on: unknown accelerator 'H10'; did you mean 'H100'"),
        (H100, "float8", r"--precision: H100 has no peak rate for float8 \(valid: float32, bfloat16"),
        (Place("T4", 0.4), "bfloat16", "--precision: T4 has no peak rate for bfloat16"),
        (Place(), "bfloat16", "--precision: of which accelerator"),
    ],
)
def test_what_is_not_known_of_a_place_is_one_line(place: Place, precision: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        timed_on(study(), NOWHERE, place, precision)


def test_times_follow_from_flops() -> None:
    with pytest.raises(TableError, match="--on: times on H100 follow from FLOPs, and the table has no flops column"):
        timed_on(without(study(), "flops"), NOWHERE, H100)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = written(tmp_path, without(study(), "seconds"))
    asked = ("plan", table, "--bootstrap", 50, "--json")
    place = ("--on", "h100", "--utilisation", 0.4)
    code, _, error = run(monkeypatch, capsys, *asked, "--budget", "1s")
    assert (code, error.count("\n")) == (2, 1)
    assert "needs a seconds column in the table; name an accelerator (--on H100 --utilisation 0.4)" in error
    code, out, error = run(monkeypatch, capsys, *asked, "--budget", "0.001usd", "--price-per-hour", 2.5, *place)
    assert code == 0, error
    assert json.loads(out)["seconds"] == pytest.approx(1.44, rel=1e-3)
    for words, said in ((("--on", "H100"), "--utilisation U"), (("--utilisation", 0.4), "give --on too")):
        code, _, error = run(monkeypatch, capsys, *asked, "--budget", "1s", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert said in error
    code, _, error = run(
        monkeypatch, capsys, "report", table, "--out", tmp_path / "page.html", "--bootstrap", 50, "--budget", "1s", *place
    )
    assert code == 0, error
    page = (tmp_path / "page.html").read_text()
    assert "Times are those of H100 at 0.4 of 989.5 TFLOP/s in bfloat16" in page
    assert "on H100, at 0.4 of its peak in bfloat16" in page
    assert "at the speed measured in this study" not in page
    assert '"share": 40.0, "unit": "seconds", "where": "H100"}' in page
