"""The report: one file, no network, nothing from outside unescaped, and the numbers it was given."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from reported import EVIL, SIZES, Page, columns, make_study, store_rows

from isolora import report
from isolora.fit import fit
from isolora.report import axes, frontier, palette, wording
from isolora.report.captions import forgetting_caption as forgetting_caption
from isolora.report.forgetting import endings, unbeaten
from isolora.report.forgetting import figure as forgetting_figure
from isolora.report.page import SCRIPTS, plain, render_page
from isolora.report.work import figure as work_figure
from isolora.store import Run, Store
from isolora.table import Table, from_columns


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture(scope="module")
def html(study):
    return render_page(study)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_one_file_with_plotly_once_and_no_network(html, page):
    assert html.count("* plotly.js (basic - minified) v") == 1
    assert not [entry for entry in page.attributes if entry[1] in ("src", "srcset", "data", "action")]
    assert not [value for _, name, value in page.attributes if name == "href" and not value.startswith("#")]
    assert "@import" not in html.split("<body>")[0]
    assert "url(" not in html.split("<body>")[0]


def test_only_our_scripts_may_run(html, page):
    """The policy lists the digests of exactly the scripts that are there, so that an injected one would be refused."""
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    bodies = [body for attributes, body in page.scripts if attributes.get("type") != "application/json"]
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    assert len(digests) == 1 + len(SCRIPTS)
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))


def test_says_what_to_train_and_whether_it_held(study, page):
    advice, proof = study.recommendation, study.verification
    assert f"Train {advice.model} with LoRA of rank {advice.method['rank']}" in page.text
    assert f"{advice.predicted_loss:.3f} nats per token" in page.text
    assert f"95 % interval {advice.interval[0]:.3f} to {advice.interval[1]:.3f}" in page.text
    assert all(warning[1:] in page.text for warning in advice.warnings)
    assert f"measured {proof.measured:.3f}" in page.text
    assert f"{wording.percent(proof.relative_error)} off and inside the 95 % interval, at 4.2 ×" in page.text


def test_a_miss_is_called_a_miss(study):
    missed = replace(study.verification, measured=study.recommendation.interval[1] * 1.02)
    text = Page(render_page(replace(study, verification=missed))).text
    assert "The prediction missed." in text
    assert "off and outside the 95 % interval" in text


def test_text_from_outside_is_escaped(study):
    """A model, a run, a reason and a title that are markup stay text, in tables and in figures."""
    rows = columns()
    for name in ("model", "run"):
        rows[name] = [f"{EVIL}{value}" for value in rows[name]]
    runs = [{**run, "model": EVIL, "run": f"{EVIL}{run['run']}", "reason": EVIL} for run in store_rows(columns())]
    evil = replace(study, table=from_columns(rows, {}), title=EVIL, runs=runs, recommendation=None, verification=None)
    html = render_page(evil)
    assert EVIL not in html
    page = Page(html)
    assert EVIL in page.text
    assert len([attributes for attributes, _ in page.scripts if attributes.get("type") != "application/json"]) == 1 + len(SCRIPTS)
    shown = json.dumps([page.figure(key) for key in ("curves", "isoflop", "frontier", "agreement")])
    names = re.findall(r'"(?:name|text|hovertemplate)": "((?:[^"\\]|\\.)*)"', shown)
    assert not [name for name in names if "<script" in name]
    assert any("&lt;script&gt;" in name for name in names)


def test_every_run_is_listed_with_its_state(study, page):
    states = [value for _, name, value in page.attributes if name == "class" and value.startswith("state ")]
    assert states.count("state diverged") == 1
    assert len(states) == len(study.runs) == 38
    assert "loss not finite at step 41" in page.text
    assert "38 in all, one diverged and was stopped" in page.text


def test_environment_is_shown(page):
    for words_ in ("torch 2.13.0", "0f3a91c", "a CPU", "threads"):
        assert words_ in page.text


def test_law_lines_are_the_law(study, page):
    """A line of the page, asked at one of its points, is the fit's own prediction."""
    [line] = [trace for trace in page.figure("curves")["data"] if trace.get("name") == "law: nano-440k, rank 8"]
    choice = next(choice for choice in study.choices if choice.name == "nano-440k, rank 8")
    expected = study.fit.predict(choice.columns(np.array(line["x"])))
    np.testing.assert_allclose(line["y"], expected, rtol=1e-6)
    assert line["x"][0] == pytest.approx(study.fit.cut)
    assert line["x"][-1] == 4096 * 2**6


