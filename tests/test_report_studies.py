"""A page for every study: one evaluation a run, several methods, searches, foreign tables; with advice or the reason for none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from reported import EVIL, Page, columns, make_study, store_rows

from isolora.plan import Limits
from isolora.report import axes, headline, method_comparison, page_tables, palette, rate_cells, report, search_history
from isolora.report.cells import cells
from isolora.report.gather import Asked, gather
from isolora.report.page import PLOTLY, SCRIPTS, render_page
from isolora.report.source import ReportedTrial, Search
from isolora.report.study_report import StudyReport
from isolora.report.trajectories import trajectories, variants
from isolora.table import from_columns

TWO_MEGABYTES = 2_000_000
RATES = (3e-4, 3e-3, 3e-2)


def one_evaluation_a_run():
    """Five methods, three rates and two seeds on one base, evaluated once, as a comparison of methods is."""
    best = {"lora": (3e-3, 4.0), "full": (3e-4, 4.1), "prompt": (3e-2, 4.6), "houlsby": (3e-3, 4.2), "pfeiffer": (3e-3, 4.3)}
    rows = []
    for name, (peak, loss) in best.items():
        method = {"name": "bottleneck", "places": name} if name in ("houlsby", "pfeiffer") else {"name": name, "rank": 8}
        for rate in RATES:
            for seed in (0, 1):
                run = f"{name}/{rate}/{seed}"
                config = json.dumps({"model": "m", "method": method})
                rank = 8 if name == "lora" else None
                reached = loss + 0.3 * abs(np.log10(rate / peak)) + 0.01 * seed
                rows.append((run, "m", method["name"], "grid", rank, rate, seed, 1e5, 8192, 1e9, reached, config))
    names = ("run", "model", "method", "stage", "rank", "learning_rate", "seed", "body_parameters", "tokens", "flops", "loss")
    return dict(zip((*names, "config"), map(list, zip(*rows, strict=True)), strict=True))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return gather(tmp_path_factory.mktemp("compared") / "methods.csv", from_columns(one_evaluation_a_run(), {}), Asked())


def test_without_a_law_the_best_measured_leads_and_the_reason_is_given(compared):
    page = Page(render_page(compared))
    assert "Best measured: m, lora, rank 8" in page.text
    assert "4.0050, mean of 2 runs (± 0.005), after 8,192 tokens, learning rate 0.003" in page.text
    assert "Next is m, full, 0.1000 behind." in page.text
    assert "No law was fitted The table's" in page.text
    assert page.data == {
        "themes",
        "figure-methods",
        "figure-rates",
    }


def test_methods_are_told_apart_by_the_settings_that_differ(compared):
    assert compared.families == ["lora", "full", "bottleneck, places houlsby", "bottleneck, places pfeiffer", "prompt"]
    figure = Page(render_page(compared)).figure("methods")
    named = {trace["name"]: trace["marker"] for trace in figure["data"] if "name" in trace}
    assert list(named) == compared.families
    assert len({(marker["color"], marker["symbol"]) for marker in named.values()}) == 5
    assert figure["layout"]["yaxis"]["categoryarray"][-1] == "lora, rank 8"
    assert figure["layout"]["xaxis"]["title"]["text"] == "held-out loss, nats per token"


def test_settings_without_names_of_their_own_stay_unsaid():
    config = [
        '{"method": {"name": "x", "a": 1}}',
        '{"method": {"name": "x", "a": null}}',
        "no JSON",
        '["a list"]',
        '{"method": 3}',
    ]
    told = variants(from_columns({"loss": [1.0] * 5, "method": ["x"] * 5, "config": config}, {}))
    assert told == ["", "", "", "", ""]
    table = from_columns({"loss": [1.0] * 2, "method": ["x"] * 2, "config": [config[0], config[0].replace("1", "2")]}, {})
    assert variants(table) == ["a 1", "a 2"]


def test_tables_leave_out_what_no_row_holds_and_put_the_loss_before_the_rest(compared):
    """The foreign table knows no time and no seed's column of a store: no column of dashes for them."""
    [runs] = [table for table in (page_tables.runs(compared),) if table]
    assert runs.columns == ("state", "stage", "model", "method", "rank", "learning rate", "loss", "tokens", "FLOPs", "run")
    assert {len(row.entries) for row in runs.rows} == {10}
    choices = page_tables.method_rows(compared)
    assert choices.columns[-2:] == ("tokens", "FLOPs")
    assert [entry.shown for entry in choices.rows[0].entries] == [
        *("m", "lora, rank 8", "0.003", "4.0050", "0.0050", "2", "8,192", "1.0 × 10⁹"),
    ]


