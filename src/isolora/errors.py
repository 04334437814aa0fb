"""The errors a person can cause.

UserError (ValueError)            one clear line, exit status 2
├── ConfigError                   a field of a run or a study
├── DataError                     a row, a file or a split of the data
├── TableError                    a table of points that cannot be read or fitted
├── RunFailed                     a training that began and broke; exit status 1, its traceback in the folder's log
└── MissingExtra                  an optional package; its line names the pip command
PlugInError (RuntimeError)        the code of a plug-in from another package failed; exit status 1
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 100
"""Names that one line may list."""


class UserError(ValueError):
    """Something the person can mend; its text is one line that says what and how, whatever names a stranger's file brings in."""

    def __init__(self, *given: object) -> None:
        super().__init__(*(" ".join(each.splitlines()) if isinstance(each, str) else each for each in given))


class ConfigError(UserError):
    """A field of a run or a study is wrong."""


class DataError(UserError):
    """The data cannot be read as asked."""


class TableError(UserError):
    """A table of points cannot be read, or cannot carry the fit that was asked for."""


class RunFailed(UserError):
    """A training began and broke. What it had measured stands, and the same command goes on from its last checkpoint."""


class PlugInError(RuntimeError):
    """A plug-in from another package failed; its text is one line that names both, the error and where it was raised."""


class MissingExtra(UserError):
    """An optional package is not installed. extra: of isolora, that brings it; empty where a plug-in wants it for itself."""

    def __init__(self, package: str, extra: str = "") -> None:
        wanted = f"'isolora[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed; get it with: pip install {wanted}")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        """Made again from what it was made of, in the process that waits for a worker's answer."""
        return type(self), (self.package, self.extra)


def unknown(kind: str, given: str, valid: Iterable[str]) -> str:
    """One line for a name that is not known: the nearest valid one first, then all of them, or the first of very many."""
    choices = sorted(valid)
    if not choices:
        return f"unknown {kind} {given!r} (there is none to choose from)"
    near = difflib.get_close_matches(given, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    beyond = f" and {len(choices) - MANY} more" if len(choices) > MANY else ""
    return f"unknown {kind} {given!r}{hint} (valid: {', '.join(choices[:MANY])}{beyond})"


def in_brief(found: object, most: int = 300) -> str:
    """Somebody else's text, or an error's (its type where it says nothing), in one line: the whole sentences that `most`
    characters hold, else whole words."""
    line = " ".join(str(found).split()) or type(found).__name__
    if len(line) <= most:
        return line
    kept = line[:most]
    sentences, words = kept.rpartition(". ")[0], kept.rpartition(" ")[0]
    return f"{sentences}." if len(sentences) > most // 3 else f"{words or kept}..."
