"""Every plug-in that is installed keeps its kind's contract: a newcomer is tested here without editing a test.

`pytest tests/test_plug_ins.py -k NAME` tests one, also of another package that is installed beside isolora.
"""

from __future__ import annotations

from pathlib import Path

import contracts
import pytest
import torch

from isolora import laws, registry

torch.set_num_threads(1)
pytestmark = [
    # PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
EVERY = [(kind, name) for kind in registry.FOLDERS for name in registry.names(kind)]
METHODS = [name for name in registry.names("method") if not hasattr(registry.load_plug_in("method", name), "variant")]
"""A family such as peft has no method of its own name; test_peft_variants.py tests its members."""
STACKABLE = [name for name in METHODS if registry.load_plug_in("method", name).stackable]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_knows_its_name(kind: str, name: str) -> None:
    contracts.knows_its_name(kind, name)


@pytest.mark.parametrize(("kind", "name"), [pair for pair in EVERY if pair[0] in ("task", "method") and pair[1] != "peft"])
def test_settings_are_described(kind: str, name: str) -> None:
    contracts.settings_are_described(kind, name)


@pytest.mark.parametrize("name", registry.names("task"))
def test_task(name: str, tmp_path: Path) -> None:
    contracts.a_task(name, tmp_path)


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str, tmp_path: Path) -> None:
    contracts.a_method(name, tmp_path)


@pytest.mark.parametrize("name", STACKABLE)
def test_stackable_method(name: str) -> None:
    contracts.a_stackable_method(name)


@pytest.mark.parametrize("name", laws.law_names())
def test_law(name: str) -> None:
    contracts.a_law(name)


@pytest.mark.parametrize("name", registry.names("law"))
def test_reported_law(name: str, tmp_path: Path) -> None:
    contracts.a_reported_law(name, tmp_path)


@pytest.mark.parametrize("name", registry.names("importer"))
def test_importer(name: str, tmp_path: Path) -> None:
    contracts.an_importer(name, tmp_path)


@pytest.mark.parametrize("name", registry.names("trainer"))
def test_trainer(name: str, tmp_path: Path) -> None:
    contracts.a_trainer(name, tmp_path)


@pytest.mark.parametrize("name", registry.names("tracker"))
def test_tracker(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    contracts.a_tracker(name, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("name", registry.names("executor"))
def test_executor(name: str, tmp_path: Path) -> None:
    contracts.an_executor(name, tmp_path)


@pytest.mark.parametrize("name", registry.names("data_card"))
def test_data_card(name: str) -> None:
    contracts.a_data_card(name)
