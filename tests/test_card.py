"""The model card: what the hub reads, what a person reads, and nothing that a stranger's record could smuggle in."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from isolora.adapters.card import card, code, markdown
from isolora.config import RunConfig, parse


def record(model: str = "acme/small", source: str = "acme/texts:en", **changes: Any) -> dict[str, Any]:
    config = parse(RunConfig, {"model": "nano-55k", "training": {"tokens": 1000}}).model_dump()
    config |= {"model": model, "data": config["data"] | {"source": source}}
    known = {
        "config": config,
        "origins": {"model": "hub", "data": "hub"},
        "format": "peft",
        "auto_class": "AutoModelForCausalLM",
        "base": "0123456789abcdef",
        "loss": 3.14159265,
        "metrics": {"accuracy": 0.5},
        "tokens": 12345,
        "flops": 1234567890123.0,
        "trainable_parameters": 2240,
        "model_parameters": 7408,
        "labels": [],
    }
    return known | changes


def head(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_the_head_is_what_the_hub_wants() -> None:
    assert head(card(record())) == {
        "library_name": "peft",
        "base_model": "acme/small",
        "base_model_relation": "adapter",
        "datasets": ["acme/texts"],
        "pipeline_tag": "text-generation",
        "tags": ["isolora", "lora", "causal-lm"],
    }
    merged = head(card(record(), "merged"))
    assert (merged["library_name"], merged["base_model_relation"]) == ("transformers", "finetune")
    assert head(card(record(format="isolora")))["library_name"] == "isolora"


def test_old_names_without_an_owner_are_on_the_hub_too() -> None:
    assert head(card(record("gpt2", "glue:cola")))["base_model"] == "gpt2"
    assert head(card(record("gpt2", "glue:cola")))["datasets"] == ["glue"]


@pytest.mark.parametrize("origin", ["folder", "packaged"])
def test_what_is_not_on_the_hub_is_no_base_there(origin: str) -> None:
    found = head(card(record("models/small", "data/texts", origins={"model": origin, "data": origin})))
    assert not {"base_model", "datasets"} & found.keys()


def test_a_local_path_stays_at_home() -> None:
    text = card(record("/home/ann/models/small", "/home/ann/secret project/*.md", origins={"model": "folder", "data": "folder"}))
    assert "ann" not in text
    assert "`small`" in text


def test_numbers_are_exact_where_they_are_counted() -> None:
    text = card(record())
    for expected in ("| 1,234,567,890,123, counted", "| 12,345 in", "2,240 of 7,408", "| 3.1416 |", "| `accuracy` | 0.5 |"):
        assert expected in text
    assert (markdown(True), markdown(float("nan")), markdown(0.001)) == ("`true`", "nan", "0.001")


def test_a_prediction_stands_beside_the_measurement() -> None:
    proof = {"law": "power", "predicted": 3.1, "interval": [3.0, 3.2], "measured": 3.15, "inside_interval": True}
    text = card(record(verification=proof | {"flops_over_largest_fitted": 4.2}))
    assert "| predicted loss | 3.1 (95 % interval 3 to 3.2) |" in text
    assert "| measured loss | 3.15, inside the interval |" in text
    assert "Prediction" not in card(record())


@pytest.mark.parametrize(
    "evil", ["a`b", "a\nb: c", "<script>alert(1)</script>", "x | y", "```\n# title", "--- \n---\n", "![](http://x)"]
)
def test_strange_texts_stay_in_their_code_span(evil: str) -> None:
    """Between its two marks a span holds no third one and no end of line, whatever the record says."""
    text = card(record(evil, evil, metrics={evil: evil}, adapter={evil: evil}, auto_class=evil, base=evil))
    assert text.count("```") == 4
    assert head(text).keys() <= {"library_name", "pipeline_tag", "tags"}
    prose = [line for line in text.split("```")[0].splitlines() if "script" in line or "http" in line]
    assert all("<script" not in part and "http" not in part for line in prose for part in line.split("`")[::2])
    assert code(evil).count("`") == 2
    assert "\n" not in code(evil)


def test_the_way_to_load_it_suits_the_base() -> None:
    assert 'base = AutoModelForCausalLM.from_pretrained("acme/small")' in card(record())
    known = card(record("nano-1m", origins={"model": "packaged", "data": "hub"}, labels=["a", "b"]))
    assert 'from_pretrained(locate("nano-1m"), num_labels=2)' in known
    assert "PeftModel" not in card(record(format="isolora"))
    assert 'AutoTokenizer.from_pretrained("this-folder")' in card(record(), "merged")
