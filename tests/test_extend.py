"""The public surface of plug-ins: pinned, documented, light, and enough for the example package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from isolora import extend

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "examples" / "plugin" / "src" / "isolora_example"
FILES = sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*/data.json"), PACKAGE.parents[1] / "pyproject.toml"])
SURFACE = [
    "AdaptedEmbedding",
    "AdaptedLayer",
    "AdaptedLinear",
    "Array",
    "Attached",
    "Batch",
    "Batches",
    "Card",
    "Classes",
    "Classifier",
    "Columns",
    "ConfigError",
    "DataError",
    "Examples",
    "Executor",
    "Heads",
    "Importer",
    "LoggedRun",
    "Read",
    "by_step",
    "IGNORED",
    "Job",
    "Law",
    "Loop",
    "Loss",
    "LowRankUpdate",
    "Member",
    "Method",
    "MissingExtra",
    "Observer",
    "OpenRun",
    "OwnFormat",
    "OwnFormatAttached",
    "ParameterGroup",
    "Point",
    "Predictions",
    "PrunerOf",
    "Rows",
    "RunConfig",
    "Settings",
    "Shape",
    "Span",
    "Stack",
    "Store",
    "TableError",
    "Task",
    "TrackedRun",
    "Tracker",
    "Train",
    "Trainer",
    "UserError",
    "Workspace",
    "attention_names",
    "attention_outputs",
    "causal_class",
    "causal_loss",
    "usable_rows",
    "class_names",
    "class_options",
    "class_scores",
    "classification_scores",
    "dropout_mask",
    "text_problem",
    "encode",
    "feed_forward_output",
    "from_logits",
    "frozen_head",
    "head_class",
    "head_names",
    "layer_stacks",
    "linear_shape",
    "make_each",
    "model_inputs",
    "next_tokens",
    "read_card",
    "stack",
    "target_modules",
    "train_job",
    "unknown",
    "untie",
]
"""Plug-ins outside this repository are made of these: a name that goes needs a deprecation first."""


def test_the_surface_is_pinned() -> None:
    assert sorted(extend.__all__) == sorted(SURFACE) == sorted(extend._HOMES)
    for name in SURFACE:
        assert getattr(extend, name) is not None


def test_the_map_names_what_is_there() -> None:
    words = set((extend.__doc__ or "").replace("`", " ").replace(",", " ").replace(":", " ").replace(";", " ").split())
    hidden = {"Array", "Batches", "OpenRun", "AdaptedLayer", "attention_names", "causal_class", "read_card"}  # beside their like
    errors = {"ConfigError", "DataError", "MissingExtra", "TableError"}
    assert {name for name in SURFACE if name not in words} <= hidden | errors | {"Settings."}


def test_a_law_brings_in_no_torch() -> None:
    code = "import sys; from isolora.extend import Law, Shape, stack; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Taks'"):
        extend.Taks  # noqa: B018


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: path.name)
def test_the_example_needs_nothing_private(path: Path) -> None:
    modules = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
    assert {module for module in modules if str(module).startswith("isolora")} <= {"isolora.extend"}


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=lambda path: path.name)
def test_the_page_shows_the_whole_file(path: Path) -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert path.read_text(encoding="utf-8").rstrip() in page, f"docs/extending.md does not show {path.name} as it is"