def test_the_environment_says_where_and_not_what_was_checked(compared):
    noted = {"versions": {"torch": "2.13.0"}, "device": None, "torch_threads": 2, "checks": {"flops": {}}, "spent": 1.0}
    rows = page_tables.environment_rows(replace(compared, environment=noted))
    assert rows == [("versions", "torch 2.13.0"), ("torch threads", "2")]


def test_more_methods_than_a_legend_can_name_are_named_by_the_axis():
    rows = one_evaluation_a_run()
    several = {name: values * 6 for name, values in rows.items() if name != "config"}
    copies = [copy for copy in range(6) for _ in rows["run"]]
    for name in ("run", "method"):
        several[name] = [f"{value}{copy}" for value, copy in zip(several[name], copies, strict=True)]
    told = gather(Path("many.csv"), from_columns(several, {}), Asked())
    assert len(told.families) == 24
    assert method_comparison.figure(told)["layout"]["showlegend"]
    more = {name: [*values, values[0]] for name, values in several.items()}
    more["run"][-1], more["method"][-1] = "one more", "one more"
    assert not method_comparison.figure(gather(Path("many.csv"), from_columns(more, {}), Asked()))["layout"]["showlegend"]


def test_a_best_rate_at_the_edge_is_marked(compared):
    edges = {cell.adapter: cell.edge for cell in compared.cells}
    assert edges == {
        "lora, rank 8": "",
        "full": "lowest",
        "bottleneck, places houlsby": "",
        "bottleneck, places pfeiffer": "",
        "prompt": "highest",
    }
    figure = rate_cells.figure(compared)
    marked = {trace["name"]: sorted(trace["x"]) for trace in figure["data"] if str(trace.get("name")).startswith("best rate")}
    assert marked == {"best rate at the edge: try further": [3e-4, 3e-2], "best rate of a cell": [3e-3] * 3}
    assert "in 2 the best is the last one on its side" in Page(render_page(compared)).text


def test_a_rate_that_diverged_closes_the_edge():
    table = from_columns(one_evaluation_a_run(), {})
    lost = [{"model": "m", "method": "prompt", "rank": None, "state": "DIVERGED", "learning_rate": 0.1}]
    runs = trajectories(table)
    found = {cell.adapter: cell for cell in cells(runs, runs, lost)}
    assert found["prompt"].edge == ""
    assert found["prompt"].diverged == (0.1,)


def test_a_run_that_blew_up_does_not_stretch_the_frame():
    rows = columns()
    rows["loss"][3] = 480.0
    calm, wild = (Page(render_page(StudyReport("x", from_columns(each, {})))) for each in (columns(), rows))
    ends = [page.figure("curves")["layout"]["yaxis"]["range"] for page in (calm, wild)]
    np.testing.assert_allclose(*ends, atol=0.05)
    assert "1 point above the frame" in json.dumps(wild.figure("curves")["layout"]["annotations"], ensure_ascii=False)


@pytest.mark.parametrize(
    ("values", "always", "expected"),
    [
        ([1.0, 1.1, 1.2], (), (1.0, 1.2)),
        ([1.0, 1.1, 1.2] * 5 + [900.0], (), (1.0, 1.2)),
        ([1.0, 1.1, 1.2] * 5 + [900.0], (7.0,), (1.0, 7.0)),
        ([float("nan"), -1.0], (), (0.1, 1.0)),
        ([2.0, 2.0], (), (2.0, 2.004)),
    ],
)
def test_frames(values, always, expected):
    assert axes.frame(values, always) == pytest.approx(expected)


def test_no_advice_says_why():
    """Tokens and losses carry a law, but a plan needs models and FLOPs."""
    tokens = np.geomspace(1e4, 1e6, 12)
    table = from_columns({"tokens": tokens.tolist(), "loss": (2 + 40 * tokens**-0.3).tolist(), "run": ["only"] * 12}, {})
    study = gather(Path("table.csv"), table, Asked(bootstrap=0))
    assert study.fit is not None
    assert study.recommendation is None
    assert "No recommendation The table has no" in Page(render_page(study)).text


def test_a_refusal_is_on_the_page_with_what_to_measure_next(tmp_path):
    """A budget a hundred thousand times the largest run: no recommendation, and runs on the way there."""
    study = gather(tmp_path / "x.csv", from_columns(columns(), {}), Asked(bootstrap=20, budget="1e18flops"))
    assert study.recommendation is None
    text = Page(render_page(study)).text
    assert f"No recommendation {study.no_advice[0][:1].upper()}{study.no_advice[0][1:]}" in text
    assert "Measure next: nano-" in text


