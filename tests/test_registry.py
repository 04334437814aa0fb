"""Plug-ins are found by their file's name, or by an entry point of another package, which errors name."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import contracts
import pytest

from isolora import registry
from isolora.data_cards import packaged_data
from isolora.errors import ConfigError, MissingExtra, PlugInError, unknown

KINDS = tuple(kind for kind in registry.FOLDERS if kind != "data_card")

Register = Callable[[str, str, str], None]
FAILS = """
class Tracker:
    name = "fails"
    requires = ("a_package_nobody_has",)
    def start(self, act):
        return act()
tracker = trainer = Tracker()
"""


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers is not remembered."""
    with contracts.forgotten():
        yield


@pytest.fixture
def theirs(forgotten: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Register:
    """Registers a module of a package `theirs` with this text as a plug-in of this kind and name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs").mkdir()
    points: dict[str, list[EntryPoint]] = {}
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))

    def add(kind: str, name: str, text: str) -> None:
        (tmp_path / "theirs" / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"theirs.{name}", raising=False)
        value = f"theirs.{name}" + ("" if kind == "data_card" else f":{kind}")
        points.setdefault(f"isolora.{kind}s", []).append(EntryPoint(name, value, f"isolora.{kind}s"))

    return add


@pytest.mark.parametrize("kind", KINDS)
def test_every_plug_in_loads_and_knows_its_name(kind: str) -> None:
    assert registry.names(kind) == sorted(registry.names(kind)) != []
    for name in registry.names(kind):
        with contextlib.suppress(MissingExtra):
            assert registry.load_plug_in(kind, name).name == name


def test_file_names_become_plug_in_names() -> None:
    assert "causal-lm" in registry.names("task")  # causal_lm.py
    assert not any(name.startswith(("_", "-")) for kind in KINDS for name in registry.names(kind))


@pytest.mark.parametrize("name", ["lorra", "../lora", "_base", "-base", "", "lora.lora"])
def test_unknown_names_are_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown method .*\(valid: .*lora") as caught:
        registry.load_plug_in("method", name)
    assert "\n" not in str(caught.value)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lora'"):
        registry.load_plug_in("method", "lorra")


def test_packages_outside_join_by_entry_points(theirs: Register) -> None:
    theirs("tracker", "fails", FAILS)
    assert {"tensorboard", "fails"} <= set(registry.names("tracker"))
    assert registry.load_plug_in("tracker", "fails").name == "fails"
    assert registry.package_of("tracker", "fails") == "theirs"


def test_entry_point_and_name_are_the_same_word(theirs: Register) -> None:
    theirs("tracker", "other", FAILS)
    with pytest.raises(ConfigError, match=r"^tracker other of package theirs: .* \(its name is 'fails'\)$"):
        registry.load_plug_in("tracker", "other")


def test_very_many_names_are_cut_short() -> None:
    line = unknown("label", "l7", [f"l{number:04}" for number in range(5000)])
    assert line.endswith(", l0098, l0099 and 4900 more)")


def test_a_package_that_cannot_be_imported_is_named(theirs: Register) -> None:
    theirs("law", "broken", "import nothing_of_this_name")
    assert "broken" in registry.names("law"), "names are known without an import"
    with pytest.raises(
        ConfigError, match="law broken of package theirs: ModuleNotFoundError: No module named 'nothing_of_this_name'"
    ):
        registry.load_plug_in("law", "broken")


def test_a_lost_data_card_is_told_and_bothers_nobody_else(theirs: Register, capsys: pytest.CaptureFixture[str]) -> None:
    theirs("data_card", "lost", "")
    assert "lost" not in packaged_data()
    assert "debian-descriptions" in packaged_data()
    assert "data card lost of package theirs: ModuleNotFoundError: no folder theirs.lost; left out" in capsys.readouterr().err


def test_an_error_in_foreign_code_names_it(theirs: Register) -> None:
    theirs("tracker", "fails", FAILS)
    plug_in = registry.load_plug_in("tracker", "fails")
    said = r"^tracker fails \(package theirs\): ZeroDivisionError: .* \(.*fails\.py:6\)$"
    with pytest.raises(PlugInError, match=said), registry.plug_ins_named():
        plug_in.start(lambda: 1 / 0)
    with pytest.raises(ConfigError, match="a mistake of the person's"), registry.plug_ins_named():
        plug_in.start(lambda: exec("raise error", {"error": ConfigError("a mistake of the person's")}))
    with pytest.raises(ZeroDivisionError), registry.plug_ins_named():
        _ = 1 / 0


def test_what_a_trainer_calls_back_is_not_its_fault(theirs: Register) -> None:
    theirs("trainer", "fails", FAILS)
    with pytest.raises(KeyError), registry.plug_ins_named():  # raised in registry.py
        registry.load_plug_in("trainer", "fails").start(lambda: registry.names("no kind"))


def test_a_missing_package_is_told_with_its_pip_command(theirs: Register) -> None:
    theirs("tracker", "fails", FAILS)
    with pytest.raises(
        MissingExtra, match=r"^a_package_nobody_has is not installed; get it with: pip install a_package_nobody_has$"
    ):
        registry.ready("tracker", "fails")
    assert registry._extra_with("bitsandbytes") == "bnb"


def test_a_changed_file_changes_the_digest_of_what_is_cached(theirs: Register, tmp_path: Path) -> None:
    theirs("tracker", "fails", FAILS)
    before = registry.code_digest("tracker", "fails")
    (tmp_path / "theirs" / "fails.py").write_text(FAILS + "# changed")
    assert registry.code_digest("tracker", "fails") != before
    assert registry.code_digest("task", "causal-lm") == ()


def test_isoloras_own_wins(theirs: Register) -> None:
    theirs("law", "additive", "law = None")
    assert registry.load_plug_in("law", "additive").name == "additive"
    assert registry.package_of("law", "additive") == ""
