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
from contextlib import suppress
from pathlib import Path
from typing import Any

import reliability_clusters
import reliability_kills  # noqa: F401
import reliability_large  # noqa: F401
import reliability_resumed  # noqa: F401
import reliability_signals  # noqa: F401
import reliability_strangers  # noqa: F401
import reliability_verbs  # noqa: F401
import yaml
from tried import (
    PYTHON,
    ROWS,
    a_study,
    cpu_seconds,
    has_checkpoint,
    one_line,
    one_run,
    points,
    read,
    row,
    run,
    start,
    states,
    tests,
    wait_for,
    workers_of,
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
        yield from without_room(work, place)
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def without_room(work: Path, place: Path) -> Iterator[bool]:
    """Exports, a certificate and a page on a full disk: one line and nothing half-written; with room the same command is done."""
    run("train", *one_run(work), "--out", work / "made")
    shutil.copytree(work / "made", place / "made")
    certificate = place / "made" / "adapter" / "certificate.json"
    wanted: dict[Path, list[object]] = {
        place / "merged": ["export", work / "made", "--to", "merged", "--out", place / "merged"],
        place / "peft": ["export", work / "made", "--to", "peft", "--out", place / "peft"],
        place / "page.html": ["report", place / "out", "--out", place / "page.html"],
        certificate: ["certify", place / "made"],
    }
    fill = place / "fill"
    with fill.open("wb", buffering=0) as full, suppress(OSError):
        while full.write(b"x" * 4096):
            pass
    for path, words in wanted.items():
        status, _, err = run(*words)
        yield status == 2 and one_line(err) and not path.exists()
    fill.unlink()
    for path, words in wanted.items():
        yield run(*words)[0] == 0 and path.exists()


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
        victims = workers_of(process.pid) or [process.pid]
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
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
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
    others = [start("study", study, "--out", out) for _ in range(1 if short else 2)]
    for other in others:
        _, err = other.communicate(timeout=60)
        yield other.returncode == 2 and f"process {first.pid}" in err and err.count("\n") == 1
    status, text, _ = run("stop", out, "--json")
    yield status == 0 and json.loads(text)["stopped"]
    first.communicate(timeout=60)
    yield first.returncode == 143 and states(out)["interrupted"] >= 1
    status, _, err = run("train", *one_run(work), "--out", work / "ranks", env={**os.environ, "WORLD_SIZE": "2", "RANK": "1"})
    yield status == 2 and err.count("\n") == 1 and not (work / "ranks").exists()
    if not short:
        yield launched_twice(work)


def launched_twice(work: Path) -> bool:
    """Two ranks train in a folder; two more are refused there, naming a process, and the first two are not disturbed."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1"]
    out, words = work / "launched", [*one_run(work, 40_000), "--out", str(work / "launched")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def launched() -> subprocess.Popen[str]:
        port = f"--main_process_port={reliability_clusters.free_port()}"
        return subprocess.Popen(
            [*launch, port, "--mixed_precision=no", "--dynamo_backend=no", "-m", "isolora", "train", *words], **streams
        )  # type: ignore[call-overload]

    first = launched()
    wait_for(lambda: has_checkpoint(out) or first.poll() is not None)
    second = launched()
    _, refused = second.communicate(timeout=240)
    _, err = first.communicate(timeout=600)
    told = [line for line in refused.splitlines() if line.startswith("isolora:")]
    if first.returncode or not told:
        print(err[-2000:], refused[-2000:], file=sys.stderr)
    return (
        first.returncode == 0
        and second.returncode != 0
        and any("process" in line for line in told)
        and states(out) == {"complete": 1}
    )


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
    yield clock_backwards(work)
    of_folders = "cannot_be_written_is_read or earlier_versions or elsewhere_is_believed"
    yield from tests("test_reliability.py", of_folders, work)
    yield from tests("test_store.py", "earlier_version", work)


BACKWARDS = """
import time
now, began = time.time, time.monotonic()
time.time = lambda: now() - (0 if time.monotonic() - began < 3 else 7200)
"""


def clock_backwards(work: Path) -> bool:
    """Two workers whose clock is set back by two hours, three seconds after each process begins: the table of right clocks."""
    study, late, place = a_study(work), work / "late", work / "clock"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BACKWARDS)
    seen = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    run("study", study, "--out", work / "right", "--workers", 2)
    status, _, err = run("study", study, "--out", late, "--workers", 2, env={**os.environ, "PYTHONPATH": seen})
    told = json.loads(run("status", late, "--json")[1])
    return status == 0 and "Traceback" not in err and points(late) == points(work / "right") and told["runs"] == 8


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
