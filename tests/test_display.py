"""What Python shows people: the names of the API, tables and results as escaped HTML, pandas, pictures."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from reported import columns, make_study

import isolora
from isolora import extend
from isolora.table import Table, from_columns


@pytest.fixture(scope="module")
def study():
    return make_study()


def test_dir_lists_the_api_and_nothing_else():
    assert dir(isolora) == sorted([*isolora.__all__, "__version__"])
    assert dir(extend) == sorted(extend.__all__)
    fresh = "import isolora; print('fit_law' in dir(isolora), 'import_module' in dir(isolora))"
    assert subprocess.run([sys.executable, "-c", fresh], capture_output=True, text=True, check=True).stdout == "True False\n"


def test_a_table_shows_its_first_ten_rows_escaped():
    names = np.array(["<b>x</b>"] * 12, dtype=object)
    table = Table({"run": names, "loss": np.array([math.nan, *np.arange(1.0, 12.0)])}, ("a & b",), {"no loss": 3})
    shown = table._repr_html_()
    assert shown.count("<tr>") == 1 + 10
    assert "<td>&lt;b&gt;x&lt;/b&gt;</td><td></td>" in shown
    assert "<b>" not in shown
    assert "12 points of 1 runs; columns: run, loss\n3 left out: no loss\na &amp; b" in shown
    assert str(Table({"loss": np.ones(2)})) == "2 points; columns: loss"


def test_a_data_frame_is_a_copy_with_every_column():
    table = from_columns(columns(), {})
    frame = table.to_pandas()
    assert list(frame.columns) == list(table.columns)
    assert frame["loss"].tolist() == table["loss"].tolist()
    frame.loc[0, "loss"] = 99.0
    assert table["loss"][0] != 99.0


def test_a_law_and_a_plan_show_their_words_escaped(study):
    law = replace(study.fit, remarks=("2 < 3",))
    assert "mind: 2 &lt; 3" in law._repr_html_()
    assert unescape(law._repr_html_()) == f"<pre>{law}</pre>"
    assert study.recommendation._repr_html_().startswith(f"<pre>train {study.recommendation.model} with lora of rank ")


def test_a_cost_shows_its_table_of_flops():
    price = isolora.estimate_cost(isolora.RunConfig.model_validate({"model": "nano-55k"}), (2, 64))
    shown = price._repr_html_()
    assert unescape(shown) == f"<pre>{price}</pre>"
    assert f"trainable parameters  {price.trainable_parameters:,} of" in shown


def test_the_law_is_drawn_through_its_points(study):
    figure = study.fit.plot(study.table)
    names = {trace.name for trace in figure.data if trace.name and trace.name.startswith("law: ")}
    assert len(names) == len(study.choices)
    assert all("@" not in str(trace.line.color) + str(trace.marker.color) for trace in figure.data)
    line = next(trace for trace in figure.data if trace.name == f"law: {study.choices[0].name}")
    again = study.fit.predict(study.choices[0].columns(np.array(line.x)))
    assert np.array(line.y) == pytest.approx(again)


def test_the_law_is_drawn_alone_over_what_was_fitted(study):
    lines = [trace for trace in study.fit.plot().data if trace.fill != "toself"]
    low, high = study.fit.ranges["n"]
    assert [line.name for line in lines] == [f"n = {size:.3g}" for size in (low, math.sqrt(low * high), high)]
    assert (lines[0].x[0], lines[0].x[-1]) == pytest.approx(study.fit.ranges["d"])
    assert lines[0].y[0] > lines[2].y[0]


def test_a_plan_is_drawn_with_the_chosen_option_in_the_accent(study):
    plan = study.recommendation
    marks = plan.plot().data[0]
    assert list(marks.x) == [row["predicted_loss"] for row in plan.alternatives]
    chosen = [name for name, colour in zip(marks.y, marks.marker.color, strict=True) if colour == "#00695c"]
    assert chosen == [f"{plan.model}, rank {plan.method['rank']}"]
    row = plan.alternatives[0]
    assert marks.error_x.array[0] == pytest.approx(row["interval"][1] - row["predicted_loss"])
