"""Places in a person's words: what the study knows about a model and a rank, said where it is assumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from isolora.cli import app
from isolora.errors import TableError
from isolora.fit import Fit, fit
from isolora.fit.place_defaults import with_defaults
from isolora.fit.places import asked, predicted
from isolora.table import Table, from_columns, known_sizes, places_of
from isolora.table.packaged_sizes import size_in_name

SIZES = {"small": 1e5, "middle": 4e5, "large": 1.6e6}


def study(**more):
    """Three bases, ranks 2 and 8, whose trained weights are rank x 20 x sqrt(n); 50 tokens an example."""
    rows = [(name, n, rank, d) for name, n in SIZES.items() for rank in (2, 8) for d in np.geomspace(1e4, 1e5, 5)]
    model, n, rank, d = map(np.array, zip(*rows, strict=True))
    p = rank * 20 * np.sqrt(n)
    columns = {"run": np.array([f"{a}/{b}" for a, b in zip(model, rank, strict=True)], dtype=object)}
    columns |= {"model": model.astype(object), "method": np.full(len(n), "lora", dtype=object), "rank": rank.astype(float)}
    columns |= {"body_parameters": n, "trainable_parameters": p, "tokens": d, "flops": (4 * n + 6 * p) * d}
    columns |= {"unique_tokens": d, "unique_examples": d / 50, "loss": 2 + 40 * n**-0.3 + 60 * d**-0.4 + 5 * p**-0.5}
    return Table(columns | more)


def filled(words, table=None):
    places, notes = with_defaults(asked(words.split()), table or study())
    return {name: places[name][0] for name in places.columns}, notes


def test_a_measured_model_and_rank_have_their_own_numbers():
    found, notes = filled("model=middle rank=8 tokens=1e6")
    assert (found["body_parameters"], found["trainable_parameters"]) == (4e5, pytest.approx(8 * 20 * np.sqrt(4e5)))
    assert found["flops"] == pytest.approx((4 * 4e5 + 6 * 8 * 20 * np.sqrt(4e5)) * 1e6)
    assert notes == ()


def test_what_was_not_measured_follows_what_was():
    found, notes = filled("model=middle,rank=4,tokens=1e6")
    assert found["trainable_parameters"] == pytest.approx(4 * 20 * np.sqrt(4e5))
    assert notes == ("rank 4 was not measured: its trained weights follow those of the measured ranks",)
    assert "flops" not in found
    found, notes = filled("n=9e5 rank=8 tokens=1e6")
    assert found["trainable_parameters"] == pytest.approx(8 * 20 * np.sqrt(9e5))
    assert notes == ("trained weights of n=9e+05 follow a power of the size",)


def test_a_size_that_is_not_the_models_is_taken_and_said():
    found, notes = filled("model=middle n=1e6 rank=8 tokens=1e6")
    assert found["body_parameters"] == 1e6
    assert "middle has 4e+05 weights in the table; the place says 1e+06, which is taken" in notes
    for words in ("model=middle n=400k rank=8 tokens=1e6", "model=nano-1m n=1e6 rank=8 tokens=1e6", "n=1e6 rank=8 tokens=1e6"):
        assert not any("in the table" in note for note in filled(words)[1])


def test_a_packaged_model_that_the_study_has_not_has_its_size():
    assert known_sizes(["nano-1m"])["nano-1m"] == 1_004_928
    found, notes = filled("model=nano-1m rank=8 tokens=1e6")
    assert found["body_parameters"] == 1_004_928
    assert found["trainable_parameters"] == pytest.approx(8 * 20 * np.sqrt(1_004_928))
    assert notes[0] == "nano-1m was not measured: its size is known, 1.005e+06"


def test_a_model_of_the_study_has_the_size_that_the_study_says():
    """Not the packaged one: whoever counts embeddings counts them everywhere. And a size that a place gives is kept."""
    own = study()
    own["model"][own["model"] == "middle"] = "nano-1m"
    assert filled("model=nano-1m rank=8 tokens=1e6", own)[0]["body_parameters"] == 4e5
    places = Table({"model": np.array(["small", "large"], object), "body_parameters": np.array([7.0, np.nan])})
    assert list(with_defaults(places, own)[0]["body_parameters"]) == [7.0, 1.6e6]


def test_defaults_are_said():
    both = study()
    both["method"][:10] = "full"
    found, notes = filled("model=large tokens=1e6", both)
    assert (found["method"], found["trainable_parameters"]) == ("lora", pytest.approx(2 * 20 * np.sqrt(1.6e6)))
    assert notes == (
        "no method was named: lora, which has the most points",
        "no rank was named: 2, of the measured ones (2, 8)",
    )


def test_examples_are_tokens_that_are_seen_again():
    found, _ = filled("model=large rank=8 tokens=1e6 examples=2000")
    assert (found["tokens"], found["unique_tokens"]) == (1e6, pytest.approx(1e5))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("model=smal tokens=1e6", r"unknown model 'smal'; did you mean 'small'\? .*needs its size: n=1e8"),
        ("rank=8 tokens=1e6", r"places name no model and no size: add model= \(valid: large, middle, small\) or n=1e8"),
        ("model=small method=prompt tokens=1e6", r"unknown method 'prompt' \(valid: lora\)"),
    ],
)
def test_what_the_study_has_not_is_one_line(words, line):
    with pytest.raises(TableError, match=line) as raised:
        filled(words)
    assert "\n" not in str(raised.value)


def test_a_table_of_places_with_all_that_a_law_reads_is_left_alone():
    places = Table({"body_parameters": np.array([1e5]), "tokens": np.array([1e6])})
    assert with_defaults(places, study()) == (places, ())


def test_the_verb_takes_a_place_in_words(tmp_path: Path) -> None:
    table = study()
    path = tmp_path / "points.csv"
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [list(table.columns), *zip(*table.columns.values(), strict=True)])
    )
    words = ["predict", str(path), "--law", "additive+capacity", "--bootstrap", "0", "--json"]
    answer = CliRunner().invoke(app, [*words, "--at", "model=middle", "rank=4", "tokens=2e5"])
    [point] = json.loads(answer.stdout)["points"]
    expected = 2 + 40 * 4e5**-0.3 + 60 * 2e5**-0.4 + 5 * (4 * 20 * np.sqrt(4e5)) ** -0.5
    assert point["predicted"] == pytest.approx(expected, rel=1e-2)  # twice as far as the runs, along their slope
    assert "rank 4 was not measured" in json.loads(answer.stdout)["warnings"][0]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-3B", 3e9),
        ("facebook/opt-125m", 125e6),
        ("Phi-3-mini-3.8B-4k", 3.8e9),
        ("Qwen/Qwen3-30B-A3B", 30e9),
        ("mistralai/Mixtral-8x7B", None),
        ("draft-1b-2b", None),
        ("openai-community/gpt2", None),
        ("7b/vicuna", None),
    ],
)
def test_a_name_may_bear_its_size(name, size):
    assert size_in_name(name) == size


def test_sizes_come_from_the_names_where_not_all_models_are_known():
    """Of one kind for all: Qwen2.5-0.5B is known, without its embeddings; 3B is not."""
    models = ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B"]
    table = from_columns({"loss": [2.0, 1.9], "tokens": [1e6, 1e6], "model": models}, {})
    assert list(table["body_parameters"]) == [5e8, 3e9]
    assert any("n is what the models' names say, embeddings included" in note for note in table.notes)
    unknown = from_columns({"loss": [2.0, 1.9], "tokens": [1e6, 1e6], "model": ["Qwen/Qwen2.5-0.5B", "mine"]}, {})
    assert "body_parameters" not in unknown


def repeated():
    """Two bases, one to forty passes: u tokens, 50 of them an example, d tokens seen."""
    shapes = [(name, n, u, passes) for name, n in SIZES.items() for u in (1e5, 4e5) for passes in (0.25, 0.5, 1, 3, 10, 40)]
    model, n, u, passes = (np.array(values) for values in zip(*shapes, strict=True))
    d = u * passes
    worth = np.minimum(d, u) * (1 + 8 * (1 - np.exp(-np.maximum(passes - 1, 0) / 8)))
    columns = {"run": [f"{a}/{b}" for a, b in zip(model, u, strict=True)], "model": model.tolist(), "n": n.tolist()}
    columns |= {"tokens": d.tolist(), "unique_tokens": np.minimum(d, u).tolist(), "flops": (6 * n * d).tolist()}
    columns |= {"unique_examples": (np.minimum(d, u) / 50).tolist(), "loss": (2 + 40 * n**-0.3 + 60 * worth**-0.4).tolist()}
    return from_columns(columns, {})


@pytest.fixture(scope="module")
def of_repeats():
    table = repeated()
    return fit(table, law="data-constrained", bootstrap=0), table


def losses(fitted, table, rows):
    return [point["predicted"] for point in predicted(fitted, places_of(rows), table)["points"]]


def test_each_row_of_places_keeps_what_it_says(of_repeats):
    """A cell that is empty in one row took the column from all: 20 passes over 1e5 tokens were predicted as new tokens."""
    both = {"model": ["large", "large"], "tokens": [2e6, 2e6]}
    old, new = losses(*of_repeats, both | {"unique_tokens": [1e5, None]})
    assert old == pytest.approx(losses(*of_repeats, both | {"unique_tokens": [1e5, 1e5]})[0], rel=1e-12)
    assert new == pytest.approx(losses(*of_repeats, both)[0], rel=1e-12)
    assert old > new * 1.02
    assert losses(*of_repeats, both | {"unique_examples": [2000, None]}) == pytest.approx([old, new], rel=1e-12)
    assert losses(*of_repeats, both | {"examples": [2000, None]}) == pytest.approx([old, new], rel=1e-12)


def test_unique_tokens_are_those_that_were_seen(of_repeats):
    """A corpus larger than the run is no reason for a wider interval."""
    fitted, _ = of_repeats
    place = {"n": [4e5], "d": [1e6]}
    np.testing.assert_array_equal(fitted.interval(place | {"u": [1e12]}), fitted.interval(place))
    corpus = repeated()
    passes = corpus["tokens"] / corpus["unique_tokens"]
    whole = np.where(passes > 1, corpus["unique_tokens"], 1e12)
    told = fit(replace(corpus, columns={**corpus.columns, "unique_tokens": whole}), law="data-constrained", bootstrap=0)
    assert told.ranges == fitted.ranges


def test_trained_weights_that_a_row_gives_are_kept():
    places = places_of({"model": ["small", "small"], "rank": [8, 8], "tokens": [1e6, 1e6], "p": [5e4, None]})
    found, _ = with_defaults(places, study())
    assert list(found["trainable_parameters"]) == [5e4, pytest.approx(8 * 20 * np.sqrt(1e5))]


def test_flops_buy_tokens_at_the_price_of_the_option():
    """Not at the table's median of FLOPs a weight: a plan for these FLOPs has just so many tokens."""
    found, _ = filled("model=small rank=8 flops=1e12")
    assert found["tokens"] == pytest.approx(1e12 / (4 * 1e5 + 6 * 8 * 20 * np.sqrt(1e5)))


