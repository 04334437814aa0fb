"""Sixteen adapters on one nano-1m: how long is a swap, and what does a mixed batch save over sixteen separate passes?"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record

from isolora import adapters
from isolora.adapters import AdapterPool
from isolora.config import RunConfig, parse
from isolora.store import Store
from isolora.training import train_stack

ADAPTERS, ROUNDS, SWAPS = 16, 20, 1000
RANKS = (2, 4, 8, 16)
LENGTHS = (1, 64)
"""Tokens a row: one is what a step of generation asks, 64 a prompt."""


def trained(folder: Path) -> dict[str, Path]:
    """Adapters of four ranks, trained just far enough to differ from the base and from each other."""
    shared = {"model": "nano-1m", "data": {"train_examples": 400, "eval_examples": 4}}
    training = {"steps": 3, "batch_tokens": 512, "learning_rate": 1e-2, "warmup_steps": 0}
    configs = [
        parse(RunConfig, {**shared, "training": training, "method": {"rank": RANKS[seed % 4]}, "seed": seed})
        for seed in range(ADAPTERS)
    ]
    names = train_stack(configs, Store(folder), "grid", quiet=True)
    return {f"a{number}": folder / "adapters" / name for number, name in enumerate(names)}


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats


def swaps(pool: AdapterPool, folders: dict[str, Path]) -> dict[str, float]:
    """Seconds to make another adapter the one in use: ours, PEFT's set_adapter, and loading from the disk."""
    names = list(folders)

    def ours() -> None:
        for name in names:
            with pool.use(name):
                pass

    theirs = in_peft(folders)

    def peft() -> None:
        for name in names:
            theirs.set_adapter(name)

    rounds = [(seconds(ours, SWAPS // ADAPTERS), seconds(peft), seconds(lambda: adapters.load(folders["a0"]))) for _ in range(5)]
    own, other, loaded = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"resident": own / ADAPTERS, "peft_set_adapter": other / ADAPTERS, "load_from_disk": loaded}


def in_peft(folders: dict[str, Path]) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(adapters.bare_base(folders["a0"]).model, str(folders["a0"]), adapter_name="a0")
        for name in list(folders)[1:]:
            model.load_adapter(str(folders[name]), adapter_name=name)
    return model


@torch.no_grad()
def batches(pool: AdapterPool, names: list[str], length: int) -> dict[str, float]:
    """Seconds of one pass over a row for each adapter, together and one after the other, and how far they differ."""
    model = pool.base.model
    ids = torch.randint(2, model.config.vocab_size, (len(names), length), generator=torch.Generator().manual_seed(0))

    def mixed() -> torch.Tensor:
        with pool.rows(names):
            return model(input_ids=ids).logits

    def separate() -> torch.Tensor:
        rows = []
        for row, name in enumerate(names):
            with pool.use(name):
                rows.append(model(input_ids=ids[row : row + 1]).logits)
        return torch.cat(rows)

    expected = separate()
    difference = float((mixed() - expected).abs().max() / expected.abs().max())
    rounds = [(seconds(mixed), seconds(separate)) for _ in range(ROUNDS)]
    together, apart = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {"mixed": together, "separate": apart, "speed_up": apart / together, "largest_relative_difference": difference}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        folders = trained(Path(folder))
        opened = time.perf_counter()
        pool = AdapterPool(folders)
        measured = {
            "adapters": ADAPTERS,
            "ranks": RANKS,
            "threads": torch.get_num_threads(),
            "open_seconds": time.perf_counter() - opened,
            "swap_seconds": swaps(pool, folders),
            "batch_seconds": {f"{length} tokens": batches(pool, list(folders), length) for length in LENGTHS},
        }
    print(measured)
    record("swap", measured)


if __name__ == "__main__":
    main()
