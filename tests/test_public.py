"""The public surface is what it says, and no module hides a function of the same name."""

from __future__ import annotations

from pathlib import Path

import isolora


def test_every_public_name_loads():
    assert sorted(isolora.__all__) == sorted(isolora._HOMES)
    for name, (_, inner) in isolora._HOMES.items():
        assert getattr(isolora, name).__name__ == inner


def test_no_public_name_is_a_module_too():
    here = Path(isolora.__file__).parent
    assert not [name for name in isolora.__all__ if (here / name).is_dir() or (here / f"{name}.py").is_file()]
