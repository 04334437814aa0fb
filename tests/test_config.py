"""Bad input is one line that names the field; equal runs have equal identities."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from isolora.config import RunConfig, StudyConfig, content_hash, load_run, load_study, parse, read_yaml, with_word
from isolora.errors import ConfigError

BAD_RUNS: list[tuple[dict[str, Any], str]] = [
    ({"trainin": {}}, "trainin: unknown key 'trainin'; did you mean 'training'? (valid: data, "),
    (
        {"training": {"tokens": 1, "lerning_rate": 1}},
        "training.lerning_rate: unknown key 'lerning_rate'; did you mean 'learning_rate'?",
    ),
    ({"data": {"sorce": "x"}}, "data.sorce: unknown key 'sorce'; did you mean 'source'?"),
    ({"method": {"rnk": 2}}, "method.rnk: unknown key 'rnk'; did you mean 'rank'?"),
    ({"method": {"rank": 0}}, "method.rank: Input should be greater than or equal to 1 (got 0)"),
    ({"method": {"rank": "eight"}}, "method.rank: Input should be a valid integer"),
    ({"method": {"targets": 5}}, "method.targets: Input should be a valid string"),
    ({"method": {"dropout": 1.0}}, "method.dropout: Input should be less than 1"),
    ({"method": {"name": "lorra"}}, "method: unknown method 'lorra'; did you mean 'lora'?"),
    ({"method": 3}, "method: has keys of its own, such as method.name (got 3)"),
    ({"task": "causl-lm"}, "task: unknown task 'causl-lm'; did you mean 'causal-lm'?"),
    ({"data": {"max_length": "x"}}, "data.max_length: Input should be a valid integer"),
    ({"data": {"eval_split": "dev"}}, "data.eval_split: Input should be 'validation' or 'test' (got 'dev')"),
    ({"training": None}, "training: has keys of its own, such as training.tokens (got None)"),
    ({"training": {}}, "training: exactly one of tokens, steps, epochs, flops sets the budget; found none"),
    ({"training": {"steps": 1.5}}, "training.steps: Input should be a valid integer"),
    ({"training": {"steps": True}}, "training.steps: expected no yes or no (got True)"),
    ({"training": {"tokens": -1}}, "training.tokens: Input should be greater than 0 (got -1)"),
    ({"training": {"tokens": float("inf")}}, "training.tokens: Input should be a finite number"),
    ({"training": {"flops": float("nan")}}, "training.flops: Input should be a finite number"),
    ({"training": {"tokens": 1, "learning_rate": "fast"}}, "training.learning_rate: Input should be a valid number"),
    ({"seed": -1}, "seed: Input should be greater than or equal to 0 (got -1)"),
    ({1: 2}, "1: Keys should be strings"),
]

BAD_STUDIES: list[tuple[dict[str, Any], str]] = [
    ({"base": {}, "grid": {"a": 3}}, "grid.a: Input should be a valid list (got 3)"),
    ({"base": {}, "grid": {"a": [1]}, "tune": {"tokens": 3, "over": "b"}}, "tune.over: 'b' is not a key of grid (valid: a)"),
    ({"base": {}, "grid": {}, "tune": {"tokns": 3}}, "tune.tokns: unknown key 'tokns'; did you mean 'tokens'?"),
    ({"name": "../x", "base": {}, "grid": {}}, "name: String should match pattern"),
    ({"base": {}}, "exactly one of grid, search says what is run; found none"),
]

BAD_YAML = {
    "a: 1\nb: [\n": "line 3: ",
    "- a\n- b\n": "expected keys and values, found list",
    "": "expected keys and values, found NoneType",
    "a: !!python/object/apply:os.system ['true']\n": "could not determine a constructor for the tag",
    "seed: 1\nseed: 2\n": "line 2: key 'seed' is given twice",
    "training:\n  tokens: 1\n  tokens: 2\n": "line 3: key 'tokens' is given twice",
    "a: [{b: 1, b: 2}]\n": "key 'b' is given twice",
}


@pytest.mark.parametrize(("given", "line"), BAD_RUNS, ids=str)
def test_bad_runs_are_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(RunConfig, given)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "line"), BAD_STUDIES, ids=str)
def test_bad_studies_are_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(StudyConfig, given)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"), [("tokens", "steps"), ("tokens", "epochs"), ("steps", "flops"), ("epochs", "flops")]
)
def test_exactly_one_budget(first: str, second: str) -> None:
    with pytest.raises(ConfigError, match=f"training: exactly one of .* found {first} and {second}"):
        parse(RunConfig, {"training": {first: 2, second: 2}})
    assert parse(RunConfig, {"training": {second: 2}}).training.budget == (second, 2.0)


@pytest.mark.parametrize(("text", "line"), BAD_YAML.items(), ids=str)
def test_bad_yaml_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file: .*nothing\.yaml"):
        load_run(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="is a folder; a YAML file is wanted"):
        load_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("model: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8 at byte 10"):
        load_run(tmp_path / "latin.yaml")


def test_merged_yaml_keys_still_work(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("base: &base {rank: 2, alpha: 4}\nmethod:\n  <<: *base\n  rank: 8\n")
    assert read_yaml(path)["method"] == {"rank": 8, "alpha": 4}


def test_words_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("training: {tokens: 1.0e+6, learning_rate: 0.1}\nmethod: {rank: 2}\n")
    config = load_run(path, ["training.steps=7", "method.alpha=4", "data.source=a=b.txt", "method.targets=[q_proj, v_proj]"])
    assert config.training.budget == ("steps", 7)
    assert config.training.learning_rate == 0.1
    assert config.method.fields()["rank"] == 2
    assert config.method.fields()["alpha"] == 4
    assert config.method.fields()["targets"] == ["q_proj", "v_proj"]
    assert config.data.source == "a=b.txt"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("rank", "expected key=value"),
        ("=3", "expected key=value"),
        ("a=[", "a: line 1"),
        ("a={b: 1, b: 2}", "a: line 1: key 'b' is given twice"),
        ("seed.x=1", "seed.x: seed is not a group"),
    ],
)
def test_bad_words_are_one_line(word: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_word({"seed": 0}, word)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_words_do_not_change_what_they_were_given() -> None:
    given = {"training": {"tokens": 1}}
    assert with_word(given, "training.flops=2") == {"training": {"flops": 2}}
    assert given == {"training": {"tokens": 1}}


@pytest.mark.parametrize("tokens", [1_000_000, 1e6, "1e6", "1000000.0"])
def test_identity_is_that_of_the_value(tokens: object) -> None:
    config = parse(RunConfig, {"training": {"tokens": tokens}})
    assert config.identity() == RunConfig().identity()
    assert len(config.identity()) == 16


def test_identity_ignores_key_order_and_spelt_out_defaults() -> None:
    one = parse(RunConfig, {"seed": 3, "method": {"rank": 4, "alpha": 8}, "training": {"tokens": 5, "learning_rate": 0.1}})
    two = parse(RunConfig, {"training": {"learning_rate": 0.1, "tokens": 5}, "method": {"alpha": 8.0, "rank": 4}, "seed": 3})
    spelt = parse(RunConfig, {**two.model_dump()})
    assert one.identity() == two.identity() == spelt.identity()
    assert parse(RunConfig, {"method": {"dropout": 0.0}}).identity() == RunConfig().identity()


@pytest.mark.parametrize("word", ["seed=1", "method.rank=9", "training.tokens=999999", "data.seed=1", "model=nano-55k"])
def test_identity_changes_with_every_field(word: str) -> None:
    assert load_run(None, [word]).identity() != RunConfig().identity()


def test_identity_is_the_same_next_year() -> None:
    """Stores on disk are keyed by it: changing how a configuration is hashed orphans them."""
    assert content_hash({"b": [1.0, None, "é"], "a": True}) == "748685452e8add50"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]


def test_a_file_too_large_to_be_a_configuration_is_not_parsed(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("".join(f"key{number}: 1\n" for number in range(1_000_000)))
    started = time.perf_counter()
    with pytest.raises(ConfigError, match=r"large\.yaml: [\d,]+ bytes, more than the 1,048,576"):
        load_run(large)
    assert time.perf_counter() - started < 1
    with pytest.raises(ConfigError, match="is a folder; a YAML file is wanted"):
        load_run(tmp_path)
