"""Row 17: every verb without a network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tried import PYTHON, a_long_proof, one_run, row


@row("17 no network")
def no_network(work: Path, short: bool) -> Iterator[bool]:
    """Every verb but those that fetch (`fetch-models`), serve a page or ask somebody who trains to stop."""
    blocked = ["unshare", "-n"]
    if subprocess.run([*blocked, "true"], capture_output=True, check=False).returncode:
        return
    for words in all_verbs(work)[: 4 if short else None]:
        ended = subprocess.run([*blocked, *PYTHON, *map(str, words)], capture_output=True, check=False, stdin=subprocess.DEVNULL)
        if ended.returncode:
            print(words[0], ended.returncode, ended.stderr.decode()[-500:], file=sys.stderr)
        yield ended.returncode == 0


def all_verbs(work: Path) -> list[list[object]]:
    study, out, one, table = a_long_proof(work), work / "unplugged", work / "one", work / "table.csv"
    losses = [f"{n},{d},{2 + 30 * n**-0.3 + 20 * d**-0.35},{6 * n * d}" for n in (1e4, 1e5, 1e6) for d in (1e4, 3e4, 1e5, 3e5)]
    table.write_text("\n".join(["n,tokens,loss,flops", *losses]))
    given = one_run(work, 300)
    return [
        ["study", study, "--out", out],
        ["status", out],
        ["list", "models"],
        ["fit", table, "--bootstrap", 20],
        ["predict", table, "--at", "n=1e6,d=1e6", "--bootstrap", 20],
        ["plan", table, "--budget", "1e13flops", "--bootstrap", 20],
        ["report", table, "--out", work / "page.html", "--bootstrap", 20],
        ["verify", out, "--bootstrap", 20],
        ["doctor"],
        ["init", work / "init.yaml"],
        ["preview", *given],
        ["cost", *given],
        ["train", *given, "--out", one],
        ["eval", one],
        ["forget", one],
        ["generate", one, "--prompt", "w1"],
        ["chat", one],
        ["export", one, "--to", "merged", "--out", work / "merged"],
        ["certify", one],
    ]
