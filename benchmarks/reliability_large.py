"""Row 22: many runs in one process, and stores of ten thousand."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tried import cpu_seconds, files, read, row, run


@row("22 many runs, large stores")
def many(work: Path, short: bool) -> Iterator[bool]:
    from isolora.config import RunConfig, parse
    from isolora.store import Store
    from isolora.training import train_stack

    base, grown, handles = files(work), list[int](), list[int]()
    base["training"] |= {"tokens": 120}
    store = Store(work / "many")
    for seed in range(20 if short else 200):
        train_stack([parse(RunConfig, {**base, "seed": seed})], store, "grid", quiet=True)
        grown.append(int(read(Path("/proc/self/statm")).split()[1]) * resource.getpagesize())
        handles.append(len(list(Path("/proc/self/fd").iterdir())))
    half = len(grown) // 2
    print(f"{(grown[-1] - grown[half]) / (len(grown) - half) / 1024:.1f} KiB a run, {handles[half]} to {handles[-1]} descriptors")
    yield (grown[-1] - grown[half]) / (len(grown) - half) < 20 * 1024
    yield handles[-1] <= handles[half]
    large_store(work / "large", store, 1_000 if short else 10_000)
    for verb in (["status"], ["fit", "--json"], ["report", "--out", work / "large.html"]):
        started = cpu_seconds()
        status, _, _ = run(verb[0], work / "large", *verb[1:])
        print(f"{verb[0]} of the large store: {cpu_seconds() - started:.1f} processor s")
        yield status == 0 and cpu_seconds() - started < 10


def large_store(folder: Path, like: Any, runs: int) -> None:
    """Runs of ten sizes and three ranks, each with one point on a known law and a little noise."""
    from dataclasses import fields

    import numpy as np

    from isolora.store import Point, Run, Store

    store, point, row_, rng = Store(folder), like.points()[-1], like.runs()[0], np.random.default_rng(0)
    known = {f.name: row_[f.name] for f in fields(Run)}
    made, measured = [], []
    for number in range(runs):
        n, tokens, rank = 10_000 * 2 ** (number % 10), int(2000 * 1.5 ** (number % 17)), 2 ** (1 + number % 3)
        loss = 2 + 30 * n**-0.3 + 20 * tokens**-0.35 / rank**0.05 + 0.005 * float(rng.standard_normal())
        made.append(Run(**known | {"run": f"r{number}", "model": f"m{n}", "rank": rank}))
        at = {
            "run": f"r{number}",
            "body_parameters": n,
            "tokens": tokens,
            "unique_tokens": tokens,
            "loss": loss,
            "flops": 6.0 * n * tokens,
        }
        measured.append(Point(**{f.name: point[f.name] for f in fields(Point)} | at))
    store.add(made, {})
    store.write(measured)
    store.set_state([one.run for one in made], "DONE")