def test_a_budget_that_was_not_asked_for_is_said(tmp_path):
    table = from_columns(columns(), {})
    study = gather(tmp_path / "x.csv", table, Asked(bootstrap=20))
    assert study.recommendation.flops == pytest.approx(4 * table["flops"].max(), rel=1e-6)
    assert "No budget was asked for; this is 4 × the largest run." in Page(render_page(study)).text
    asked = gather(tmp_path / "x.csv", table, Asked(bootstrap=20, budget="3e11flops", limits=Limits(500)))
    assert (asked.recommendation.flops, asked.recommendation.examples) == (pytest.approx(3e11), 500)
    assert "No budget was asked for" not in Page(render_page(asked)).text


def test_a_target_is_named_on_axes_and_in_words(tmp_path):
    rows = columns()
    rows["f1"] = [1 - loss / 20 for loss in rows["loss"]]
    page = Page(
        report(tmp_path / "x.csv", from_columns(rows, {}), target="f1", bootstrap=20, out=tmp_path / "x.html").read_text()
    )
    assert page.figure("curves")["layout"]["yaxis"]["title"]["text"] == "1 - f1, held out"
    assert "The law expects a held-out f1 of" in page.text, "the score itself in words"
    assert "nats" not in page.text.split("Steer the recommendation")[0]


def search_report(maximizes):
    rng = np.random.default_rng(0)
    trials = []
    for number in range(24):
        rate, rank = float(10 ** rng.uniform(-4, -1)), int(2 ** rng.integers(0, 5))
        loss = 4 + abs(np.log10(rate / 3e-3)) + 0.01 * rank / 16 + (50 if number == 7 else 0)
        value = -loss if maximizes else loss
        chosen = {"training.learning_rate": rate, "method.rank": rank}
        trials.append(ReportedTrial(f"rate {rate:.2g}", "DONE", value, 1e9 * (number + 1), chosen))
    search = Search("f1" if maximizes else "loss", maximizes, trials)
    return StudyReport("s", from_columns(columns(), {}), search=search)


@pytest.mark.parametrize("maximizes", [False, True])
def test_the_parameter_that_matters_is_found(maximizes):
    study = search_report(maximizes)
    shares = search_history.importance(study)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["training.learning_rate"] > 0.7
    assert "Most of the spread comes from training.learning_rate" in Page(render_page(study)).text
    figure = search_history.parallel_figure(study)
    values = [trial.value for trial in study.search.trials]
    best = sorted(values, reverse=maximizes)[:2]
    thick = [trace for trace in figure["data"] if trace["line"]["width"] > 2]
    assert {trace["text"].rpartition("<br>")[2] for trace in thick} == {f"{value:.4f}" for value in best}
    assert any(mark["text"].startswith("≤ " if maximizes else "≥ ") for mark in figure["layout"]["annotations"]), (
        "the trial at 54 is brought to a bound"
    )


def test_few_trials_have_no_importance():
    study = search_report(False)
    assert search_history.importance(replace(study, search=replace(study.search, trials=study.search.trials[:5]))) == {}


@pytest.fixture(scope="module")
def verified():
    return make_study()


def test_how_near_the_edge_and_the_gain(verified):
    proof = verified.verification
    low, high = proof.interval
    nearly = replace(proof, measured=high - 0.02 * (high - proof.predicted))
    assert headline.verdict(nearly) == "The prediction held, but only just."
    assert headline.edge_words(nearly).startswith("98 % of the way from the prediction to the upper end of the interval")
    assert headline.verdict(proof) == "The prediction held."
    missed = replace(proof, measured=low - 0.5 * (proof.predicted - low))
    assert headline.verdict(missed) == "The prediction missed."
    assert headline.edge_words(missed).startswith("150 % of the way from the prediction to the lower end")
    own = max((run for run in verified.fitted if run.key == verified.recommended.key), key=lambda run: run.tokens[-1])
    promised, gained = own.loss[-1] - missed.predicted, own.loss[-1] - missed.measured
    expected = f"promised {promised:.3f}, measured {gained:.3f}, {gained / promised:.1f} × what was promised."
    assert expected in headline.gain_words(verified, missed)


