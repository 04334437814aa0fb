"""What happens to studies when machines, people and disks misbehave: each row is tried so many times, and passes or not.

    python benchmarks/bench_reliability.py [ROW ...] [--short]

Rows are those of the table in README.md. A tiny model and tiny texts, so that the time goes into what surrounds training.
`--short`: one or two tries a row.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import reliability_clusters  # noqa: F401
import reliability_kills  # noqa: F401
import reliability_resumed  # noqa: F401
import reliability_strangers  # noqa: F401
import yaml
from tried import (
    PYTHON,
    ROWS,
    a_study,
    alive,
    children,
    cpu_seconds,
    files,
    has_checkpoint,
    one_line,
    one_run,
    points,
    read,
    row,
    run,
    start,
    states,
    wait_for,
)


@row("3 damaged checkpoints")
def damage(work: Path, short: bool) -> Iterator[bool]:
    study = a_study(work, 6000, **{"method.rank": [2]})
    run("study", study, "--out", work / "undamaged")
    process = start("study", study, "--out", work / "cut")
    wait_for(lambda: len(list((work / "cut").glob("checkpoints/*/step-*"))) > 1)
    process.kill()
    process.communicate()
    spoil: dict[str, Callable[[Path], Any]] = {
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:7]),
        "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        "removed": Path.unlink,
        "other JSON": lambda path: path.write_text("[1, null]"),
        "a folder": lambda path: (path.unlink(), path.mkdir()),
    }
    for name in ("tensors.safetensors", "state.json", "manifest.json")[: 1 if short else 3]:
        for damaged in list(spoil)[: 1 if short else 5]:
            out = Path(shutil.copytree(work / "cut", work / f"{name}-{damaged}"))
            newest = max(out.glob("checkpoints/*/step-*"))
            spoil[damaged](newest / name)
            status, _, err = run("study", study, "--out", out)
            told = f"rejected in {newest.parent}" in err and newest.name in err
            yield status == 0 and told and points(out) == points(work / "undamaged")


@row("4 no room on the disk")
def no_room(work: Path, short: bool) -> Iterator[bool]:
    """A limit on the size of files: one line. A full file system, where this process may mount one: FAILED, then the rest."""
    study, out = a_study(work, 3000), work / "limited"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))  # noqa: E731
    status, _, err = run("train", *one_run(work), "--out", out, preexec_fn=limit)
    yield status in (1, 2) and one_line(err)
    place = work / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", place], capture_output=True, check=False).returncode:
        return
    try:
        status, _, err = run("study", study, "--out", place / "out")
        yield status in (1, 2) and one_line(err) and "No space" in err + (read(place / "out" / "study.log"))
        subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
        status, _, _ = run("study", study, "--out", place / "out")
        yield status == 0 and set(states(place / "out")) == {"complete"}
    finally:
        subprocess.run(["umount", "-l", place], check=False)


@row("5 a member at 1e38")
def huge_rate(work: Path, short: bool) -> Iterator[bool]:
    alone = a_study(work, 600, **{"training.learning_rate": [1e-2]})
    both = alone.with_name("both.yaml")
    given = yaml.safe_load(alone.read_text())
    given["grid"] = {"training.learning_rate": [1e-2, 1e38]}
    both.write_text(yaml.safe_dump(given))
    run("study", alone, "--out", work / "alone")
    run("study", both, "--out", work / "both")
    kept = [point for point in points(work / "both") if point[0] in {other[0] for other in points(work / "alone")}]
    near = all(abs(one[3] - other[3]) < 1e-5 for one, other in zip(kept, points(work / "alone"), strict=True))
    yield states(work / "both") == {"diverged": 1, "complete": 1} and near


@row("6 memory limits, killed workers")
def workers(work: Path, short: bool) -> Iterator[bool]:
    study = a_study(work)
    for count in (2,) if short else (1, 2):
        out = work / f"limited-{count}"
        process = start("study", study, "--out", out, "--workers", count)
        wait_for(lambda out=out: has_checkpoint(out))
        victims = [pid for pid in children(process.pid) if "spawn_main" in read(Path(f"/proc/{pid}/cmdline"))] or [process.pid]
        held = int(read(Path(f"/proc/{victims[-1]}/statm")).split()[0]) * resource.getpagesize()
        resource.prlimit(victims[-1], resource.RLIMIT_AS, (held + 2**20, held + 2**20))
        _, err = process.communicate(timeout=600)
        if process.returncode:  # given up for good in so little memory: with more, the same command finishes
            yield one_line(err) and run("study", study, "--out", out)[0] == 0 and states(out) == {"complete": 8}
        else:
            yield states(out) == {"complete": 8}
    out = work / "killed"
    process = start("study", study, "--out", out, "--workers", 2)
    wait_for(lambda: has_checkpoint(out))
    os.kill(next(pid for pid in children(process.pid) if "spawn_main" in read(Path(f"/proc/{pid}/cmdline"))), signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    yield process.returncode == 0 and "killed by SIGKILL" in err and states(out) == {"complete": 8}


WRITER = """
import sys; sys.path.insert(0, sys.argv[3])
from pathlib import Path; from isolora.store import Store; import test_store as t
store = Store(Path(sys.argv[1])); k = int(sys.argv[2])
for n in range(200):
    store.add([t.a_run(f"{k}-{n}")], {}); store.write([t.a_point(f"{k}-{n}", 100), t.a_point(f"{k}-{n}", 200)])
    store.set_state([f"{k}-{n}"], "DONE")
