"""Writes what a benchmark measured under benchmarks/results/, with the machine, versions, date and commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("isolora", "torch", "transformers", "peft", "accelerate", "numpy", "scipy")


def record(name: str, measured: dict[str, Any]) -> Path:
    """One JSON file a benchmark; the newest measurement replaces the last."""
    RESULTS.mkdir(exist_ok=True)
    entry = {
        "benchmark": name,
        **moment(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform(terse=True)},
        "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "measured": measured,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(RESULTS.parent.parent)}")
    return path


def moment() -> dict[str, str]:
    """When a figure was measured, and of which commit."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=False).stdout.strip()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"date": now, "commit": commit + (" with changes" if changed else "")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
