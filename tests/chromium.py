"""A headless Chromium over its debugging pipe: opens a page, runs expressions in it, notes console messages and requests."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Tab:
    """One page; `requests` are the addresses that it asked for, `problems` what its console said above a log."""

    def __init__(self, send: Any, receive: Any) -> None:
        self._send, self._receive, self._number = send, receive, 0
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"}, attached=False)["targetId"]
        flat = {"targetId": target, "flatten": True}
        self._session = self._call("Target.attachToTarget", flat, attached=False)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Loads a file and waits until its figures are drawn."""
        self.size(width)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", {"media": media, "features": scheme})
        self._call("Page.navigate", {"url": page.resolve().as_uri()})
        self.wait("document.readyState === 'complete' && document.documentElement.dataset.painted !== undefined")

    def visit(self, address: str, width: int = 1280) -> None:
        """Loads a page of a server on this machine."""
        self.size(width)
        self._call("Page.navigate", {"url": address})
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def size(self, width: int, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self._call("Emulation.setDeviceMetricsOverride", metrics)

    def value(self, expression: str) -> Any:
        """What an expression of the page's own script comes to; a promise is awaited."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not self.value(condition):
            assert time.monotonic() < end, f"{condition} did not come true; {self.problems}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]})

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = self._call("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        path.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, parameters: dict[str, Any] | None = None, attached: bool = True) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        self._send({**message, "sessionId": self._session} if attached else message)
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        return answer.get("result", {})

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.problems.append(str([each.get("value", each.get("description")) for each in told["args"]]))
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(told["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])


KEYS = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}


@contextmanager
def browser() -> Iterator[Tab]:
    """Chromium with a profile of its own, ended with everything that it wrote."""
    path = executable()
    assert path is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def give_pipes() -> None:  # the debugging pipe is descriptors 3 and 4 of the child
        spare_read, spare_write = os.dup(to_read), os.dup(from_write)
        os.dup2(spare_read, 3)
        os.dup2(spare_write, 4)

    with tempfile.TemporaryDirectory() as profile:
        command = [path, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command, preexec_fn=give_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(from_write)
        try:
            with os.fdopen(to_write, "wb") as sent, os.fdopen(from_read, "rb") as received:
                yield Tab(_sender(sent), _receiver(received))
        finally:
            process.kill()
            process.wait()
            time.sleep(0.2)  # its children let go of the profile


def _sender(stream: Any) -> Any:
    def send(message: dict[str, Any]) -> None:
        stream.write(json.dumps(message).encode() + b"\0")
        stream.flush()

    return send


def _receiver(stream: Any) -> Any:
    waiting = bytearray()

    def receive() -> dict[str, Any]:
        while b"\0" not in waiting:
            part = stream.read1(65536)
            assert part, "Chromium went away"
            waiting.extend(part)
        message, _, rest = bytes(waiting).partition(b"\0")
        waiting[:] = rest
        return json.loads(message)

    return receive
