"""Row 2: processes that are killed, at random moments and in the middle of saving."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tried import a_study, alive, below, has_checkpoint, points, row, run, start, states, wait_for, workers_of


@row("2 kills")
def kills(work: Path, short: bool) -> Iterator[bool]:
    """SIGKILL until a study is done: the table of the undisturbed one, and no child left.

    100 in all: 80 at random moments, of which every eighth hits one of two workers, and 20 in the middle of saving."""
    study, draw = a_study(work), random.Random(0)
    run("study", study, "--out", work / "whole")
    wanted, moments, series = (3, 1, 2) if short else (80, 20, 0)
    killed = saving = 0
    while killed < wanted or saving < moments:
        out, orphans = work / f"kills-{series}", False
        for _ in range(4):
            if killed % 8 == 2:
                orphans |= not kill_a_worker(study, out, draw)
                killed += 1
            elif saving < moments and (saving + 1) * wanted <= (killed + 1) * moments:
                saving += kill_within(study, out, f"saving {draw.randint(1, 6)}")
            else:
                killed += kill_within(study, out, f"after {draw.uniform(0.05, 1.5)}")
        series += 1
        kill_within(study, out, "never")
        yield points(out) == points(work / "whole") and states(out) == states(work / "whole") and not orphans
    print(f"{killed} kills at random moments and {saving} within saving, over {series} studies")


def kill_within(study: Path, out: Path, when: str) -> bool:
    """Train the study in a child of this process, which needs no start-up, and kill it at the moment named; whether it was."""
    pid = os.fork()
    if pid == 0:
        try:
            trained_in_a_child(study, out, when)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if when.startswith("after"):
        wait_for(lambda: has_checkpoint(out) or not alive(pid), 60)
        time.sleep(float(when.split()[1]))
        os.kill(pid, signal.SIGKILL)
    ended = os.waitpid(pid, 0)[1]
    assert ended in (0, signal.SIGKILL), f"the study ended by itself with {ended}"
    return ended == signal.SIGKILL


def trained_in_a_child(study: Path, out: Path, when: str) -> None:
    """`saving N`: the process kills itself at the N-th call by which a checkpoint is written, synced, renamed or tidied up."""
    from isolora.config import load_study
    from isolora.study.running import run_study
    from isolora.training import checkpoint

    if when.startswith("saving"):
        left = [int(when.split()[1]) + 6]  # beyond the first checkpoint, so that something has been kept
        for name in ("_write", "_sync", "_remove_left_overs", "_found"):
            setattr(checkpoint, name, counted(getattr(checkpoint, name), left))
    run_study(load_study(study), out, quiet=True)


def counted(function: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """The function, whose process dies when `left` calls have been made."""

    def called(*given: Any) -> Any:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given)

    return called


def kill_a_worker(study: Path, out: Path, draw: random.Random) -> bool:
    """Kill one of two workers, and in half of the cases their parent at once; whether no child is left after 5 s."""
    process = start("study", study, "--out", out, "--workers", 2)
    wait_for(lambda: has_checkpoint(out) or process.poll() is not None)
    time.sleep(draw.uniform(0, 0.5))
    others = below(process.pid)
    for victim in (draw.choice(workers_of(process.pid) or [process.pid]), *([process.pid] if draw.random() < 0.5 else [])):
        os.kill(victim, signal.SIGKILL) if alive(victim) else None
    process.communicate(timeout=600)
    return wait_for(lambda: not any(map(alive, others)), 5)
