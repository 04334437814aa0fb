"""The command line's edge: words that are no text, standard output that takes no more, a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isolora.cli.standard_streams import check_text
from isolora.errors import ConfigError

PYTHON = os.fsencode(sys.executable)
FULL = Path("/dev/full")


def said(*words: bytes, **where: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([PYTHON, b"-m", b"isolora", *words], stderr=subprocess.PIPE, check=False, **where)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "words",
    [
        (b"fit", b"caf\xe9.csv"),
        (b"report", b"caf\xe9.csv", b"--out", b"x.html"),
        (b"train", b"--out", b"caf\xe9"),
        (b"generate", b"x", b"--prompt", b"caf\xe9"),
        (b"cost", b"data.source=caf\xe9"),
    ],
)
def test_a_word_that_is_not_utf8_is_named(words: tuple[bytes, ...], tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.csv")).write_text("loss\n1\n")
    done = said(*words, cwd=tmp_path, stdout=subprocess.PIPE)
    place = next(number for number, word in enumerate(words, 1) if b"\xe9" in word)
    shown = words[place - 1].decode("utf-8", "backslashreplace")
    line = f"isolora: word {place} of the command line: {shown} is not UTF-8; write it, or name the file, in UTF-8\n"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", line)
    assert [path.name for path in tmp_path.iterdir()] == [os.fsdecode(b"caf\xe9.csv")]


@pytest.mark.parametrize("words", [(b"train", b"--out", b""), (b"train", b"--out="), (b"report", b"s", b"--out", b"")])
def test_an_empty_name_is_not_the_current_folder(words: tuple[bytes, ...], tmp_path: Path) -> None:
    """`--out "$NEVER_SET"` trained into the current folder."""
    done = said(*words, cwd=tmp_path, stdout=subprocess.PIPE)
    assert done.stderr == b"isolora: --out: the name is empty (. means the current folder)\n"
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """Its last words were "Intel oneMKL FATAL ERROR: Cannot load libtorch_cpu.so"."""
    (tmp_path / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && "$0" -m isolora cost model=nano-55k'
    done = subprocess.run(["sh", "-c", script, sys.executable], cwd=tmp_path, capture_output=True, text=True, check=False)
    line = "isolora: the current folder cannot be used (No such file or directory); go to one that exists"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, line)


def test_text_of_every_script_passes() -> None:
    check_text("Füße 漢字 \N{GRINNING FACE} e\u0301 \x00 \uffff", "it")
    with pytest.raises(ConfigError, match=r"^it: a\\xffb is not UTF-8"):
        check_text("a\udcffb", "it")


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", [(b"list", b"laws"), (b"list", b"laws", b"--json"), (b"--help",), (b"--version",)])
def test_a_full_standard_output_is_one_line(words: tuple[bytes, ...], buffered: str) -> None:
    with FULL.open("w") as full:
        done = said(*words, stdout=full, env={**os.environ, "PYTHONUNBUFFERED": buffered})
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, len(lines)) == (2, 1)
    assert lines[0].startswith("isolora: No space left on device (standard output")


def test_a_reader_that_goes_away_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = said(b"list", b"laws", b"--json", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
