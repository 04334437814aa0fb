"""Random inputs: whatever a person gives, only typed errors come back, in one line, and none takes longer than 20 seconds.

Seconds are the processor's, so that a busy machine finds no faults of its own; by the clock a case that
waits has ten times as many.

    python benchmarks/bench_fuzz.py [--count 10000] [--part data] [--first 0] [--seconds 20] [--record]

Every file `fuzz_NAME.py` beside this one is a part: `attempt(random, folder)` makes one input and gives it to isolora;
`prepare()`, where there is one, comes before the first. A case is known by its number alone, so that a failure can be repeated:
`--part NAME --first NUMBER --count 1`. Inputs that once failed are kept in tests/test_fuzz_corpus.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from record import RESULTS, moment, record

from isolora.errors import UserError

Attempt = Callable[[Random, Path], object]
SHOWN = 20
"""Failures that are printed in full."""
WAITS = 10
"""A case that does nothing for so many times its seconds waits for something that does not come."""
TOLD_EVERY = 1000
"""Cases after which the figures so far are told."""


EMPTY_CHOICES = re.compile(r"\((valid|columns|names|packaged)[^:()]*: *\)")
"""A list of valid choices that names none."""


class TooSlow(BaseException):
    """Beyond the time that a case may take; no `except Exception` holds it up."""


def parts() -> dict[str, Attempt]:
    """Every part by its name."""
    names = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))
    return {name: importlib.import_module(f"fuzz_{name}").attempt for name in names}


def prepare(part: str) -> None:
    """What a part makes once, outside the time of any case."""
    getattr(importlib.import_module(f"fuzz_{part}"), "prepare", lambda: None)()


def outcome(attempt: Attempt, part: str, number: int, seconds: int) -> str:
    """What became of one case: "accepted", "refused", or how it failed with the place where it did."""
    with tempfile.TemporaryDirectory() as folder, at_most(seconds):
        try:
            attempt(Random(f"{part}:{number}"), Path(folder))
        except UserError as failure:
            return poor(str(failure)) or "refused"
        except TooSlow:
            return f"too slow: {place()}"
        except Exception as failure:
            return f"{type(failure).__name__}: {str(failure)[:120]} {place()}"
    return "accepted"


def poor(line: str) -> str:
    """What is wrong with the words of a refusal; nothing of most."""
    if "\n" in line or not line.strip():
        return f"not one line: {line[:200]!r}"
    return f"no choices: {line[:200]!r}" if EMPTY_CHOICES.search(line) else ""


def place() -> str:
    """File and line of isolora's own innermost frame of the failure at hand."""
    frames = [frame for frame in traceback.extract_tb(sys.exc_info()[2]) if "isolora" in frame.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name})" if frames else ""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(WAITS * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Found:
    """What came of the cases of a part so far. failures: how -> numbers of the cases."""

    part: str
    counted: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[int]] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, number: int, how: str, seconds: float) -> None:
        kind = how if how in ("accepted", "refused") else "failed"
        self.counted[kind] += 1
        self.slowest = max(self.slowest, seconds)
        if kind == "failed":
            self.failures.setdefault(how, []).append(number)

    def figures(self) -> dict[str, Any]:
        kinds = {kind: self.counted[kind] for kind in ("accepted", "refused", "failed")}
        return {"cases": self.counted.total(), **kinds, "slowest_seconds": round(self.slowest, 1)}

    def __str__(self) -> str:
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.figures().items())
        shown = [f"  {len(numbers)} times, first {numbers[0]}: {how}" for how, numbers in list(self.failures.items())[:SHOWN]]
        return "\n".join([f"{self.part}: {told}", *shown])


def run(part: str, attempt: Attempt, first: int, count: int, seconds: int) -> Found:
    """Try the cases of a part; Ctrl-C and TERM end them early, and what was found until then stands."""
    logging.getLogger("isolora").setLevel(logging.ERROR)
    prepare(part)
    found = Found(part)
    try:
        for number in range(first, first + count):
            began = time.process_time()
            found.add(number, outcome(attempt, part, number, seconds), time.process_time() - began)
            if found.counted.total() % TOLD_EVERY == 0:
                print(found, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("stopped early", file=sys.stderr)
    print(found, flush=True)
    return found


def together(before: dict[str, Any], found: Found, first: int) -> dict[str, Any]:
    """A part's figures to record: those of cases that went on where the recorded ones ended are added to them."""
    figures = found.figures()
    if first and before.get("cases") == first:
        figures = {name: figures[name] + before[name] for name in figures} | {
            "slowest_seconds": max(figures["slowest_seconds"], before["slowest_seconds"])
        }
    return {**figures, **moment()}


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=10_000, help="cases of each part")
    parser.add_argument("--part", choices=list(known), action="append", help="all when absent")
    parser.add_argument("--first", type=int, default=0, help="number of the first case; go on where a recorded part ended")
    parser.add_argument("--seconds", type=int, default=20, help="longest time of one case")
    parser.add_argument("--record", action="store_true", help="write the figures to results/fuzz.json")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # one that was begun in the background ignores the first
        signal.signal(number, signal.default_int_handler)
    found = [run(part, known[part], given.first, given.count, given.seconds) for part in given.part or known]
    if given.record:
        path = RESULTS / "fuzz.json"
        before = json.loads(path.read_text())["measured"] if path.is_file() else {}
        record("fuzz", before | {each.part: together(before.get(each.part, {}), each, given.first) for each in found})
    return 1 if any(each.failures for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
