"""Libraries are imported without what isolora never uses, and nobody loses it for that."""

import subprocess
import sys

import pytest


def run(program: str) -> list[str]:
    lines = f"import gc\ngc.disable()\n{program}\ngc.freeze()"
    words = [sys.executable, "-W", "error", "-c", lines]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


LOADED = """
import sys
import isolora
from isolora import models
from isolora.config import RunConfig
config = RunConfig(model="nano-55k", training={"tokens": 1000})
models.load_base(config, models.bound_task(config))
print("scipy" in sys.modules)
"""


def test_a_base_is_loaded_without_scipy() -> None:
    """0.4 processor seconds of every command that loads one, and of a study's workers."""
    assert run(LOADED) == ["False"]


@pytest.mark.parametrize("model", ["google/flan-t5-large", "FacebookAI/roberta-base", "meta-llama/Llama-3.1-8B"])
def test_a_price_is_told_without_scipys_optimisers(model: str) -> None:
    program = f"""
import sys
from isolora.config import RunConfig
from isolora.cost.estimate import cost
cost(RunConfig(model="{model}", training={{"steps": 1}}), (2, 32))
print("scipy.optimize" in sys.modules)
"""
    assert run(program) == ["False"]


@pytest.mark.parametrize("first", ["", "import transformers.modeling_utils"])
def test_losses_for_detecting_objects_find_scipy_when_they_are_called(first: str) -> None:
    program = f"""{first}
import sys
from isolora.lean_imports import import_modeling
import_modeling()
print("scipy" in sys.modules)
from transformers.loss import loss_for_object_detection, loss_lw_detr
from transformers.utils import is_scipy_available
for losses in (loss_for_object_detection, loss_lw_detr):
    print(losses.is_scipy_available is is_scipy_available, *losses.linear_sum_assignment([[1.0, 0.0], [0.0, 1.0]])[1])
"""
    assert run(program) == [str(bool(first)), *["True", "1", "0"] * 2]


def test_a_finished_study_is_told_without_scipys_statistics() -> None:
    """Only intervals ask for them: 0.4 processor seconds at the end of every study, while its workers are gone."""
    assert run("import sys\nimport isolora.fit\nprint('scipy.stats' in sys.modules)") == ["False"]
