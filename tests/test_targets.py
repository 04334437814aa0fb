"""Laws of a metric: known laws come back, scores become errors, and what cannot be fitted is said in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from typer.testing import CliRunner

from isolora.cli import app
from isolora.errors import ConfigError, TableError
from isolora.fit import Fit, fit
from isolora.metrics.direction import is_score, larger_is_better
from isolora.plan import plan
from isolora.table import Table, read
from isolora.training import train

TOKENS = 2e3 * 2 ** (np.arange(14) / 1.5)


def table(error_of, sizes=(1e5, 3e5, 1e6), tokens=TOKENS, **more):
    """One trajectory for each size whose token F1 is 1 - error_of(n, d); all losses are alike."""
    n, d = (grid.ravel() for grid in np.meshgrid(sizes, tokens, indexing="ij"))
    columns = {
        "run": n.astype(str).astype(object),
        "model": n.astype(str).astype(object),
        "method": np.full(len(n), "lora", dtype=object),
        "rank": np.full(len(n), 4.0),
        "learning_rate": np.full(len(n), 0.01),
        "body_parameters": n,
        "trainable_parameters": n / 100,
        "tokens": d,
        "flops": 4 * n * d,
        "loss": np.ones(len(n)),
        "token_f1": 1 - error_of(n, d),
    }
    return Table(columns | {name: np.broadcast_to(np.asarray(values), len(n)).copy() for name, values in more.items()})


def error(n, d):
    return 0.02 + 5 * n**-0.3 + 40 * d**-0.7


def plateau(n, d):
    return 0.03 + 0.97 / (1 + (d / 2e4) ** 1.5)


def test_a_score_is_fitted_as_its_error():
    fitted = fit(table(error), law="additive", holdout="none", bootstrap=0, target="token_f1")
    assert fitted.target == fitted.to_json()["target"] == "1 - token_f1"
    np.testing.assert_allclose(list(fitted.parameters.values()), [0.02, 5, 40, 0.3, 0.7], rtol=1e-3)
    assert "additive: 1 - token_f1 = E + A n^-a + B d^-b" in str(fitted)
    assert Fit.loads(fitted.dumps()).target == fitted.target


def test_an_error_is_fitted_as_it_is():
    points = table(error, perplexity=np.exp(1 + 10 * TOKENS**-0.3).tolist() * 3)
    fitted = fit(points, law="power", holdout="none", bootstrap=0, target="perplexity")
    assert (fitted.target, fitted.left_out) == ("perplexity", {})
    np.testing.assert_allclose(fitted.predict({"d": TOKENS}), np.exp(1 + 10 * TOKENS**-0.3), rtol=0.05)


def test_a_score_that_stays_at_zero_at_first_has_its_law():
    """Token F1 is 0 at the first four points, and the competition finds the plateau's law and what lies beyond the data."""
    points = table(plateau, sizes=(1e6,))
    points["token_f1"][:4] = 0
    fitted = fit(points, bootstrap=0, target="token_f1")
    assert fitted.law == "plateau"
    assert fitted.predict({"d": [4 * TOKENS[-1]]})[0] == pytest.approx(plateau(1e6, 4 * TOKENS[-1]), rel=0.01)


def test_points_that_cannot_be_used_are_counted():
    points = table(error)
    points["token_f1"][:3] = np.nan
    points["token_f1"][-2:] = 1
    fitted = fit(points, law="additive", holdout="none", bootstrap=0, target="token_f1")
    assert fitted.left_out == {"no token_f1": 3, "token_f1 is 1": 2}
    assert fitted.points == 3 * 14 - 5
    assert "left out: 3 points (no token_f1)" in str(fitted)


def test_the_best_learning_rate_is_the_targets_own():
    """Two learning rates: the loss prefers the first, F1 the second."""
    first, second = table(lambda n, d: 1.5 * error(n, d)), table(error)
    second["loss"][:], second["learning_rate"][:] = 2, 0.1
    second["run"][:] = [f"{name}-fast" for name in second["run"]]
    both = Table({name: np.concatenate([first[name], second[name]]) for name in first.columns})
    fitted = fit(both, law="additive", holdout="none", bootstrap=0, target="token_f1")
    assert fitted.points == 3 * 14
    assert fitted.parameters["E"] == pytest.approx(0.02, rel=1e-3)
    assert plan(fitted, both, "1e13flops").learning_rate == 0.1


def test_a_plan_speaks_of_the_target():
    points = table(error)
    found = plan(fit(points, law="additive", bootstrap=20, target="token_f1"), points, "1e12flops")
    assert found.to_json()["target"] == "1 - token_f1"
    assert found.predicted_loss == pytest.approx(error(1e6, found.tokens), rel=0.02)
    assert f"expected token_f1 {1 - found.predicted_loss:.4f}, 95 % interval" in str(found)
    assert f"(1 - token_f1 {found.predicted_loss:.4f})" in str(found)
    assert found.to_json()["score"]["interval"] == [1 - found.interval[1], 1 - found.interval[0]]
    assert "nats" not in str(found)


