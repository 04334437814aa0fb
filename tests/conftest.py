"""What every test stands on: no network, one seed, a cache that is thrown away, and an adapter for those that want one."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SEED = 20261122
LONGEST = (
    *("test_ledger_matrix.py", "test_tasks_life.py", "test_plug_ins.py", "test_certify.py", "test_few_layers.py"),
    *("test_ranks.py", "test_demo.py", "test_token_classification.py"),
)
"""Files of half a minute, and those that end with a long test: they start first, so that no worker waits at the end."""
TELLING = ("isolora", "transformers", "optuna")
"""Loggers whose levels commands change."""
gc.disable()  # until all is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """What was imported stays to the end: looking through it for garbage, test by test, took a twentieth of the suite's time.
    Another twentieth went by looking as often as Python does through what the tests make."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """One seed for each test, so that a test alone and in the whole suite draws the same numbers."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:  # the numpy wing's tests need not wait for torch
        import torch

        torch.default_generator.manual_seed(SEED)  # torch.manual_seed notes the whole call stack for a CUDA that may come


@pytest.fixture(autouse=True)
def told_as_before() -> Iterator[None]:
    """What a test asks of loggers ends with it: a command may ask a library for its errors alone, and a fuzzer asks all loggers
    there are."""
    least, levels = logging.root.manager.disable, {logger: logger.level for logger in map(logging.getLogger, TELLING)}
    yield
    for logger, level in levels.items():
        if logger.level != level:
            logger.setLevel(level)
    if logging.root.manager.disable != least:
        logging.disable(least)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokens and ledgers cached by a test lie in one temporary folder of the session, which the workers of pytest-xdist share:
    what one has rehearsed, the others need not."""
    own = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ISOLORA_CACHE", str((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "isolora-cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_disks() -> Iterator[None]:
    """No test cuts the power, so none waits until the disk has what was written: a sixth of the time of those that train.
    A process that is killed loses nothing by it."""
    connect = sqlite3.connect

    def without_waiting(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        with suppress(sqlite3.Error):  # a file that is no database is for the caller to find
            connection.execute("PRAGMA synchronous=OFF")
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", without_waiting)
        patched.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, its adapter trained far enough to matter."""
    import tiny

    from isolora.training import train

    folder = tmp_path_factory.mktemp("made")
    ended = train(tiny.from_files(folder, steps=12, learning_rate=5e-2), folder / "out", quiet=True)
    assert ended["state"] == "complete"
    return folder / "out"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """An adapter's folder to spoil."""
    return Path(shutil.copytree(made / "adapter", tmp_path / "adapter"))


@pytest.fixture
def plain_peft_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate asks plain PEFT in this process, which saves its start."""
    import torch

    from isolora.adapters import plain, round_trip

    def asked(request: dict[str, Any]) -> Any:
        model = plain.loaded(request["base"], request["auto_class"], request["options"], request["adapter"])
        return plain.plain_scores(model, torch.tensor(request["ids"]))

    monkeypatch.setattr(round_trip, "_asked", asked)
