"""The sliders' answers are `isolora plan`'s: law for law, and at fifty random positions of four real pages in a real browser."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from chromium import browser, executable
from reported import Proof, columns, make_study
from test_continuation import curves

from isolora import laws
from isolora.cost.accelerators import Place
from isolora.errors import TableError
from isolora.fit import fit, targeted
from isolora.plan import Budget, Limits, NoRecommendation, plan, reach
from isolora.plan.choice import ONE_SIGMA
from isolora.plan.next_runs import steps_towards
from isolora.report import StudyReport, headline, page_tables, write_page
from isolora.report.formula import symbolic_log_terms
from isolora.report.instrument import _fit as fit_as_data
from isolora.report.instrument import instrument
from isolora.report.page import _figures, plain
from isolora.table import Table, from_columns

needs_chromium = pytest.mark.skipif(executable() is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
POSITIONS = {"repeats and limits": 20, "methods": 10, "verified": 10, "score": 10}
METHODS = ("lora", "full", "prompt")
FAMILIES = ("nano", "smollm")


def places(count=40, seed=0):
    """Columns over many sizes, tokens up to ten passes, three methods."""
    rng = np.random.default_rng(seed)
    tokens, method = 10 ** rng.uniform(4, 7, count), rng.choice(METHODS, count)
    found = {"n": 10 ** rng.uniform(4, 9, count), "p": 10 ** rng.uniform(2, 6, count), "d": tokens}
    found |= {"u": tokens / rng.choice([1.0, 3.0, 10.0], count), "c": tokens * 1e6}
    family = rng.choice(FAMILIES, count)
    return found | laws.method_columns(list(method), METHODS) | laws.family_columns(list(family), FAMILIES)


def parameters(law, logs, seed=0):
    """Within the law's own bounds, coefficients about one."""
    rng = np.random.default_rng(seed)
    bounds = [shape.bounds(logs) for shape in law.shapes]
    shapes = law.natural(np.array([[rng.uniform(low, high) for low, high in bounds]]))[0]
    return np.concatenate([10 ** rng.uniform(-1, 1, len(law.coefficients)), shapes])


def computed(node, theta, logs):
    """A formula's value, by numpy's own functions."""
    if isinstance(node, float):
        return node
    name, *rest = node
    if name == "theta":
        return theta[rest[0]]
    return logs[rest[0]] if name == "column" else getattr(np, name)(*(computed(inner, theta, logs) for inner in rest))


def every_law():
    singles = [laws.resolve(name) for name in laws.law_names()]
    methods = laws.by_method(laws.resolve("additive+slope"), METHODS)
    return [*singles, methods, laws.by_family(laws.resolve("additive+capacity"), FAMILIES)]


@pytest.mark.parametrize("law", every_law(), ids=lambda law: law.name)
def test_a_formula_read_off_is_the_law(law):
    columns_ = places()
    logs = {name: np.log(values) for name, values in columns_.items()}
    theta = parameters(law, logs)
    searched = np.concatenate([theta[: len(law.coefficients)], law.searched(theta[None, len(law.coefficients) :])[0]])
    terms = [computed(node, searched, logs) for node in symbolic_log_terms(law)]
    expected = law.predict(theta, columns_)
    np.testing.assert_allclose(sum(k * np.exp(term) for k, term in zip(theta, terms, strict=False)), expected, rtol=1e-12)


def test_a_law_that_is_no_formula_has_no_sliders():
    """A page about such a law is a page all the same."""
    plain_law = laws.resolve("power")
    looped = replace(plain_law, log_terms=lambda shapes, logs: plain_law.log_terms(np.asarray(shapes, dtype=float), logs))
    with pytest.raises(TypeError):
        symbolic_log_terms(looped)