def test_a_size_alone_gets_the_trained_weights_that_the_law_reads():
    places, notes = with_defaults(asked(["n=9e5", "tokens=1e6"]), study(), {"n", "d", "p"})
    assert places["trainable_parameters"][0] == pytest.approx(2 * 20 * np.sqrt(9e5))
    assert notes[0] == "no rank was named: 2, of the measured ones (2, 8)"


def test_no_rank_is_no_rank_of_zero():
    assert filled("model=middle rank=0 tokens=1e6")[1] == ("no rank was named: 2, of the measured ones (2, 8)",)


def test_a_rate_that_nothing_prices_is_said(of_repeats):
    fitted, table = of_repeats
    words = predicted(fitted, asked(["model=small", "tokens=1e6", "lr=0.01"]), table)["warnings"]
    assert any("learning rate 0.01 is not read" in sentence for sentence in words)
    assert not any("is not read" in sentence for sentence in predicted(fitted, asked(["n=1e5", "d=1e6"]), table)["warnings"])


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ({"model": ["small", "small"], "tokens": [1e6, None]}, r"reads d \(tokens\), which 1 of 2 places lack"),
        ({"model": [], "tokens": []}, "the table of places has no rows"),
    ],
)
def test_places_without_an_answer_are_counted(of_repeats, rows, line):
    with pytest.raises(TableError, match=line):
        losses(*of_repeats, rows)


