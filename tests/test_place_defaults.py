"""Places in a person's words: what the study knows about a model and a rank, said where it is assumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from isolora.cli import app
from isolora.errors import TableError
from isolora.fit.place_defaults import with_defaults
from isolora.fit.places import asked
from isolora.table import Table, from_columns, known_sizes
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
