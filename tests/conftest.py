"""What every test stands on: no network, one seed, a cache that is thrown away."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SEED = 20261122


@pytest.fixture(autouse=True)
def seeded() -> None:
    """One seed for each test, so that a test alone and in the whole suite draws the same numbers."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:  # the numpy wing's tests need not wait for torch
        import torch

        torch.manual_seed(SEED)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens cached by a test lie in one temporary folder of the session."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ISOLORA_CACHE", str(tmp_path_factory.getbasetemp() / "isolora-cache"))
        yield