def test_recommendation_and_proof_are_marked_in_every_figure(study, page):
    advice, proof = study.recommendation, study.verification
    places = {"curves": advice.tokens, "isoflop": 1.05e6, "frontier": advice.flops}
    for key, x in places.items():
        marks = {trace["name"]: trace for trace in page.figure(key)["data"] if trace.get("legend") == "legend3"}
        star, ring = marks["predicted, 95 % interval"], marks["measured afterwards"]
        assert (star["x"][0], star["y"][0]) == pytest.approx((x, advice.predicted_loss))
        assert star["y"][0] + star["error_y"]["array"][0] == pytest.approx(advice.interval[1])
        assert (ring["x"][0], ring["y"][0]) == pytest.approx((x, proof.measured))


def test_measured_isoflop_points_lie_between_their_neighbours(study):
    """At the FLOPs of an evaluation the interpolation returns the evaluation, halfway its geometric middle's."""
    run = study.fitted[0]
    assert run.loss_at_flops(run.flops[2]) == pytest.approx(run.loss[2])
    middle = run.loss_at_flops(float(np.sqrt(run.flops[2] * run.flops[3])))
    assert middle == pytest.approx((run.loss[2] + run.loss[3]) / 2)
    assert np.isnan(run.loss_at_flops(run.flops[-1] * 1.01))


def test_frontier_is_never_above_a_choice(study):
    """The frontier's model at a budget beats each of the others there, bad luck included."""
    traces = [trace for trace in frontier.figure(study)["data"] if str(trace.get("name", "")).startswith("best: ")]
    budgets = [x for trace in traces for x in trace["x"]]
    assert budgets == sorted(budgets)
    assert budgets[-1] == pytest.approx(study.recommendation.flops)
    assert traces[-1]["name"] == f"best: {study.recommendation.model}"


def test_held_out_points_are_the_fits_own(study, page):
    [trace] = [trace for trace in page.figure("agreement")["data"] if trace.get("name") == "held out of the fit"]
    points = study.fit.holdout["points"]
    np.testing.assert_allclose(trace["x"], [point["predicted"] for point in points], rtol=1e-6)
    np.testing.assert_allclose(trace["y"], [point["measured"] for point in points], rtol=1e-6)


def test_bars_of_work_are_the_largest_runs(study, page):
    """One bar for each base model and one for the proof, each with its FLOPs; segments are shares of the bar."""
    ends = {f"{model}, rank 32": max(run.flops[-1] for run in study.fitted if run.model == model) for model in SIZES}
    [proof] = study.proof
    bars = [
        f"{name.replace(', ', '<br>', 1)}<br>{wording.flops_in_words(end)} FLOPs"
        for name, end in (ends | {f"{proof.name}, verification": proof.flops[-1]}).items()
    ]
    segments = {trace["name"]: trace for trace in page.figure("work")["data"] if trace["x"] != [None]}
    shares = {"feed-forward, forward": 40, "feed-forward, gradients to inputs": 30}
    shares |= {"adapter, forward": 20, "adapter, gradients to weights": 10}
    assert {name: trace["x"] for name, trace in segments.items()} == {name: [share] * 5 for name, share in shares.items()}
    assert all(trace["y"] == bars for trace in segments.values())
    assert "The adapter's own products take 30 %." in page.text


def test_a_store_of_an_earlier_version_draws_no_work(study):
    older = Table({**study.table.columns, "flops_by_group": np.full(len(study.table), "{}", dtype=object)})
    assert work_figure(replace(study, table=older)) is None


def test_a_foreign_table_needs_only_tokens_and_loss():
    """No names, sizes, FLOPs or store: curves, agreement and the law remain."""
    tokens = np.geomspace(1e4, 1e6, 12)
    table = from_columns({"tokens": tokens.tolist(), "loss": (2 + 40 * tokens**-0.3).tolist(), "run": ["only"] * 12}, {})
    study = report.StudyReport("table.csv", table, fit(table, bootstrap=0))
    page = Page(render_page(study))
    assert "The law of one curve: power" in page.text
    assert page.data == {"figure-curves", "figure-agreement", "themes"}


