"""Files that a person asks for are written whole or not at all, and one line says why not."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import person
import pytest

from isolora.caches import cache_folder, read_kept_json, write_json
from isolora.doctor import _writable
from isolora.errors import ConfigError
from isolora.paths import expanded, write_whole, written_whole

TABLE = "loss,d,n,c\n" + "".join(
    f"{2 + 300 / n**0.4 + 40 / d**0.3},{d},{n},{6 * n * d}\n" for n in (1e5, 1e6, 1e7) for d in range(10_000, 90_000, 10_000)
)
VERBS: dict[str, tuple[str, Callable[[Path, Path], list[Any]]]] = {
    "report": ("--out", lambda table, file: ["report", table, "--out", file, "--bootstrap", 0]),
    "plan": ("--next", lambda table, file: ["plan", table, "--budget", "1e15flops", "--next", file, "--bootstrap", 8]),
    "init": (
        "FILE",
        lambda table, file: ["init", file, "--data", "debian-descriptions", "--task", "causal-lm", "--model", "nano-55k"],
    ),
    "import": ("--out", lambda table, file: ["import", table.with_name("state.json"), "--from", "trainer", "--out", file]),
}
PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nowhere": (
        lambda folder: Path("/proc/nothing/here.csv"),
        "/proc/nothing/here.csv cannot be written: No such file or directory",
    ),
    "too long": (lambda folder: folder / ("x" * 300 + ".csv"), "cannot be written: File name too long"),
    "below a file": (lambda folder: folder / "points.csv" / "here.csv", "a part of "),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "points.csv").write_text(TABLE)
    (tmp_path / "state.json").write_text('{"log_history": [{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.9}]}')
    return tmp_path / "points.csv"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_cannot_be_written_is_one_line(
    verb: str, place: str, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report`, `init` and `import` ended in a traceback."""
    (option, words), (where, said) = VERBS[verb], PLACES[place]
    status, _, err = person.run(monkeypatch, capsys, *words(table, where(table.parent)))
    lines = [line for line in err.splitlines() if line.startswith("isolora: ")]
    assert status == 2
    assert "Traceback" not in err
    assert lines[-1].startswith(f"isolora: {option}: ")
    assert said in lines[-1]


def test_a_folder_in_place_of_a_page(table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = person.run(monkeypatch, capsys, "report", table, "--out", table.parent, "--bootstrap", 0)
    assert (status, err) == (2, f"isolora: --out: {table.parent} is a folder; name a file\n")
    assert sorted(path.name for path in table.parent.iterdir()) == ["points.csv", "state.json"]


@pytest.mark.parametrize(
    "verb", [["fit"], ["predict"], ["report"], ["status"], ["eval"], ["certify"], ["cost"], ["study"], ["preview"]]
)
def test_a_source_whose_name_is_too_long_is_one_line(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--at", "n=1,d=1"] if verb == ["predict"] else []
    status, _, err = person.run(monkeypatch, capsys, *verb, "x" * 300 + ".yaml", *more)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("isolora: ")


def test_what_breaks_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.html"
    write_whole(file, "--out", "before")

    def breaks() -> None:
        with written_whole(file, "--out") as draft:
            draft.write_text("half")
            raise OSError(28, "No space left")

    with pytest.raises(ConfigError, match=r"^--out: .*page\.html cannot be written: No space left$"):
        breaks()
    assert [path.read_text() for path in file.parent.iterdir()] == ["before"]


def test_a_user_without_a_home_keeps_nothing_and_fails_at_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container that runs as a number: training ended with "Could not determine home directory"."""

    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    for name in ("HOME", "ISOLORA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    assert str(cache_folder()) == "/dev/null/.cache/isolora"
    write_json(cache_folder() / "a.json", [1])
    assert read_kept_json(cache_folder() / "a.json") is None
    assert list(tmp_path.iterdir()) == []
    assert _writable(cache_folder()) is False


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "a/~", "x" * 9000])
def test_the_home_of_nobody_stays_as_it_stands(name: str) -> None:
    """`export --out ~nobody/x` ended in a traceback."""
    assert str(expanded(name)) == name
    assert expanded("~") == Path.home()