def forgetting_study():
    """Repeated data, forgetting, memory and seconds: every slider has something to hold."""
    rows = columns(sizes={"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3}, ranks=(2, 32))
    shapes = zip(rows["tokens"], rows["rank"], rows["body_parameters"], rows["trainable_parameters"], strict=True)
    known = [(0.02 * np.log2(tokens / 2048) * (1 + rank / 32), 1e8 + 100 * n + 40 * p) for tokens, rank, n, p in shapes]
    rows["forgetting"], rows["peak_memory_bytes"] = map(list, zip(*known, strict=True))
    rows["unique_tokens"] = [min(tokens, 32768.0) for tokens in rows["tokens"]]
    rows["unique_examples"] = [unique / 88 for unique in rows["unique_tokens"]]
    table = from_columns(rows, {})
    return StudyReport("steered", table, fit(table, law="data-constrained+capacity", bootstrap=100))


def methods_study():
    """Three methods of one base, a law of all of them."""
    rng = np.random.default_rng(1)
    names = ("run", "model", "method", "rank", "learning_rate", "body_parameters", "trainable_parameters", "tokens")
    rows = {name: [] for name in (*names, "unique_tokens", "unique_examples", "flops", "seconds", "loss")}
    for method, gain in (("lora", 1.0), ("full", 1.6), ("prompt", 0.4)):
        for seed in range(2):
            for step in range(8):
                tokens = 4096.0 * 2**step
                loss = (2.5 + 9 * (gain * tokens) ** -0.2) * np.exp(rng.normal(0, 0.002))
                row = (f"{method}/{seed}", "m", method, 8 if method == "lora" else None, 1e-2, 1e5, 1e3, tokens)
                row += (tokens, tokens / 90, tokens * 5e5, tokens / 1e4, loss)
                for name, value in zip(rows, row, strict=True):
                    rows[name].append(value)
    table = from_columns(rows, {})
    return StudyReport("methods", table, fit(table, bootstrap=100))


def score_study():
    """A score that saturates: its law has no floor, which the points do not exclude, and its interval ends at 1."""
    rows = columns(sizes={"nano-55k": 55e3, "nano-150k": 150e3, "nano-440k": 440e3}, ranks=(8,))
    n, d = np.array(rows["body_parameters"]), np.array(rows["tokens"])
    error = 2e3 * n**-0.3 * d**-0.7 * np.exp(0.03 * np.random.default_rng(2).standard_normal(len(d)))
    rows["accuracy"] = (1 - np.minimum(error, 0.9)).tolist()
    table = from_columns(rows, {})
    law = fit(table, law="additive", bootstrap=100, target="accuracy")
    assert law.edges
    return StudyReport("scored", targeted(table, "accuracy").table, law, target="1 - accuracy")


@pytest.fixture(scope="module")
def studies():
    plain = {"repeats and limits": forgetting_study(), "methods": methods_study(), "verified": make_study()}
    return {**plain, "score": score_study()}


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=POSITIONS)
def steered(request, tab, studies, tmp_path_factory):
    """(kind, study), its page open; a test finds the sliders where the one before has left them, and sets all of them."""
    tab.problems.clear()
    tab.open(write_page(tmp_path_factory.mktemp("steered") / "page.html", studies[request.param]))
    return request.param, studies[request.param]


@needs_chromium
def test_the_page_computes_every_law(tab, tmp_path):
    """Each law's formula at forty places, in the browser: parts in a billion."""
    data = places()
    logs = {name: np.log(values) for name, values in data.items()}
    asked, expected = [], []
    for law in every_law():
        theta = parameters(law, logs)
        searched = [*theta[: len(law.coefficients)], *law.searched(theta[None, len(law.coefficients) :])[0]]
        asked.append({"terms": symbolic_log_terms(law), "theta": list(map(float, searched))})
        expected.append(np.log(law.predict(theta, data)))
    page = tmp_path / "empty.html"
    page.write_text("<!doctype html><script>document.documentElement.dataset.painted = 'light'</script>")
    tab.open(page)
    source = resources.files("isolora.report").joinpath("evaluate.js").read_text(encoding="utf-8")
    points = [{name: float(values[k]) for name, values in logs.items()} for k in range(len(data["d"]))]
    call = "points.map((logs) => logLoss(ready, theta, logs))"
    given = f"const asked = {json.dumps(asked)}, points = {json.dumps(points)};"
    answer = f"asked.map(({{terms, theta}}) => {{ const ready = terms.map(compiled); return {call}; }})"
    found = tab.value(f"(() => {{ {source}; {given} return {answer}; }})()")
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@needs_chromium
def test_the_page_goes_on_beyond_the_tokens_seen_as_the_fit_does(tab, tmp_path):
    """Prediction, interval and upper end of a fit to curves, before and after their end, and at sizes that were not seen."""
    fitted = fit(curves(0.0, 0.075), bootstrap=50)
    assert fitted.continuation is not None
    places = [{"n": n, "d": d, "c": 4 * n * d} for n in (3e4, 4.4e5, 2e6) for d in (1e4, 6e4, 2e6)]
    page = tmp_path / "empty.html"
    page.write_text("<!doctype html><script>document.documentElement.dataset.painted = 'light'</script>")
    tab.open(page)
    source = resources.files("isolora.report").joinpath("evaluate.js").read_text(encoding="utf-8")
    law = json.dumps(fit_as_data(fitted))
    found = tab.value(f"(() => {{ {source}; return {json.dumps(places)}.map(evaluator({law}).judge); }})()")
    for place, told in zip(places, found, strict=True):
        low, high = fitted.interval(place)
        expected = [fitted.predict(place)[0], low[0], high[0], fitted.interval(place, ONE_SIGMA)[1][0]]
        np.testing.assert_allclose([told["predicted"], *told["interval"], told["prudent"]], expected, rtol=1e-9)


def slide(tab, rng, study):
    """Sliders to a random position, by hand as a reader does it: what was asked, and the answer."""
    data = instrument(study)
    moves = {"budget": int(rng.integers(0, 1001))}
    for name, most in (("examples", 200), ("memory", 100), ("forget", 100)):
        moves[name] = most if rng.random() < 0.5 else int(rng.integers(0, most))
    moves["serve"] = 0 if rng.random() < 0.5 else int(rng.integers(1, 120))
    unit = str(rng.choice(["flops", "hours", "money"]))
    where = str(rng.choice(["here", "A100-80GB"]))
    script = f"""(() => {{
      const chosen = {json.dumps({"unit": unit, "where": where, "price": "3.5", **moves})};
      for (const [name, value] of Object.entries(chosen)) document.getElementById("steer-" + name).value = value;
      for (const name of ["examples", "memory", "forget", "serve", "budget"]) {{
        document.getElementById("steer-" + name).dispatchEvent(new Event("input"));
      }}
      const {{ asked, answer }} = window.steered;
      const named = ({{ option, tokens }}) => ({{ ...option, tokens }});
      return {{ asked, refused: answer.refused ?? null, row: answer.row && {{ ...answer.row }}, nearest: answer.nearest ?? null,
        measured: answer.measured ?? null, next: answer.next.map(named), count: (answer.rows ?? []).length }};
    }})()"""
    assert data is not None
    return tab.value(script)


def planned(study, asked):
    """The same question to isolora plan: the recommendation, or its refusal."""
    budget = Budget(asked["amount"], asked["unit"], asked["price"])
    try:
        limits = (asked["examples"] or math.inf, asked["memory"], None, asked["forget"], asked["serve"])
        return plan(study.fit, study.table, budget, *limits)
    except NoRecommendation as refusal:
        return refusal
    except TableError as error:
        return NoRecommendation(str(error))


@needs_chromium
def test_slider_values_are_the_plans(tab, steered):
    kind, study = steered
    rng = np.random.default_rng(5)
    recommended = refused = 0
    worst = 0.0
    for _ in range(POSITIONS[kind]):
        found = slide(tab, rng, study)
        expected = planned(study, found["asked"])
        if isinstance(expected, NoRecommendation):
            refused += 1
            assert found["refused"] in ("budget", "far", "wide", "beaten", "memory")
            if expected.measured and found["measured"]:
                assert expected.measured["run"] == found["measured"]["run"]
            continue
        recommended += 1
        row = found["row"]
        assert (row["option"]["model"], row["option"]["method"]) == (expected.model, expected.method["name"])
        assert row["option"]["rank"] == expected.method.get("rank", 0)
        pairs = [(row["predicted"], expected.predicted_loss), *zip(row["interval"], expected.interval, strict=True)]
        pairs += [(row["flops"], expected.flops), (row["seconds"], expected.seconds), (row["money"], expected.money)]
        pairs += [(row["epochs"], expected.epochs), (row["examples"], expected.examples)]
        pairs += [(row["learningRate"], expected.learning_rate)]
        differences = [abs(mine - theirs) / abs(theirs) for mine, theirs in pairs]
        worst = max([worst, *differences])
        assert max(differences) < 1e-6, (found["asked"], pairs)
        assert abs(row["tokens"] - expected.tokens) <= 0.51
        assert found["nearest"]["run"] == expected.nearest_evidence["run"]
        assert found["nearest"]["tokens"] == pytest.approx(expected.nearest_evidence["tokens"])
        assert found["count"] == len(expected.alternatives)
    print(f"{kind}: {recommended} recommended, {refused} refused, largest difference {worst:.1e}")
    assert recommended >= POSITIONS[kind] // 2
    assert tab.problems == []


@needs_chromium
def test_reach_on_the_page_is_the_plans(tab, steered):
    """Goals from the worst that was measured to beyond the best within the evidence, each with limits of its own."""
    kind, study = steered
    rng = np.random.default_rng(11)
    reached = 0
    for _ in range(POSITIONS[kind] // 2):
        asked = slide(tab, rng, study)["asked"]
        move = f"reach.value = {int(rng.integers(0, 401))}; reach.dispatchEvent(new Event('input'))"
        found = tab.value(f"(() => {{ const reach = document.getElementById('reach'); {move}; return window.reached; }})()")
        goal = 1 - found["goal"] if study.target.startswith("1 - ") else found["goal"]
        limits = Limits(asked["examples"] or math.inf, asked["memory"], asked["forget"], asked["serve"] or 0.0)
        try:
            expected = reach(study.fit, study.table, goal, limits, price_per_hour=asked["price"])
        except NoRecommendation:
            assert found["answer"] is None
            continue
        reached += 1
        answer = found["answer"]
        assert (answer["option"]["model"], answer["option"]["rank"]) == (expected.model, expected.method.get("rank", 0))
        assert abs(answer["tokens"] - expected.tokens) <= 0.51 + 1e-6 * expected.tokens
        for mine, theirs in zip(answer["interval"], expected.tokens_interval, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or abs(mine - theirs) <= 0.51 + 1e-6 * theirs
        assert (answer["measured"] and answer["measured"]["run"]) == (expected.measured and expected.measured["run"])
        pairs = [(answer[name], getattr(expected, name)) for name in ("flops", "seconds", "money", "examples")]
        assert all(abs(mine - theirs) <= 1e-6 * theirs for mine, theirs in pairs), pairs
    assert reached >= POSITIONS[kind] // 4
    typed = "amount.value = '1e-9'; amount.dispatchEvent(new Event('input'))"
    tab.value(f"(() => {{ const amount = document.getElementById('reach-amount'); {typed}; }})()")
    assert tab.problems == []


@needs_chromium
def test_the_sliders_start_at_what_was_asked(tab, tmp_path, studies):
    """The budget asked for, not the FLOPs of a plan that a limit ends before; limits to the last digit."""
    limits = Limits(examples=777, memory_bytes=None, forget_at_most=0.123456789, serve_tokens=12345.0)
    study = replace(studies["repeats and limits"], budget=Budget(5e11, "flops"), limits=limits)
    tab.open(write_page(tmp_path / "page.html", study))
    asked = tab.value("window.steered.asked")
    found = [asked[name] for name in ("amount", "unit", "examples", "memory", "forget", "serve")]
    assert found == [5e11, "flops", 777, None, 0.123456789, 12345]
    tab.open(write_page(tmp_path / "hours.html", replace(study, budget=Budget(90.0, "seconds"))))
    assert tab.value("[window.steered.asked.unit, Math.round(1e6 * window.steered.asked.amount)]") == ["seconds", 90_000_000]
    placed = replace(study, budget=Budget(90.0, "seconds"), place=Place("h100", 0.25, 3.5), precision="float32")
    tab.open(write_page(tmp_path / "placed.html", placed))
    asked = tab.value("window.steered.asked")
    assert asked["unit"] == "flops"
    assert asked["amount"] == pytest.approx(90 * 0.25 * 67e12)
    assert asked["price"] == 3.5
    tab.value("document.getElementById('steer-reset').click()")
    assert tab.value("window.steered.asked.amount") == pytest.approx(90 * 0.25 * 67e12)


@needs_chromium
def test_at_the_start_the_next_runs_are_the_plans(tab, tmp_path, studies):
    """To the run, as `isolora plan` names them; once a slider has moved the page says that it knows less."""
    study = studies["verified"]
    budget = Budget(8 * study.largest_flops, "flops")
    found = plan(study.fit, study.table, budget)
    assert found.measure_next
    tab.open(write_page(tmp_path / "page.html", replace(study, recommendation=found, budget=budget)))
    shown = "[...document.querySelectorAll('#steer-next li')].map((item) => item.textContent)"
    words = "document.getElementById('steer-next-words').textContent"
    at_start = tab.value(shown)
    assert len(at_start) == len(found.measure_next)
    assert all(run["model"] in line for run, line in zip(found.measure_next, at_start, strict=True))
    assert tab.value(words) == ""
    tab.value("document.getElementById('steer-budget').focus()")
    tab.press("ArrowRight")
    assert "isolora plan" in tab.value(words)
    tab.value("document.getElementById('steer-reset').click()")
    assert tab.value(shown) == at_start
    assert tab.value(words) == ""


@needs_chromium
def test_steps_towards_a_budget_are_those_of_the_library(tab, tmp_path, studies):
    study = studies["verified"]
    tab.open(write_page(tmp_path / "page.html", study))
    found = slide(tab, np.random.default_rng(3), study)
    budget = Budget(found["asked"]["amount"], found["asked"]["unit"])
    memory = found["asked"]["memory"]
    fitting = [option for option in study.options if memory is None or not option.peak_memory_bytes > memory]
    expected = steps_towards(fitting, budget)
    assert [(run["model"], run["rank"], run["tokens"]) for run in expected] == [
        (run["model"], run["rank"], round(run["tokens"])) for run in found["next"]
    ]


@needs_chromium
def test_words_and_marks_move_with_the_sliders(tab, tmp_path, studies):
    tab.open(write_page(tmp_path / "page.html", studies["verified"]))
    before = tab.value("document.getElementById('steer-headline').textContent")
    tab.value("document.getElementById('steer-budget').focus()")
    tab.press("Home")
    for _ in range(3):
        tab.press("ArrowRight")
    assert tab.value("document.getElementById('steer-budget').value") == "3"
    assert tab.value("document.getElementById('steer-headline').textContent") != before
    tab.value("document.getElementById('steer-reset').click()")
    assert tab.value("window.steered.asked.amount") == pytest.approx(studies["verified"].recommendation.flops, rel=1e-12)
    assert tab.value("document.getElementById('steer-headline').textContent") == before
    mark = "document.querySelector('[data-figure=figure-frontier]').data.find((trace) => trace.name === 'steered').x[0]"
    tab.wait(f"{mark} === window.steered.answer.row.flops")
    typed = "amount.value = '3e11'; amount.dispatchEvent(new Event('input'))"
    tab.value(f"(() => {{ const amount = document.getElementById('steer-amount'); {typed}; }})()")
    assert tab.value("window.steered.asked.amount") == 3e11
    tab.wait(f"{mark} === window.steered.answer.row.flops")
    assert tab.value("document.querySelector('.answer').getAttribute('aria-live')") == "polite"


def test_a_score_is_told_as_a_score(studies):
    """Accuracy, not 1 - accuracy: in the first words, beside the measurement, in the tables."""
    study = studies["score"]
    advised = plan(study.fit, study.table, Budget(4 * study.largest_flops, "flops"))
    proof = Proof(0.10, (0.05, 0.20), 0.12, 1e12, 4.0)
    told = replace(study, recommendation=advised, verification=proof)
    words = headline.advice(told)
    low, high = (1 - end for end in reversed(advised.interval))
    expected = (
        f"accuracy of {1 - advised.predicted_loss:.3f}; with 95 % confidence a new run ends between {low:.3f} and {high:.3f}"
    )
    assert expected in words["expectation"]
    assert words["facts"][0]["name"] == "Predicted accuracy"
    found = headline.proof(told)
    assert [found[name] for name in ("predicted", "measured", "low_percent", "width_percent")] == ["0.900", "0.880", 0.0, 100.0]
    assert "an accuracy of 0.900, measured 0.880, 0.020 off" in found["words"]
    assert "to the lower end" in found["edge"]
    rows = page_tables.alternatives(told).rows
    assert rows[0].entries[5].value == pytest.approx(1 - advised.alternatives[0]["predicted_loss"])


def test_figures_and_captions_name_what_they_show(studies):
    """They said "loss 0.236" of an error of accuracy, and "the best loss" under it."""
    study = studies["score"]
    table = replace(study.table, columns={**study.table.columns, "forgetting": np.full(len(study.table), 0.1)})
    study = replace(study, table=table, recommendation=plan(study.fit, table, Budget(4 * study.largest_flops, "flops")))
    figures = {figure["key"]: figure for figure in _figures(study)}
    shown = json.dumps(list(figures.values())).replace("loss added on other texts", "")
    assert "loss" not in shown.lower()
    for key in ("curves", "frontier", "forgetting"):
        assert "1 - accuracy %{" in json.dumps(figures[key]["plot"]), key
    assert "learns most (1 - accuracy 0." in figures["forgetting"]["caption"]
    assert "The best 1 - accuracy that each budget can buy" in figures["frontier"]["caption"]


def test_a_page_without_choices_has_no_sliders():
    tokens = np.geomspace(1e4, 1e6, 12)
    rows = {"tokens": tokens.tolist(), "loss": (2 + 40 * tokens**-0.3).tolist(), "run": ["only"] * 12}
    table = from_columns(rows, {})
    assert instrument(StudyReport("x", table, fit(table, bootstrap=0))) is None
    assert instrument(StudyReport("x", table)) is None


def test_numbers_that_json_has_not_become_null(studies):
    assert json.dumps(instrument(studies["verified"]), allow_nan=False)


def test_the_data_are_exact_enough(studies):
    """Parameters are kept to 13 digits, where figures round to 7."""
    study = studies["verified"]
    draws = np.array(instrument(study)["fit"]["draws"])
    assert draws.shape == study.fit.draws.shape
    count = len(study.fit.shape.coefficients)
    np.testing.assert_allclose(draws[:, :count], study.fit.draws[:, :count], rtol=1e-12)
    assert plain({"x": 1 / 3}) == {"x": 0.3333333}
    assert isinstance(study.table, Table)
