"""A hook of mkdocs: the page of decisions lists them all, newest last, so that a new one needs no second edit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MARK = "<!-- list of decisions -->"
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "decisions"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of every page."""
    return markdown.replace(MARK, listing()) if MARK in markdown else markdown


def listing() -> str:
    rows = ["| date | decision |", "|---|---|"]
    for page in sorted(FOLDER.glob("20*.md")):
        title = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"| {page.name[:10]} | [{re.sub(r' *[(]20[-0-9]+[)]$', '', title)}]({page.name}) |")
    return "\n".join(rows)
