"""All checks of one adapter, run and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isolora import adapters
from isolora.adapters.record import put
from isolora.certify import behaviour, contents
from isolora.certify.contents import NotApplicableError, Subject
from isolora.json_types import JsonObject

CHECKS: dict[str, Callable[[Subject], contents.Verdict]] = {
    "record": contents.record,
    "hashes": contents.hashes,
    "outside": contents.nothing_outside,
    "finite": contents.finite,
    "base": contents.base,
    "tensors": contents.tensors,
    "peft": behaviour.peft,
    "merged": behaviour.merged,
    "score": behaviour.score,
}


@dataclass(frozen=True)
class Check:
    """One property: whether it holds (None where adapters of this kind do not have it), and what was seen."""

    name: str
    passed: bool | None
    seen: str


@dataclass(frozen=True)
class Certificate:
    """What was checked, in the order of CHECKS."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def failed(self) -> dict[str, str]:
        """What was seen, by name of the checks that failed."""
        return {check.name: check.seen for check in self.checks if check.passed is False}

    def to_json(self) -> JsonObject:
        return {"passed": self.passed, "checks": [vars(check) for check in self.checks]}

    def __str__(self) -> str:
        words = {True: "ok", False: "FAILED", None: "-"}
        return "\n".join(f"{words[check.passed]:<6}  {check.name:<7}  {check.seen}" for check in self.checks)


def certify(folder: Path | str) -> Certificate:
    """Run every check on an adapter's folder and write `certificate.json` there. A check that cannot run has failed."""
    place = adapters.find_adapter(Path(folder))
    subject = Subject(place)
    certificate = Certificate(tuple(_run(name, check, subject) for name, check in CHECKS.items()))
    written = json.dumps(certificate.to_json(), indent=1) + "\n"
    put(place / adapters.CERTIFICATE, written)
    return certificate


def _run(name: str, check: Callable[[Subject], contents.Verdict], subject: Subject) -> Check:
    try:
        return Check(name, *check(subject))
    except NotApplicableError as reason:
        return Check(name, None, str(reason))
    except Exception as failure:  # whatever breaks while checking is what the certificate has to say
        return Check(name, False, f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}")
