"""Rows 9 to 12, 14, 15 and 18: what strangers hand over. Each counts the tests that hold it, so that both cannot drift apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tried import row, tests


@row("9 pickles, scripts, templates")
def scripts(work: Path, short: bool) -> Iterator[bool]:
    yield from tests("test_hostile_adapters.py", "pickles or base_configurations or once_found", work)
    yield from tests("test_tasks_conversation.py", "cannot_reach_out", work)
    yield from tests("test_tasks_instruction.py", "cannot_be_used", work)


@row("10 hostile configurations")
def configurations(work: Path, short: bool) -> Iterator[bool]:
    of_adapters = "adapter_configurations or records or base_configurations or bounds or pipes or sizes"
    yield from tests("test_hostile_adapters.py", "adapter_configurations" if short else of_adapters, work)
    yield from tests("test_method_targets.py", "pattern", work)


@row("11 names, links, paths")
def links(work: Path, short: bool) -> Iterator[bool]:
    yield from tests("test_hostile_adapters.py", "links or link or lead_nowhere or strangers_pattern", work)
    yield from tests("test_export.py", "lead_nowhere or cannot_be_written or link", work)
    yield from tests("test_certify.py", "leads_out or outside", work)


@row("12 broken and endless weights")
def weights(work: Path, short: bool) -> Iterator[bool]:
    yield from tests("test_hostile_adapters.py", "broken_safetensors", work)
    yield from tests("test_export.py", "not_finite or would_overflow", work)


@row("14 hostile text on a page")
def pages(work: Path, short: bool) -> Iterator[bool]:
    yield from tests("test_report_browser.py", "inert", work)
    yield from tests("test_report.py", "escaped or our_scripts", work)
    yield from tests("test_report_studies.py", "hostile_text", work)


@row("15 canary secrets")
def secrets(work: Path, short: bool) -> Iterator[bool]:
    yield from tests("test_secrets.py", "", work)


@row("18 fuzz")
def fuzz(work: Path, short: bool) -> Iterator[bool]:
    """A case of each part counts; `make bench-fuzz` has 10,000 of each."""
    import bench_fuzz

    for part, attempt in bench_fuzz.parts().items():
        found = bench_fuzz.run(part, attempt, 0, 10 if short else 250, 20)
        yield from [True] * (found.counted["accepted"] + found.counted["refused"])
        yield from [False] * found.counted["failed"]
