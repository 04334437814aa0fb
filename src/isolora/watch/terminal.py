"""A running study in a terminal: runs by state, time left, and the newest losses; drawn again every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isolora.study.status import RunLine, Status, in_words, status

SECONDS = 2.0
MOST_RUNS = 12
"""Rows of the table: those that train now, then those that changed last."""
GROUPS = {
    "done": ("complete", "diverged", "pruned"),
    "running": ("running",),
    "waiting": ("queued", "interrupted"),
    "failed": ("failed", "out-of-memory"),
}
STYLES = {"running": "cyan", "complete": "green", "failed": "red", "out-of-memory": "red", "diverged": "yellow", "pruned": "dim"}


def watch(
    folder: Path | str, seconds: float = SECONDS, console: Console | None = None, sleep: Callable[[float], None] = time.sleep
) -> Status:
    """Follow a study until nobody trains it; returns how it stands then. Raises ConfigError for a folder that holds none."""
    found = status(folder)
    with Live(view(found), console=console or Console(stderr=True), auto_refresh=False) as live:
        while found.owner is not None:
            sleep(seconds)
            found = status(folder)
            live.update(view(found), refresh=True)
    return found


def view(found: Status) -> RenderableType:
    """What the terminal shows of a study."""
    counts = grouped(found)
    heading = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(found.runs, 1), completed=counts["done"], width=30)
    words = "  ".join(f"{count} {name}" for name, count in counts.items())
    heading.add_row(Text(str(found.folder), style="bold"), bar, Text(f"{counts['done']} of {found.runs}"))
    owner = f"by {found.owner}" if found.owner else "nobody trains here now"
    left = "" if found.seconds_left is None or not found.owner else f"  about {in_words(found.seconds_left)} left"
    return Group(heading, Text(f"{words}{left}"), Text(owner, style="dim"), Text(), runs_table(newest_runs(found)))


def grouped(found: Status) -> dict[str, int]:
    """Runs by what a person waits for: done, running, waiting, failed."""
    return {name: sum(found.states.get(state, 0) for state in states) for name, states in GROUPS.items()}


def newest_runs(found: Status) -> list[RunLine]:
    """Runs that train now, then those that changed last."""
    begun = [line for line in found.each if line.state != "queued"]
    order = sorted(begun, key=lambda line: (line.state != "running", -line.changed))
    return order[:MOST_RUNS]


def runs_table(lines: list[RunLine]) -> Table:
    """In a narrow terminal names and settings are shortened, never a loss, a count of tokens or a state."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("base", "adapter"):
        table.add_column(name, no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True, min_width=len("10.1234"))
    table.add_column("tokens", justify="right", no_wrap=True, min_width=max([6, *(len(f"{line.tokens:,}") for line in lines)]))
    table.add_column("state", no_wrap=True, min_width=max([5, *(len(line.state) for line in lines)]))
    for name in ("rate", "stage"):
        table.add_column(name, no_wrap=True)
    for line in lines:
        adapter = line.method + (f", rank {line.rank}" if line.rank else "")
        loss = "" if line.loss is None else f"{line.loss:.4f}"
        state = Text(line.state, style=STYLES.get(line.state, ""))
        cells = (Text(line.model), Text(adapter), loss, f"{line.tokens:,}", state, f"{line.learning_rate:g}", line.stage)
        table.add_row(*cells)
    return table
