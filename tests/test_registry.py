"""Plug-ins are found by their file's name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from isolora import registry
from isolora.errors import ConfigError, unknown

KINDS = ("law", "method", "task")


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers is not remembered."""
    registry._foreign.cache_clear()
    registry.load.cache_clear()
    yield
    registry._foreign.cache_clear()
    registry.load.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_every_plug_in_loads_and_knows_its_name(kind: str) -> None:
    assert registry.names(kind) == sorted(registry.names(kind))
    for name in registry.names(kind):
        assert registry.load(kind, name).name == name


def test_file_names_become_plug_in_names() -> None:
    assert "causal-lm" in registry.names("task")  # causal_lm.py
    assert not any(name.startswith(("_", "-")) for kind in KINDS for name in registry.names(kind))


@pytest.mark.parametrize("name", ["lorra", "../lora", "_base", "-base", "", "lora.lora"])
def test_unknown_names_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown method .*\(valid: .*lora") as caught:
        registry.load("method", name)
    assert "\n" not in str(caught.value)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        registry.load("method", "lorra")


@pytest.mark.usefixtures("forgotten")
def test_packages_outside_join_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "isolora.methods.lora:method", "isolora.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "isolora.methods" else [])
    assert {"lora", "theirs"} <= set(registry.names("method"))
    assert registry.load("method", "theirs") is registry.load("method", "lora")


def test_very_many_names_are_cut_short() -> None:
    line = unknown("label", "l7", [f"l{number:04}" for number in range(5000)])
    assert line.endswith(", l0098, l0099 and 4900 more)")
