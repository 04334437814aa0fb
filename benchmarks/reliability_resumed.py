"""Row 1: N tokens and N more in another process are 2N at once, to the last bit, over 25 set-ups."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tried import row


@row("1 N+N against 2N")
def halves(work: Path, short: bool) -> Iterator[bool]:
    """Every task and every method that `scripts/record_losses.py` records: losses, FLOPs, measures and the adapter's tensors."""
    import peft  # once here, and not in every child

    import isolora.training.training_run

    assert isolora
    assert peft
    recorded = set_ups()
    names = {**recorded.TASKS, **{name: ["data.source=debian-descriptions", *words] for name, words in recorded.METHODS.items()}}
    for name, words in list(names.items())[:: 8 if short else 1]:
        given, whole, cut = [*recorded.SMALL, *words], work / name / "whole", work / name / "cut"
        ended = [in_a_child(given, whole, None)]
        ended += [in_a_child(given, cut, half_of(whole)), in_a_child(given, cut, None)]
        same = recorded.points(whole) == recorded.points(cut) and tensors(whole) == tensors(cut)
        if not (passed := same and bool(tensors(whole)) and ended == [0, 143, 0]):
            print(f"{name}: exit statuses {ended}, {'same' if same else 'other'} points and tensors", file=sys.stderr)
        yield passed


def set_ups() -> Any:
    path = Path(__file__).resolve().parents[1] / "scripts" / "record_losses.py"
    spec = importlib.util.spec_from_file_location("record_losses", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def half_of(folder: Path) -> int:
    """Half of the steps that a run took."""
    from isolora.store import Store

    return int(max(point["step"] for point in Store(folder).points())) // 2


def in_a_child(words: Sequence[str], out: Path, stop_after: int | None) -> int:
    """Train in a process of its own, which is asked to stop after so many steps; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(trained(words, out, stop_after))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trained(words: Sequence[str], out: Path, stop_after: int | None) -> int:
    import isolora
    from isolora.training.interruption import Interrupted
    from isolora.training.stack import Stack

    step = Stack.step

    def counted(stack: Stack) -> None:
        step(stack)
        if stack.steps == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    Stack.step = counted  # type: ignore[method-assign]
    try:
        isolora.train(isolora.load_run(None, list(words)), out, quiet=True)
    except Interrupted as stop:
        return stop.exit_status
    return 0


def tensors(folder: Path) -> dict[str, bytes]:
    """The adapter's tensor files."""
    return {path.name: path.read_bytes() for path in sorted((folder / "adapter").glob("*.safetensors"))}