def test_report_of_a_folder(study, tmp_path):
    """States come from the store, the title from the study's own description, and nothing but the page is left behind."""
    folder = tmp_path / "kept"
    store = Store(folder)
    store.add([Run("r1", "grid", "nano-1m", "causal-lm", "lora", 8, 0.01, 0, "{}")], {"device": "a CPU"})
    store.set_state(["r1"], "DIVERGED", "loss not finite at step 7")
    (folder / "study.json").write_text(json.dumps({"study": {"name": "mine"}}))
    path = report.report(folder, study.table, study.fit, tmp_path / "deep" / "report.html")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    text = Page(path.read_text(encoding="utf-8")).text
    assert "isolora · mine" in text
    assert "loss not finite at step 7" in text


def test_what_is_not_finite_becomes_null():
    assert json.dumps(plain({"y": [1.0, float("nan"), float("inf")], "n": 3})) == '{"y": [1.0, null, null], "n": 3}'


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (wording.count(12_400), "12,400"),
        (wording.count(3_214_000), "3.21 million"),
        (wording.count(999_800), "1 million"),
        (wording.flops_in_words(4.19e13), "4.2 × 10¹³"),
        (wording.flops_in_words(9.97e12), "1.0 × 10¹³"),
        (wording.time_in_words(41.2), "41.2 s"),
        (wording.time_in_words(210), "3.5 min"),
        (wording.passes(1.001), "one pass"),
        (wording.passes(2.5), "2.5 passes"),
        (wording.percent(0.0053), "0.53 %"),
        (wording.parameter(803.94), "803.9"),
        (wording.parameter(3.705e6), "3.705 × 10⁶"),
        (wording.formula_html("F (d/F)^(p/(p+P)) + B d^-b"), "F (d/F)<sup>p/(p+P)</sup> + B d<sup>−b</sup>"),
        (wording.formula_html("d -> F^(1/(1+(P/p)^0.5))"), "d → F<sup>1/(1+(P/p)<sup>0.5</sup>)</sup>"),
        (wording.short(12_400), "12.4k"),
        (wording.short(999_900), "1M"),
    ],
)
def test_words(shown, expected):
    assert shown == expected


@pytest.mark.parametrize(("low", "high"), [(4.2, 8.3), (1.01, 1.04), (0.2, 9.0), (3.9991, 4.0009)])
def test_loss_ticks_are_few_and_told_apart(low, high):
    ticks = axes.loss_ticks(low, high)
    assert 3 <= len(ticks) <= 11
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(float(text) == pytest.approx(value) for value, text in ticks)


def test_size_colours_grow_darker():
    """Order survives without hue: luminance falls along the ramp."""
    weights = (0.2126, 0.7152, 0.0722)
    shades = [tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in palette.ramp(palette.SIZE_RAMP, 6)]
    luminance = [sum(w * channel for w, channel in zip(weights, shade, strict=True)) for shade in shades]
    assert luminance == sorted(luminance, reverse=True)


def test_learned_against_forgotten(study):
    """Forgetting falls with the loss here but for one run, which no other beats in both."""
    assert forgetting_figure(study) is None
    table = study.table
    lost = 8 - table["loss"]
    kept = dict(table.columns) | {"forgetting": lost}
    whole = replace(study, table=Table(dict(kept)))
    found = endings(whole)
    assert [ending.loss for ending in found] == sorted(ending.loss for ending in found)
    assert unbeaten(found) == found, "less learnt, less forgotten: nobody is beaten"
    most = max(ending.loss for ending in found)
    kept["forgetting"] = np.where(table["loss"] == found[0].loss, -1.0, lost)
    assert unbeaten(endings(replace(study, table=Table(kept)))) == [replace(found[0], forgetting=-1.0)]
    plot = forgetting_figure(whole)
    marks = [trace for trace in plot["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["x"]) for trace in marks) == len(found)
    assert max(max(trace["x"]) for trace in marks) == most
    assert f"{found[-1].name} forgets least ({found[-1].forgetting:+.3f}" in forgetting_caption(whole)
