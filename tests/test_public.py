"""The public surface is what it says, and no module hides a function of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

import isolora


def test_every_public_name_loads():
    assert sorted(isolora.__all__) == sorted(isolora._HOMES)
    for name, (_, inner) in isolora._HOMES.items():
        assert getattr(isolora, name).__name__ == inner


def test_no_public_name_is_a_module_too():
    here = Path(isolora.__file__).parent
    assert not [name for name in isolora.__all__ if (here / name).is_dir() or (here / f"{name}.py").is_file()]


def test_names_of_the_release_before_still_load():
    for name, now in isolora._RENAMED.items():
        with pytest.warns(DeprecationWarning, match=f"isolora.{name} is now isolora.{now}"):
            assert getattr(isolora, name) is getattr(isolora, now)