def test_hostile_text_in_every_field_is_inert(verified):
    """Markup, template signs and colour roles in each name of a study change nothing but what is read."""
    rows = one_evaluation_a_run() | {"task": [f"{EVIL}t"] * 30, "unknown": [EVIL] * 30}
    for name in ("run", "model", "method", "stage"):
        rows[name] = [f"{EVIL}'\"%{{y}}@ink{value}" for value in rows[name]]
    rows["config"] = [json.dumps({"method": {"name": EVIL, EVIL: f"{EVIL}{n}"}}) for n in range(30)]
    rows["flops_by_group"] = [json.dumps({EVIL: {"forward": 1e9, EVIL: 2.0}})] * 30
    stored = [{**row, "reason": EVIL, "state": EVIL, "environment": json.dumps({EVIL: EVIL})} for row in store_rows(columns())]
    trials = [ReportedTrial(EVIL, "DONE", 4.0 + n, 1e9 * n, {EVIL: EVIL, "b": n}) for n in range(8)]
    found = StudyReport(
        EVIL, from_columns(rows, {}), runs=stored, search=Search(EVIL, False, trials), no_law=EVIL, no_advice=(EVIL,)
    )
    html = render_page(found)
    assert EVIL not in html
    page = Page(html)
    assert len([attributes for attributes, _ in page.scripts if attributes.get("type") != "application/json"]) == 1 + len(SCRIPTS)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    shown = [page.figure(name.removeprefix("figure-")) for name in page.data if name.startswith("figure-")]
    assert not [text for text in strings(shown) if "<script" in text]
    assert not [text for text in strings(shown) if "%{y}@ink" in text], "no template of plotly's"


def strings(value):
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def test_pages_stay_small(verified, compared):
    assert max(len(render_page(each).encode()) for each in (verified, compared)) < TWO_MEGABYTES


def test_many_runs_stay_small():
    """2,000 runs: the table and the thin lines are cut, and say so."""
    count = 2000
    rows = {"run": [f"r{n // 2}" for n in range(2 * count)], "model": ["m"] * 2 * count, "rank": [4] * 2 * count}
    rows |= {"learning_rate": [1e-3 * 1.001 ** (n // 2) for n in range(2 * count)], "tokens": [1e4, 2e4] * count}
    rows |= {"loss": [4 + 0.001 * (n % 97) for n in range(2 * count)]}
    html = render_page(StudyReport("many", from_columns(rows, {})))
    assert len(html.encode()) < TWO_MEGABYTES
    assert "The 600 that ended badly or best are shown." in Page(html).text


def test_the_vendored_library_is_the_pinned_one():
    folder = resources.files("isolora") / "assets" / "plotly"
    pinned = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(pinned) == {"LICENSE", Path(PLOTLY).name}
    for name, digest in pinned.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (folder / "LICENSE").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_of_the_palette(theme):
    """Text reaches 4.5 on the grounds that it stands on, marks reach 3."""
    colours = palette.themes(7)[theme]
    for role in palette.TEXT_ROLES:
        for ground in palette.GROUNDS:
            assert palette.contrast(colours[role], colours[ground]) >= 4.5, (role, ground)
    pairs = [("accent", "accent-wash"), ("ink", "accent-wash"), ("warn", "warn-wash"), ("bad", "bad-wash"), ("bad", "paper")]
    for role, ground in pairs:
        assert palette.contrast(colours[role], colours[ground]) >= 4.5, (role, ground)
    marks = [name for name in colours if name[-1].isdigit()]
    assert len(marks) == 7 + palette.BUDGETS + len(palette.GROUPS)
    low = {name: round(palette.contrast(colours[name], colours["paper"]), 2) for name in marks}
    assert min(low.values()) >= 2.9, low


def test_a_base_in_a_folder_goes_by_its_own_name():
    """Where it lies on somebody's disk is no matter for a page; two folders of one name stay apart."""
    rows = columns(sizes={"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3}, ranks=(8,))
    moved = {**rows, "model": [f"/home/somebody/models/{model}" for model in rows["model"]]}
    here, there = (gather(Path("t.csv"), from_columns(given, {}), Asked(bootstrap=0)) for given in (rows, moved))
    assert (there.models, there.recommendation.model) == (here.models, here.recommendation.model)
    assert there.recommendation.predicted_loss == here.recommendation.predicted_loss
    assert "/home/somebody" not in render_page(there)
    alike = {**rows, "model": [f"./{model}/base" for model in rows["model"]]}
    assert set(gather(Path("t.csv"), from_columns(alike, {}), Asked(bootstrap=0)).models) == set(alike["model"])
    hub = {**rows, "model": [f"org/{model}" for model in rows["model"]]}
    assert set(gather(Path("t.csv"), from_columns(hub, {}), Asked(bootstrap=0)).models) == set(hub["model"])
