"""What is installed here, what this machine can do, and what will not work and why."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any
from urllib.parse import urlsplit

from isolora.data import cache_folder
from isolora.json_types import JsonObject
from isolora.models import fetched, packaged_models
from isolora.runs.device import device

CORE = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy", "scipy")
HUB_SECONDS = 2.0
MAKERS = ("dev", "docs")
"""Extras of those who work on isolora itself."""


@dataclass(frozen=True)
class Diagnosis:
    """versions: package -> version, None where it is missing; extras: extra -> its missing packages; device and rates: where
    steps run, GFLOP/s of one large matrix product by precision; problems: one line each."""

    versions: dict[str, str | None]
    extras: dict[str, list[str]]
    device: JsonObject
    gflops_per_second: dict[str, float]
    models: list[str]
    hub: str
    cache: str
    problems: tuple[str, ...]

    def to_json(self) -> JsonObject:
        return asdict(self)

    def __str__(self) -> str:
        installed = ", ".join(f"{name} {number or 'missing'}" for name, number in self.versions.items())
        extras = ", ".join(f"{name} {'ready' if not lacking else 'missing'}" for name, lacking in self.extras.items())
        rates = ", ".join(f"{precision} {rate:,.0f} GFLOP/s" for precision, rate in self.gflops_per_second.items())
        lines = [
            f"versions  {installed}",
            f"extras    {extras}",
            f"device    {', '.join(f'{name} {value}' for name, value in self.device.items())}",
            f"rates     {rates}",
            f"models    {', '.join(self.models)}",
            f"hub       {self.hub}",
            f"cache     {self.cache}",
        ]
        found = [f"problem   {problem}" for problem in self.problems]
        return "\n".join([*lines, *(found or ["problems  none found"])])


def doctor() -> Diagnosis:
    """Look at versions, extras, device, models, hub and cache; a few seconds."""
    extras, hub, cache = _extras(), _hub(), cache_folder()
    problems = [
        f"extra {name}: {', '.join(lacking)} not installed; get it with: pip install 'isolora[{name}]'"
        for name, lacking in extras.items()
        if lacking
    ]
    if hub != "reachable":
        problems.append(f"hub {hub}: only packaged models and data, local folders and what is cached can be named")
    if not _writable(cache):
        problems.append(f"cache {cache} cannot be written: tokens and rates are made again every time; set ISOLORA_CACHE")
    if shutil.which("git") is None:
        problems.append("git is not on the path: runs do not note the commit of a source checkout")
    rates = _rates()
    if rates.get("bfloat16", 0) < rates["float32"]:
        problems.append("bfloat16 products are slower than float32 ones here: leave training.precision at float32")
    return Diagnosis(
        versions={"isolora": _version("isolora"), "python": platform.python_version(), **{name: _version(name) for name in CORE}},
        extras=extras,
        device=_device(),
        gflops_per_second=rates,
        models=sorted(packaged_models() | fetched()),
        hub=hub,
        cache=str(cache),
        problems=tuple(problems),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """Extra -> those of its packages that are not installed, as isolora's own metadata declares them."""
    found: dict[str, list[str]] = {}
    for line in requires("isolora") or []:
        declared = re.match(r"([A-Za-z0-9_.-]+).*extra == ['\"]([a-z]+)['\"]", line)
        if declared and declared[2] not in MAKERS:
            lacking = found.setdefault(declared[2], [])
            lacking += [] if _version(declared[1]) else [declared[1]]
    return found


def _device() -> JsonObject:
    import torch

    found: JsonObject = {"kind": device(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if hasattr(os, "sysconf"):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return found


def _rates() -> dict[str, float]:
    """GFLOP/s of a large matrix product, the best of three."""
    import torch

    width = 4096 if device() == "cuda" else 768
    return {
        precision: 2 * width**3 / 1e9 / _best_seconds(_product(width, getattr(torch, precision)))
        for precision in ("float32", "bfloat16")
    }


def _product(width: int, dtype: Any) -> Callable[[], Any]:
    import torch

    square = torch.ones(width, width, device=device(), dtype=dtype)

    def multiply() -> None:
        (square @ square)[0, 0].item()  # the value waits for a GPU

    return multiply


def _best_seconds(act: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _hub() -> str:
    """reachable, switched off by HF_HUB_OFFLINE, or out of reach."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "switched off (HF_HUB_OFFLINE)"
    place = urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=HUB_SECONDS):
            return "reachable"
    except OSError:
        return "out of reach"


def _writable(folder: Any) -> bool:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)