def test_a_written_fit_knows_how_long_examples_are_where_its_table_named_bases(of_repeats):
    place = asked(["n=1e5", "tokens=1e6", "examples=100"])
    assert predicted(of_repeats[0], place) == predicted(of_repeats[0], place, of_repeats[1])
    nameless = replace(of_repeats[0], known={})
    with pytest.raises(TableError, match="does not know how many tokens they have; name unique_tokens"):
        predicted(nameless, place)


@pytest.mark.parametrize(
    "words", ["model=middle rank=8 tokens=1e6", "model=large tokens=5e5", "n=9e5 rank=4 examples=400 tokens=1e6"]
)
def test_a_fit_that_was_written_down_knows_the_places_of_its_table(words):
    """To the last bit, with the same sentences."""
    table = study()
    found = fit(table, law="additive+capacity", bootstrap=20)
    again = Fit.from_json(json.loads(json.dumps(found.to_json())))
    assert predicted(again, asked(words.split())) == predicted(found, asked(words.split()), table)
    assert len(again.known["points"]) == 6


def test_nothing_is_kept_of_a_table_without_names():
    table = study()
    nameless = Table({name: values for name, values in table.columns.items() if name != "model"})
    assert fit(nameless, law="additive", bootstrap=0).known == {}
    with pytest.raises(TableError, match="reads p"):
        predicted(fit(nameless, law="additive+capacity", bootstrap=0), asked(["n=1e5", "rank=8", "tokens=1e6"]))
