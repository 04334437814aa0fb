"""trackio: a local dashboard; its files go to its own home."""

from __future__ import annotations

from isolora.training.trackers.base import Service


class Trackio(Service):
    name = "trackio"
    requires = ("trackio",)


tracker = Trackio()
