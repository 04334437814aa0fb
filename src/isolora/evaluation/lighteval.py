"""An adapter measured by LightEval, which lives in an environment of its own: merged, handed over, and its results read back.

LightEval (0.13) fetches files from the net even for local tasks, and unpickles one of them, so it is not among our extras.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from isolora import adapters, registry
from isolora.adapters.export import export_adapter
from isolora.errors import ConfigError, DataError

EXECUTABLE = "ISOLORA_LIGHTEVAL"
"""The variable of the environment that names its command, where that is not `lighteval` on the path."""


def lighteval(folder: Path | str, tasks: str, limit: int | None = None) -> dict[str, dict[str, float]]:
    """Task -> its metrics, and their standard errors as LightEval estimates them (`acc_stderr`).

    tasks: as its command line takes them; limit: samples of each. Raises ConfigError where the command is missing or the adapter
    does not merge, DataError where LightEval fails or writes no results.
    """
    command = _command()
    place = adapters.find_adapter(Path(folder))
    method = adapters.read_record(place)[0].method.name
    if not registry.load_plug_in("method", method).mergeable:
        raise ConfigError(
            f"--lighteval: it takes merged models, and adapters of method {method} do not merge; --harness needs none"
        )
    with tempfile.TemporaryDirectory() as aside:
        export_adapter(place, "merged", Path(aside, "model"))
        words = [command, "accelerate", f"model_name={Path(aside, 'model')}", tasks, "--output-dir", str(Path(aside, "out"))]
        _run([*words, *([] if limit is None else ["--max-samples", str(limit)])])
        return _results(Path(aside, "out"))


def _command() -> str:
    asked = os.environ.get(EXECUTABLE, "lighteval")
    found = shutil.which(asked)
    if found is None:
        raise ConfigError(
            f"--lighteval: no command {asked!r}; install lighteval in an environment of its own, which needs a network,"
            f" and name its command in {EXECUTABLE}"
        )
    return found


def _run(words: list[str]) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = [line for line in (ended.stderr or ended.stdout).splitlines() if line.strip()]
        raise DataError(f"--lighteval: it ended with status {ended.returncode}: {said[-1].strip() if said else 'no word'}")


def _results(folder: Path) -> dict[str, dict[str, float]]:
    files = sorted(folder.rglob("results_*.json"))
    if not files:
        raise DataError("--lighteval: it ended well and wrote no results")
    found: dict[str, dict[str, float]] = json.loads(files[-1].read_text(encoding="utf-8"))["results"]
    return {task: {name: float(value) for name, value in metrics.items()} for task, metrics in found.items() if task != "all"}
