"""What JSON and YAML hold: objects whose values a reader checks before it uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""An object: a record, an answer of a command, the settings of a run."""
JsonMapping = Mapping[str, Any]
"""One that is only read, such as a row of a data set: column -> value."""
