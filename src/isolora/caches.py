"""What is kept between processes: a folder, JSON files that are written whole or not at all, and what makes one out of date."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from isolora.paths import expanded


def cache_folder() -> Path:
    """`ISOLORA_CACHE`, or the platform's folder for caches; one that cannot be made where this user has no home."""
    if given := os.environ.get("ISOLORA_CACHE"):
        return expanded(given)
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "isolora"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "isolora" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "isolora"


def _home() -> Path:
    """The person's home. Containers often run as a number that is no user and has no home: nothing can be kept below the null
    device then, and a folder that all users share would hand us what somebody else has put there."""
    home = expanded("~")
    return home if home.is_absolute() else Path(os.devnull)


def read_kept_json(path: Path) -> Any:
    """What was kept there; None where there is nothing, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def write_json(path: Path, value: object) -> None:
    """Written aside and renamed, so that a process beside this one never reads half a file. A cache that cannot be written costs
    time and nothing else."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(value, file)
        Path(file.name).replace(path)


@contextlib.contextmanager
def one_at_a_time(key: str) -> Iterator[None]:
    """Within the context no other process of this machine makes the thing with this key: whoever comes second waits, and finds it
    made. Where files cannot be locked, nobody waits."""
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError, ImportError):
            import fcntl  # Windows has none

            place = cache_folder() / "locks" / key
            place.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(opened.enter_context(place.open("ab")), fcntl.LOCK_EX)
        yield


@cache
def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; of a package that is missing nothing. Looked up once: what is imported does not change any more,
    and importlib keeps some of what it reads for every look, 3 KiB a run."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def sources_digest(rooms: tuple[str, ...]) -> str:
    """Hash over isolora's own source files in these folders and modules."""
    home, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(path for room in rooms for path in (home / f"{room}.py", *(home / room).rglob("*.py")) if path.is_file()):
        digest.update(str(path.relative_to(home)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