@pytest.mark.parametrize(
    ("target", "more", "words"),
    [
        ("token_f2", {}, r"unknown target 'token_f2'; did you mean 'token_f1'\? \(valid: loss, token_f1\)"),
        ("model", {}, "unknown target 'model'"),
        ("accuracy", {"accuracy": 0.0}, "target '1 - accuracy' is 1 at every point"),
        ("accuracy", {"accuracy": 1.0}, "target '1 - accuracy': no point has a value that can be fitted"),
        ("accuracy", {"accuracy": 37.0}, "target '1 - accuracy': its score goes up to 37; divide per cent by 100"),
        ("forgetting", {"forgetting": -0.1}, "target 'forgetting' must be positive; its smallest value is -0.1"),
        ("reward_margin", {"reward_margin": 0.3}, "target 'reward_margin' grows without an end"),
        ("bleu", {"bleu": 0.3}, "target 'bleu': whether more of it is better is not known; ask for '1 - bleu'"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(target, more, words):
    with pytest.raises(TableError, match=words) as raised:
        fit(table(error, **more), target=target)
    assert "\n" not in str(raised.value)


def test_a_score_in_per_cent_is_said():
    points = table(error)
    with pytest.raises(TableError, match=r"^target '1 - token_f1': its score goes up to 8\d.*; divide per cent by 100$"):
        fit(Table({**points.columns, "token_f1": 100 * points["token_f1"]}), target="token_f1")


def test_flops_in_another_unit_are_said():
    points = table(error, perplexity=np.exp(1 + 10 * TOKENS**-0.3).tolist() * 3)
    told = fit(
        Table({**points.columns, "flops": points["flops"] / 1e18}), law="power", holdout="none", bootstrap=0, target="perplexity"
    )
    assert "flops are 4e-18 a token and weight, where training takes about 6: is the column in another unit?" in told.remarks
    plain = fit(points, law="power", holdout="none", bootstrap=0, target="perplexity")
    assert not any("another unit" in remark for remark in plain.remarks)


def test_an_unknown_score_can_be_turned_by_hand():
    points = table(error, bleu=table(error)["token_f1"])
    known, asked = (fit(points, "additive", 0, "none", target=name) for name in ("token_f1", "1 - bleu"))
    assert known.parameters == asked.parameters
    assert asked.target == "1 - bleu"


@pytest.mark.parametrize(
    ("name", "larger", "score"),
    [
        ("loss", False, False),
        ("forgotten.general-english", False, False),
        ("bits_per_byte", False, False),
        ("token_f1", True, True),
        ("f1.LOSS", True, True),
        ("HasAns_exact", True, True),
        ("reviews/rougeL", True, True),
        ("exact_match", True, True),
        ("reward_accuracy", True, True),
        ("reward_margin", True, False),
        ("eval_acc", True, True),
        ("ROUGEL", True, True),
        ("acc,none", True, True),
        ("test_r2", True, True),
        ("eval_rmse", False, False),
        ("wer", False, False),
        ("error_rate", False, False),
        ("val_perplexity", False, False),
    ],
)
def test_directions(name, larger, score):
    assert (larger_is_better(name), is_score(name)) == (larger, score)


@pytest.mark.parametrize("name", ["best_exact_threshold", "rejected_reward", "bleu", "acc_stderr,none", "grad_acc_steps"])
def test_what_has_no_direction_is_said(name):
    with pytest.raises(ConfigError, match=f"unknown measure '{name}'"):
        larger_is_better(name)


def test_a_runs_own_store_is_fitted_by_its_metric(tmp_path):
    """Perplexity is exp of the loss at every point; the law that is fitted to it says so beforehand and afterwards."""
    train(tiny.from_files(tmp_path, steps=40, evaluate_from=48, learning_rate=3e-3), tmp_path / "run", quiet=True)
    points = read(tmp_path / "run")
    np.testing.assert_allclose(points["perplexity"], np.exp(points["loss"]))
    asked = ["fit", str(tmp_path / "run"), "--target", "perplexity", "--law", "power", "--holdout", "none", "--json"]
    answer = json.loads(CliRunner().invoke(app, [*asked, "--bootstrap", "0"]).stdout)
    assert answer["target"] == "perplexity"
    assert answer["points"] == (points["tokens"] > 0).sum() >= 5
    assert answer["parameters"]["E"] < points["perplexity"].min()


SCORED = {
    "model": [f"m{n:g}" for n in (1e8, 1e9) for _ in range(6)],
    "n": [n for n in (1e8, 1e9) for _ in range(6)],
    "d": [1e6 * 2**k for _ in range(2) for k in range(6)],
    "lr": [1e-3] * 12,
    "accuracy": [1 - 3 * n**-0.1 * (1e6 * 2**k) ** -0.1 for n in (1e8, 1e9) for k in range(6)],
}


def write_scored(path, **more):
    rows = {**SCORED, **more}
    path.write_text("\n".join([",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]))
    return str(path)


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--target", "accuracy"],
        ["fit", "--target", "1 - accuracy"],
        ["predict", "--at", "n=1e9", "d=1e8", "--target", "accuracy"],
        ["plan", "--map", "c=d", "--budget", "4e7flops", "--target", "accuracy"],
        ["plan", "--map", "c=d", "--reach", "accuracy=0.91"],
        ["report", "--target", "accuracy", "--out", "page.html"],
    ],
)
def test_a_target_needs_no_loss_beside_it(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    verb, *rest = words
    answered = CliRunner().invoke(app, [verb, write_scored(tmp_path / "t.csv"), *rest, "--bootstrap", "0"])
    assert answered.exit_code == 0, answered.output
    assert "accuracy" in answered.output or verb == "report"


def test_a_table_without_a_loss_says_how_a_score_is_asked_for(tmp_path):
    with pytest.raises(TableError, match="has no loss column; map one with --map loss=COLUMN, or name a score with --target"):
        read(write_scored(tmp_path / "t.csv"))
    with pytest.raises(TableError, match=r"the table has no loss; ask for another measure of it with --target \(accuracy\)"):
        fit(read(write_scored(tmp_path / "t.csv"), measure="accuracy"))
    halved = write_scored(tmp_path / "h.csv", loss=[2.0] * 6 + [""] * 6)
    assert len(read(halved)) == 6
    assert len(read(halved, measure="accuracy")) == 12


@pytest.mark.parametrize("column", ["accuracy", "eval/accuracy", "token_f1"])
def test_a_score_is_no_loss(column):
    columns = {column if name == "accuracy" else name: values for name, values in SCORED.items()}
    with pytest.raises(TableError, match=f"the loss is column '{column}', a score: .* ask for --target {column} instead"):
        fit(read(columns, {"loss": column}), bootstrap=0)
    assert fit(read(columns, {"loss": column}), bootstrap=0, target=column).target == f"1 - {column}"


@pytest.mark.parametrize(
    ("column", "asked"), [("acc", "accuracy"), ("eval_accuracy", "accuracy"), ("Accuracy", "eval/acc"), ("accuracy", "1 - acc")]
)
def test_a_measure_has_several_names(tmp_path, column, asked):
    """As a sweep calls it and as a person does: such a target was unknown, and `loss=acc` was fitted as a loss that rises."""
    columns = {column if name == "accuracy" else name: values for name, values in SCORED.items()}
    found = fit(read(columns, measure=asked.removeprefix("1 - ")), "multiplicative", 0, "none", target=asked)
    assert found.target == f"1 - {column}"
    assert f"column {column!r} was read as {asked.removeprefix('1 - ')}" in found.remarks
    assert found.parameters == fit(read(SCORED, measure="accuracy"), "multiplicative", 0, "none", target="accuracy").parameters


def test_a_measure_in_two_columns_is_not_guessed():
    columns = {"val_accuracy": SCORED["accuracy"], "test_accuracy": [a / 2 for a in SCORED["accuracy"]]}
    rest = {name: values for name, values in SCORED.items() if name != "accuracy"}
    with pytest.raises(TableError, match=r"unknown target 'accuracy'.*val_accuracy"):
        fit(read({**rest, **columns, "loss": [2.0] * 12}), target="accuracy")


def test_what_grows_with_training_is_no_loss():
    """A score of a name that nobody knows, mapped as the loss."""
    said = "loss grows with tokens in {0} of {0} curves, and no law does: if more of it is better, name its column with --target"
    columns = {"win_rate" if name == "accuracy" else name: values for name, values in SCORED.items()}
    one_run_a_point = {**columns, "run": [str(row) for row in range(12)]}
    for rows in (columns, one_run_a_point):
        found = fit(read(rows, {"loss": "win_rate"}), bootstrap=0)
        assert any(remark.startswith(said.format(2)) for remark in found.remarks)
    falling = fit(read({**SCORED, "loss": [1 - a for a in SCORED["accuracy"]]}), bootstrap=0)
    assert not any("grows with tokens" in remark for remark in falling.remarks)


def test_scores_in_per_cent_are_shares(tmp_path):
    cells = [f"{100 * value:.6f}%" for value in SCORED["accuracy"]]
    shares = read(write_scored(tmp_path / "t.csv", accuracy=cells), measure="accuracy")
    np.testing.assert_allclose(shares["accuracy"], SCORED["accuracy"], rtol=1e-6)
    with pytest.raises(TableError, match="target 'accuracy' must hold numbers; it holds '86 of 100'"):
        fit(read({**SCORED, "accuracy": ["86 of 100"] * 12, "loss": [2.0] * 12}), target="accuracy")


def test_a_column_that_was_read_is_not_called_unread():
    fitted = fit(
        read({**SCORED, "lr": [1e-3] * 12, "width": list(range(0, 24, 2))}, measure="accuracy"), bootstrap=0, target="accuracy"
    )
    assert [remark for remark in fitted.remarks if "no law reads" in remark] == ["no law reads column width"]
