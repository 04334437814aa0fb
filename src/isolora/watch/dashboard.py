"""A running study on a page of this machine: how it stands, and the report, made anew when there are new points.

Only this machine reaches it: the server listens on loopback and answers to no other host's name, so that no page of the web can
read it through a name that it points here (DNS rebinding).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from isolora.errors import ConfigError, TableError
from isolora.json_types import JsonObject
from isolora.report import report
from isolora.store import Store
from isolora.study.status import status
from isolora.table import read
from isolora.watch.terminal import grouped, newest_runs

HOST = "127.0.0.1"
PORT = 8321
BOOTSTRAP = 100
"""Repeats of the law's bootstrap on a page that is made again and again; `isolora report` takes 1,000."""
PAGE = "dashboard.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-src 'self'"
EMPTY = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='color-scheme' content='light dark'>"
    "<title>no points yet</title><p style='font-family: sans-serif; padding: 0 1rem'>No point has been measured yet.</p>"
)


@dataclass
class Board:
    """What the page is asked for. The report is made for the first who asks after new points came in, and kept till the next."""

    folder: Path
    lock: Lock = field(default_factory=Lock)
    points: int = -1
    page: str = EMPTY

    def state(self) -> JsonObject:
        """How the study stands, in JSON: what the page shows above the report."""
        found = status(self.folder)
        lines = [{**vars(line), "adapter": line.adapter or ""} for line in newest_runs(found)]
        counts = {"counts": grouped(found), "runs": found.runs, "points": self._count()}
        owner = str(found.owner) if found.owner else ""
        return {**counts, "seconds_left": found.seconds_left, "owner": owner, "newest": lines, "folder": str(self.folder)}

    def report(self) -> str:
        """The report's page, no older than the last point."""
        with self.lock:
            count = self._count()
            if count and count != self.points:
                self.page, self.points = self._made(), count
            return self.page

    def _count(self) -> int:
        return Store(self.folder).count_points()

    def _made(self) -> str:
        with TemporaryDirectory() as aside:
            try:
                path = report(self.folder, read(self.folder), out=Path(aside) / "report.html", bootstrap=BOOTSTRAP)
            except TableError as reason:
                return EMPTY.replace("No point has been measured yet.", f"No report yet: {escape(str(reason))}")
            return path.read_text(encoding="utf-8")


class Handler(BaseHTTPRequestHandler):
    """Three addresses, all read-only: the page, how the study stands, and the report."""

    def __init__(self, board: Board, *given: Any) -> None:
        self.board = board
        super().__init__(*given)

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            self._answer(403, "text/plain", "this page is for this machine alone")
        elif self.path == "/":
            page = (resources.files("isolora.watch") / PAGE).read_text(encoding="utf-8")
            self._answer(200, "text/html", page, POLICY)
        elif self.path == "/state":
            self._answer(200, "application/json", json.dumps(self.board.state()))
        elif self.path == "/report":
            self._answer(200, "text/html", self.board.report())
        else:
            self._answer(404, "text/plain", "there is no such page")

    def _answer(self, code: int, kind: str, text: str, policy: str = "") -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if policy:
            self.send_header("Content-Security-Policy", policy)
        with suppress(ConnectionError):  # the page was closed, or loaded again
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *given: Any) -> None:
        """Quiet: a page that asks every few seconds would fill the terminal."""


def dashboard_server(folder: Path | str, port: int = PORT) -> ThreadingHTTPServer:
    """The server, bound and not yet running; `server_address` has its port (0 takes a free one).

    Raises ConfigError for a folder that holds no study and for a port that is taken.
    """
    board = Board(Path(folder))
    board.state()
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, board))
    except OSError as error:
        raise ConfigError(f"--port: {port} cannot be had ({error.strerror}); name another, or 0 for a free one") from None
