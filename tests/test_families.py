"""Bases of several families in one study: who is of which, one law with an offset and a factor for each, a plan that chooses."""

from __future__ import annotations

import numpy as np
import pytest

from isolora.errors import TableError
from isolora.fit import Fit, fit
from isolora.fit.families import family_by_model, with_families
from isolora.fit.fit_points import families_of
from isolora.plan import plan
from isolora.report.isoflop import figure
from isolora.report.study_report import StudyReport
from isolora.table import Table, from_columns

TOKENS = 2e4 * 2 ** (np.arange(10) / 1.5)


def loss_of(n, d, factor=1.0):
    return factor * (2 + 30 * n**-0.3 + 40 * d**-0.5)


def table(factors: dict[str, float], sizes=(1e5, 3e5, 1e6), noise=0.001, **more: str) -> Table:
    """Bases NAME-SIZEm of these families, whose losses differ by a factor."""
    rows = [
        (f"{name}-{n / 1e6:g}M", name, n, d, loss_of(n, d, by)) for name, by in factors.items() for n in sizes for d in TOKENS
    ]
    models, families, n, d, loss = zip(*rows, strict=True)
    scatter = np.exp(noise * np.random.default_rng(0).standard_normal(len(rows)))
    columns = {"run": models, "model": models, "n": n, "tokens": d, "flops": 4 * np.array(n) * d, "loss": loss * scatter}
    return from_columns({name: list(values) for name, values in columns.items()} | {name: list(families) for name in more}, {})


def test_names_with_sizes_tell_families() -> None:
    found = with_families(table({"Qwen2.5": 1.0, "SmolLM2": 1.0}))
    assert families_of(found) == ["Qwen2.5", "SmolLM2"]
    assert family_by_model(found)["Qwen2.5-0.3M"] == "Qwen2.5"
    assert families_of(with_families(table({"Qwen2.5": 1.0}))) == []
    assert families_of(with_families(table({"a": 1.0, "b": 1.0}, sizes=(1e6,)))) == []  # each of its own: names tell nothing


def test_what_a_study_notes_of_its_bases_tells_families() -> None:
    points = table({"bert": 1.0, "roberta": 0.9}, sizes=(1e6,))
    kinds = np.where(points["model"] == "bert-1M", "bert, 30522 entries", "roberta, 50265 entries").astype(object)
    told = with_families(Table({**points.columns, "base_kind": kinds}))
    assert family_by_model(told) == {"bert-1M": "bert", "roberta-1M": "roberta"}
    alike = Table({**table({"Qwen": 1.0, "Qwen-chat": 1.0}).columns})
    one = np.full(len(alike), "qwen2, 151643 entries", dtype=object)
    assert families_of(with_families(alike)) == ["Qwen", "Qwen-chat"]  # by names
    assert families_of(with_families(Table({**alike.columns, "base_kind": one}))) == []
    partly = np.where(np.arange(len(alike)) < 10, one, "None").astype(object)
    assert families_of(with_families(Table({**alike.columns, "base_kind": partly}))) == ["Qwen", "Qwen-chat"]


def test_a_column_tells_families_and_a_base_is_of_one() -> None:
    found = with_families(table({"a": 1.0, "b": 1.0}, sizes=(1e6,), family="yes"))
    assert families_of(found) == ["a", "b"]
    broken = Table({**found.columns, "model": np.full(len(found), "same", dtype=object)})
    with pytest.raises(TableError, match=r"^model 'same' is of two families \(a, b\) in the column family$"):
        fit(broken)


