"""The notebooks run from the first cell to the last, on packaged models, in a folder of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's own process and of its sockets
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # cells call isolora
    book = nbformat.read(path, as_version=4)
    kept = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    now = [cell.outputs for cell in book.cells if cell.cell_type == "code"]
    assert [bool(outputs) for outputs in now] == [bool(outputs) for outputs in kept], "a cell shows what it did not, or nothing"
