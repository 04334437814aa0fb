"""Where a run took place: versions, commit, device, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from isolora.json_types import JsonObject

PACKAGES = ("isolora", "torch", "transformers", "peft", "accelerate", "numpy", "scipy")


def environment() -> JsonObject:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "versions": {package: _version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "commit": _commit(),
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


@cache
def _version(package: str) -> str | None:
    """None for a package that is used from a folder, without having been installed. Looked up once: what is imported does not
    change any more, and importlib keeps some of what it reads for every look, 3 KiB a run."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit of a source checkout; None for an installed package, and where git is not installed or does not answer."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
