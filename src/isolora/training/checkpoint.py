"""Checkpoints that are whole or absent: written aside, synced, renamed; verified by SHA-256 before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from isolora.json_types import JsonObject

if TYPE_CHECKING:
    from isolora.training.stack import Stack

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
ASIDE = ".writing-"
"""Of folders that are being written, before the host and the number of the process that writes."""


class Checkpointer:
    """The checkpoints of one stack. seconds: between two of them where no evaluation asks for one; writes: whether this process
    keeps any, or goes on from those that another one keeps."""

    def __init__(self, folder: Path, seconds: float, keep_all: bool = False, writes: bool = True) -> None:
        self.folder, self.seconds, self.keep_all, self.writes = folder, seconds, keep_all, writes
        self.saved = time.perf_counter()

    def is_due(self) -> bool:
        return time.perf_counter() - self.saved > self.seconds

    def save(self, stack: Stack) -> None:
        if self.writes:
            save(self.folder, stack.steps, *stack.state(), self.keep_all)
        self.saved = time.perf_counter()

    def resume(self, stack: Stack) -> None:
        """Set the stack back to its newest valid checkpoint, where there is one of the same members. One that was rejected is
        told, with the one that is believed instead."""
        found, refused = newest(self.folder), rejected(self.folder)
        if found is not None and found[1]["names"] == stack.names:
            stack.restore(*found)
        if refused and self.writes:
            believed = f"step {stack.steps}" if stack.steps else "the beginning"
            reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
            print(f"isolora: going on from {believed}; rejected in {self.folder}: {reasons}", file=sys.stderr)
        self.saved = time.perf_counter()


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: JsonObject, keep_all: bool = False) -> None:
    """Write `folder/step-N`. The newest valid one before it stays too, should the new one rot; others go unless kept."""
    final = folder / f"step-{step:09d}"
    if _valid(final):
        return
    folder.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(folder)
    aside = folder / f"{ASIDE}{socket.gethostname()}-{os.getpid()}"
    aside.mkdir()
    try:
        _write(aside, tensors, state)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    except Exception:  # the disk is full: make room for what is to be told
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync(folder)
    if keep_all:
        return
    earlier = [candidate for candidate in _found(folder) if candidate < final]
    kept = [final, *islice(filter(_valid, earlier), 1)]
    for other in _found(folder):
        if other not in kept:
            shutil.rmtree(other)


def _write(aside: Path, tensors: dict[str, Tensor], state: JsonObject) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, str(aside / TENSORS))
    (aside / STATE).write_text(json.dumps(state))
    hashes = {name: sha256(aside / name) for name in (TENSORS, STATE)}
    (aside / MANIFEST).write_text(json.dumps(hashes))
    for name in (TENSORS, STATE, MANIFEST):
        _sync(aside / name)


def _remove_left_overs(folder: Path) -> None:
    """What processes of this machine that are gone, or this one, had half written. Another machine's is its own to remove."""
    for left_over in folder.glob(f"{ASIDE}*"):
        host, _, number = left_over.name.removeprefix(ASIDE).rpartition("-")
        if host in ("", socket.gethostname()) and not (number.isdigit() and _is_another_alive(int(number))):
            shutil.rmtree(left_over, ignore_errors=True)


def _is_another_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def newest(folder: Path) -> tuple[dict[str, Tensor], JsonObject] | None:
    """Tensors and state of the newest checkpoint whose hashes hold; None when there is none."""
    for candidate in _found(folder):
        if _valid(candidate):
            return load_file(str(candidate / TENSORS)), json.loads((candidate / STATE).read_text())
    return None


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def rejected(folder: Path) -> dict[str, str]:
    """Name of each checkpoint newer than the one that is believed -> why it is not."""
    found = {}
    for candidate in _found(folder):
        why = _fault(candidate)
        if why is None:
            break
        found[candidate.name] = why
    return found


def _valid(candidate: Path) -> bool:
    return _fault(candidate) is None


def _fault(candidate: Path) -> str | None:
    """Why a checkpoint cannot be believed; None where it can."""
    for name in (MANIFEST, TENSORS, STATE):
        if not (candidate / name).is_file():
            return f"{name} is missing"
    try:
        hashes = json.loads((candidate / MANIFEST).read_text())
        wrong = [name for name in (TENSORS, STATE) if sha256(candidate / name) != hashes[name]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    return f"{wrong[0]} does not match its SHA-256" if wrong else None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
