"""What rows of the reliability benchmark stand on: a tiny study, processes that are started and watched, tests that count."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PYTHON = [sys.executable, "-m", "isolora"]
ROWS: dict[str, Callable[[Path, bool], Iterator[bool]]] = {}


def row(name: str) -> Callable[[Any], Any]:
    def enter(function: Any) -> Any:
        ROWS[name] = function
        return function

    return enter


def files(folder: Path) -> dict[str, Any]:
    """A base of a study: a tiny LLaMA with a tokenizer of words, and texts of its words."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import studies

    if not (folder / "base.json").exists():
        base = studies.base(folder, tokens=1500, batch_tokens=60, evaluate_from=100)
        (folder / "base.json").write_text(json.dumps(base))
    return json.loads((folder / "base.json").read_text())


def a_study(folder: Path, tokens: int = 1500, **grid: list[Any]) -> Path:
    """The file of a study of four runs in two stacks."""
    base = files(folder)
    base["training"] |= {"tokens": tokens, "checkpoint_seconds": 0.2}
    given = {"name": "s", "base": base, "stack": 2}
    given["grid"] = grid or {"method.rank": [2, 4], "training.learning_rate": [1e-3, 1e-2], "training.warmup_steps": [1, 2]}
    path = folder / f"study-{tokens}-{len(given['grid'])}.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


def a_long_proof(work: Path) -> Path:
    """The file of a study of two runs whose law carries a proof of ninety times as many FLOPs."""
    base = files(work)
    import tiny

    base["data"] = {"source": str(tiny.texts(work / "many.txt", 20_000)), "eval_examples": 20}
    base["training"] |= {
        "tokens": 2000,
        "evaluate_from": 200,
        "evaluate_ratio": 1.5,
        "learning_rate": 3e-3,
        "checkpoint_seconds": 0.2,
    }
    path = work / "proof.yaml"
    path.write_text(yaml.safe_dump({"base": base | {"method": "bottleneck"}, "grid": {"seed": [0, 1]}}))
    return path


def start(*words: object, **how: Any) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*PYTHON, *map(str, words)], **(streams | how))


def run(*words: object, **how: Any) -> tuple[int, str, str]:
    process = start(*words, **how)
    out, err = process.communicate(timeout=600)
    return process.returncode, out or "", err or ""


def states(folder: Path) -> dict[str, int]:
    from isolora.study.status import status

    return dict(status(folder).states)


def points(folder: Path) -> list[tuple[Any, ...]]:
    """All that was measured, without what clocks decide."""
    from isolora.store import Store

    names = ("run", "tokens", "step", "loss", "train_loss", "flops")
    return sorted(tuple(point[name] for name in names) for point in Store(folder).points())


def children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in listed.split()]


def below(pid: int) -> list[int]:
    """Children, theirs, and so on."""
    found = children(pid)
    return found + [other for child in found for other in below(child)]


def workers_of(pid: int) -> list[int]:
    """The processes that train for a study: started anew, or forked from one that has imported everything."""
    commands = {child: read(Path(f"/proc/{child}/cmdline")) for child in children(pid)}
    forked = [worker for child, command in commands.items() if "forkserver" in command for worker in children(child)]
    return forked + [child for child, command in commands.items() if "spawn_main" in command]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def cpu_seconds() -> float:
    """Of the processes that have ended; the clock says more of what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*/step-*/manifest.json"))


def one_line(err: str) -> bool:
    lines = [line for line in err.splitlines() if line.startswith("isolora:") or "Traceback" in line]
    return "Traceback" not in err and len(lines) >= 1


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def one_run(work: Path, tokens: int = 1500) -> list[str]:
    base = files(work)
    data = base["data"]
    return [
        f"model={base['model']}",
        f"data={json.dumps(data)}",
        f"training={json.dumps({**base['training'], 'tokens': tokens})}",
    ]


def tests(file: str, words: str, work: Path) -> Iterator[bool]:
    """The tests of a file that these words choose, each of them a try; those that are skipped do not count."""
    root, result = Path(__file__).resolve().parents[1], work / "tests.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        f"tests/{file}",
        "-k",
        words,
        f"--junitxml={result}",
        "-p",
        "no:cacheprovider",
    ]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    cases = list(ElementTree.parse(result).iter("testcase")) if result.is_file() else []
    if not cases:
        print(ended.stdout[-2000:], file=sys.stderr)
        yield False
    for case in cases:
        if case.find("skipped") is None:
            yield case.find("failure") is None and case.find("error") is None