def test_one_law_for_two_families() -> None:
    points = table({"Qwen2.5": 1.0, "SmolLM2": 0.9})
    found = fit(points, law="additive", bootstrap=30)
    assert found.law == "additive+family[Qwen2.5|SmolLM2]"
    assert found.parameters["a[SmolLM2]"] == pytest.approx(np.log(0.9), abs=0.02)
    assert "bases of 2 families (Qwen2.5, SmolLM2): each has an offset and a factor of its own" in found.remarks
    for model, factor in (("Qwen2.5-1M", 1.0), ("SmolLM2-1M", 0.9)):
        at = {"n": 1e6, "d": 4 * TOKENS[-1], "model": model}
        truth = loss_of(1e6, 4 * TOKENS[-1], factor)
        assert found.predict(at)[0] == pytest.approx(truth, rel=0.01)
        low, high = found.interval(at)
        assert low[0] < truth < high[0]


def test_a_written_fit_knows_its_families() -> None:
    found = Fit.loads(fit(table({"Qwen2.5": 1.0, "SmolLM2": 0.9}), law="power", holdout="none", bootstrap=5).dumps())
    places = {"n": 1e6, "d": 1e6}
    by_model = found.predict({**places, "model": "SmolLM2-1M"})
    np.testing.assert_array_equal(by_model, found.predict({**places, "family": "SmolLM2"}))
    assert by_model[0] < found.predict({**places, "family": "Qwen2.5"})[0]
    for extra, line in (
        ({}, r"is of several families of bases; name a model or a family \(valid: Qwen2.5, SmolLM2\)"),
        ({"model": "Llama-1B"}, r"^model 'Llama-1B' is of no family that was measured; name one \(valid: Qwen2.5, SmolLM2\)"),
        ({"family": "Qwen"}, r"^unknown family 'Qwen'; did you mean 'Qwen2.5'"),
    ):
        with pytest.raises(TableError, match=line):
            found.predict({**places, **extra})


def test_a_plan_takes_the_better_family_of_two_of_one_size() -> None:
    points = table({"Qwen2.5": 1.0, "SmolLM2": 0.9})
    advice = plan(fit(points, bootstrap=30), points, f"{3 * points['flops'].max()}flops")
    assert advice.model.startswith("SmolLM2")
    assert advice.predicted_loss == pytest.approx(loss_of(1e6, advice.tokens, 0.9), rel=0.01)


def test_families_of_one_base_each_share_no_size() -> None:
    """Where every family has one base, size and family are one thing: the law reads the family."""
    every = table({"a": 1.0, "b": 0.9, "c": 1.1}, family="yes")
    points = every.where(np.isin(every["model"], ["a-0.1M", "b-0.3M", "c-1M"]))
    found = fit(points, bootstrap=0)
    assert found.law.endswith("+family[a|b|c]")
    assert "n" not in found.shape.demands
    asked = fit(points, law="additive", holdout="none", bootstrap=0)
    assert asked.law == "additive"
    assert "bases of 3 families (a, b, c) share one curve: the points do not tell them apart" in asked.remarks


def test_what_the_points_cannot_tell_apart_is_said() -> None:
    many = table(dict.fromkeys("abcdefg", 1.0), noise=0.0, family="yes")
    found = fit(many, law="additive", bootstrap=0)
    assert found.law == "additive"
    assert "bases of 7 families (a, b, c, d and 3 more) share one curve: a law tells 6 apart at most" in found.remarks


def test_no_line_of_the_page_joins_two_families() -> None:
    points = table({"Qwen2.5": 1.0, "SmolLM2": 0.9})
    drawn = figure(StudyReport("", points, fit(points, law="additive", bootstrap=0)))
    assert drawn is not None
    lines = [trace for trace in drawn["data"] if trace["mode"] == "lines"]
    broken = [(trace["x"].index(None), trace) for trace in lines if None in trace["x"]]
    assert broken
    for gap, trace in broken:
        assert trace["y"][gap] is None
        own = dict(zip(trace["x"][:gap], trace["y"][:gap], strict=True))
        others = dict(zip(trace["x"][gap + 1 :], trace["y"][gap + 1 :], strict=True))
        assert all(others[size] < own[size] for size in own.keys() & others.keys())