"""


@row("7 writers, two studies, two ranks")
def writers(work: Path, short: bool) -> Iterator[bool]:
    tests, store = Path(__file__).resolve().parents[1] / "tests", work / "written"
    command = [sys.executable, "-c", WRITER, str(store)]
    processes = [subprocess.Popen([*command, str(k), str(tests)]) for k in range(8)]
    time.sleep(3)
    for process in processes[:2]:
        process.kill()
    for process in processes:
        process.wait()
    for k in (0, 1):
        subprocess.run([*command, str(k), str(tests)], check=True)
    yield len(points(store)) == 8 * 200 * 2 and states(store) == {"complete": 1600}
    study, out = a_study(work, 20000), work / "shared"
    first = start("study", study, "--out", out)
    wait_for(lambda: has_checkpoint(out))
    status, _, err = run("study", study, "--out", out)
    yield status == 2 and f"process {first.pid}" in err and err.count("\n") == 1
    status, text, _ = run("stop", out, "--json")
    yield status == 0 and json.loads(text)["stopped"]
    first.communicate(timeout=60)
    yield first.returncode == 143 and states(out)["interrupted"] >= 1
    status, _, err = run("train", *one_run(work), "--out", work / "ranks", env={**os.environ, "WORLD_SIZE": "2", "RANK": "1"})
    yield status == 2 and err.count("\n") == 1 and not (work / "ranks").exists()


@row("8 the same command again")
def again(work: Path, short: bool) -> Iterator[bool]:
    study = a_study(work)
    run("study", study, "--out", work / "twice")
    before, started = points(work / "twice"), cpu_seconds()
    run("study", study, "--out", work / "twice")
    took, started = cpu_seconds() - started, cpu_seconds()
    subprocess.run([sys.executable, "-c", "import isolora.study.running"], check=True)
    print(f"{took - (cpu_seconds() - started):.2f} s beyond start-up")
    yield points(work / "twice") == before and took - (cpu_seconds() - started) < 3


@row("13 hostile YAML and JSON")
def hostile_texts(work: Path, short: bool) -> Iterator[bool]:
    """Refused in one line within 5 processor seconds and 500 MB; as studies, and as tables."""
    for name, text in list(hostile_yaml().items())[: 2 if short else None]:
        (work / f"{name}.yaml").write_text(text)
        yield refused_cheaply("study", work / f"{name}.yaml", "--out", work / "out") and not (work / "out").exists()
    for name, text in list(hostile_json().items())[: 1 if short else None]:
        (work / f"{name}.json").write_text(text)
        yield refused_cheaply("fit", work / f"{name}.json")


def hostile_yaml() -> dict[str, str]:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return {
        "object": "base: !!python/object/apply:os.system ['true']\n",
        "bomb": bomb + "grid: *i\n",
        "keys": "base: {" + ", ".join(f"k{n}: 1" for n in range(1_000_000)) + "}\n",
        "depth": "base: " + "[" * 5000 + "]" * 5000 + "\n",
        "digits": "base: {seed: " + "9" * 1_000_000 + "}\n",
        "large": "# " + "x" * 100_000_000 + "\n",
    }


def hostile_json() -> dict[str, str]:
    return {
        "depth": "[" * 100_000 + "]" * 100_000,
        "keys": "[{" + ", ".join(f'"k{n}": 1' for n in range(1_000_000)) + "}]",
        "digits": '[{"n": ' + "9" * 1_000_000 + ', "d": 1, "loss": 1}]',
        "large": '["' + "x" * 100_000_000 + '"]',
        "endless": '[{"n": 1e999, "d": NaN, "loss": Infinity}]',
        "shape": '{"n": [[1, [2]], {"d": {}}], "loss": "x"}',
    }


def refused_cheaply(*words: object) -> bool:
    """In one line, with exit status 2, 5 processor seconds and 500 MB at most."""
    with tempfile.TemporaryFile("w+") as said:
        process = start(*words, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().count("\n")
    cheap = used.ru_utime + used.ru_stime < 5 and used.ru_maxrss < 500_000
    if not (ok := process.returncode == 2 and lines == 1 and cheap):
        print(words, process.returncode, f"{lines} lines, {used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss / 1000:.0f} MB")
    return ok


@row("17 no network")
def no_network(work: Path, short: bool) -> Iterator[bool]:
    blocked = ["unshare", "-n"]
    if subprocess.run([*blocked, "true"], capture_output=True, check=False).returncode:
        return
    out = work / "unplugged"
    for words in (["study", a_study(work, 300), "--out", out], ["status", out], ["list", "models"]):
        yield subprocess.run([*blocked, *PYTHON, *map(str, words)], capture_output=True, check=False).returncode == 0


@row("19 Ctrl-C and TERM")
def signals(work: Path, short: bool) -> Iterator[bool]:
    """Studies with one and two workers, a search, a run alone; then a study that is told twice."""
    study, searched = a_study(work, 200_000), a_long_search(work)
    told = {f"study-{count}": ["study", study, "--workers", count] for count in ((2,) if short else (1, 2))}
    if not short:
        told |= {"search": ["study", searched, "--workers", 2], "train": ["train", *one_run(work, 2_000_000)]}
    for name, words in told.items():
        for number in (signal.SIGINT, signal.SIGTERM):
            out = work / f"{name}-{number}"
            yield stopped(start(*words, "--out", out, start_new_session=True), out, number)
    out = work / "twice"
    process = start("study", study, "--out", out, "--workers", 2)
    wait_for(lambda: has_checkpoint(out))
    below = children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    yield process.returncode == 130 and wait_for(lambda: not any(map(alive, below)), 5)


def stopped(process: subprocess.Popen[str], out: Path, number: signal.Signals) -> bool:
    """Whether what trains into a folder ends within 20 s of a signal, in one line, with its exit status, and nobody is left."""
    wait_for(lambda: has_checkpoint(out))
    below, started = children(process.pid), time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    took, ended = time.monotonic() - started, set(states(out))
    gone = wait_for(lambda: not any(map(alive, below)), 5)
    kept = ended <= {"interrupted", "queued", "complete", "pruned"} and "interrupted" in ended
    return process.returncode == 128 + number and gone and took < 20 and one_line(err) and kept


def a_long_search(work: Path) -> Path:
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    given = {"base": json.loads(json.dumps(files(work))), "search": {"space": space, "trials": 4, "startup": 2}, "stack": 2}
    given["base"]["training"] |= {"tokens": 200_000, "checkpoint_seconds": 0.2}
    path = work / "search.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@row("20 odd surroundings")
def surroundings(work: Path, short: bool) -> Iterator[bool]:
    bare = {key: value for key, value in os.environ.items() if key not in ("HOME", "LANG", "LC_ALL", "LC_CTYPE")}
    c_locale = {**bare, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PATH": "/nonexistent"}
    words = one_run(work, 300)
    status, _, err = run("train", *words, "--out", work / "bare", env=c_locale)
    yield status == 0 and "Traceback" not in err
    closed = f"{' '.join(PYTHON)} train {' '.join(map(repr, words))} --out {work / 'closed'} >&- 2>&-"
    yield subprocess.run(["sh", "-c", closed], check=False).returncode == 0 and states(work / "closed") == {"complete": 1}
    status, _, err = run("train", *words, "--out", work / "base.json")
    yield status == 2 and err.count("\n") == 1
    status, _, err = run("train", *words, "--out", work / ("x" * 256))
    yield status == 2 and err.count("\n") == 1
    status, _, err = run("train", *words, "--out", "/proc/nothing/here")
    yield status == 2 and err.count("\n") == 1


@row("22 many runs, large stores")
def many(work: Path, short: bool) -> Iterator[bool]:
    from isolora.config import RunConfig, parse
    from isolora.store import Store
    from isolora.training import train_stack

    base, grown = files(work), []
    base["training"] |= {"tokens": 120}
    store = Store(work / "many")
    for seed in range(20 if short else 200):
        train_stack([parse(RunConfig, {**base, "seed": seed})], store, "grid", quiet=True)
        grown.append(int(read(Path("/proc/self/statm")).split()[1]) * resource.getpagesize())
    half = len(grown) // 2
    handles = len(list(Path("/proc/self/fd").iterdir()))
    print(f"{(grown[-1] - grown[half]) / (len(grown) - half) / 1024:.1f} KiB a run, {handles} descriptors")
    yield (grown[-1] - grown[half]) / (len(grown) - half) < 20 * 1024
    large_store(work / "large", store, 1_000 if short else 10_000)
    for verb in (["status"], ["fit", "--json"], ["report", "--out", work / "large.html"]):
        started = cpu_seconds()
        status, _, _ = run(verb[0], work / "large", *verb[1:])
        print(f"{verb[0]} of the large store: {cpu_seconds() - started:.1f} processor s")
        yield status == 0 and cpu_seconds() - started < 10


def large_store(folder: Path, like: Any, runs: int) -> None:
    """Runs of ten sizes and three ranks, each with one point on a known law and a little noise."""
    from dataclasses import fields

    import numpy as np

    from isolora.store import Point, Run, Store

    store, point, row_, rng = Store(folder), like.points()[-1], like.runs()[0], np.random.default_rng(0)
    known = {f.name: row_[f.name] for f in fields(Run)}
    made, measured = [], []
    for number in range(runs):
        n, tokens, rank = 10_000 * 2 ** (number % 10), int(2000 * 1.5 ** (number % 17)), 2 ** (1 + number % 3)
        loss = 2 + 30 * n**-0.3 + 20 * tokens**-0.35 / rank**0.05 + 0.005 * float(rng.standard_normal())
        made.append(Run(**known | {"run": f"r{number}", "model": f"m{n}", "rank": rank}))
        at = {
            "run": f"r{number}",
            "body_parameters": n,
            "tokens": tokens,
            "unique_tokens": tokens,
            "loss": loss,
            "flops": 6.0 * n * tokens,
        }
        measured.append(Point(**{f.name: point[f.name] for f in fields(Point)} | at))
    store.add(made, {})
    store.write(measured)
    store.set_state([one.run for one in made], "DONE")


def measure(name: str, short: bool) -> dict[str, Any]:
    """A row's figures, with its own date: not all rows are measured at once. form: "short" for one or two tries."""
    from record import moment

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        passed = list(ROWS[name](Path(folder), short))
    found = {"tried": len(passed), "passed": sum(passed), "seconds": round(time.perf_counter() - started, 1)}
    print(f"{name:36}  {found['passed']} of {found['tried']}  {found['seconds']} s  {['-+'[ok] for ok in passed]}", flush=True)
    return found | moment() | ({"form": "short"} if short else {})


def main() -> None:
    from record import RESULTS, record

    short, wanted = "--short" in sys.argv, [word for word in sys.argv[1:] if not word.startswith("-")]
    rows = sorted(ROWS, key=lambda name: int(name.split()[0]))
    chosen = [name for name in rows if not wanted or name.split()[0] in wanted]
    known = RESULTS / "reliability.json"
    before = json.loads(known.read_text())["measured"] if known.is_file() and wanted else {}
    record("reliability", before | {name: measure(name, short) for name in chosen})


if __name__ == "__main__":
    main()
