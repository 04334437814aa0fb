"""The next runs as a file that `isolora study` trains: over the source study's own configuration where SOURCE is a study."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from isolora.json_types import JsonMapping, JsonObject
from isolora.paths import write_whole
from isolora.store import FILE
from isolora.table import SETTINGS, fields_in

_HEAD = """\
# {count} runs that would narrow the decision most for their FLOPs, {cost} in all.
#   isolora study {file} --dry-run     their price
#   isolora study {file}{out}
"""
_PLACEHOLDERS = """\
# The source is a table, which does not say how its runs were trained: fill in what is marked PLACEHOLDER.
"""


def write_next(file: Path, source: Path, runs: Sequence[JsonMapping]) -> None:
    """Write the study; folders on the way are made."""
    write_whole(file, "--next", next_study(file, source, runs))


def next_study(file: Path, source: Path, runs: Sequence[JsonMapping]) -> str:
    """The YAML of a study of these runs, as `measure_next` of a plan has them."""
    folder = source.parent if source.name == FILE else source
    described = folder / "study.json"
    study = json.loads(described.read_text(encoding="utf-8"))["study"] if described.is_file() else None
    total = sum(run["flops"] or math.nan for run in runs)
    cost = "of a cost that is not known" if math.isnan(total) else f"{total:.3g} FLOPs"
    head = _HEAD.format(count=len(runs), cost=cost, file=file, out=f" --out {folder}   into the same store" if study else "")
    base = _base(study) if study else _placeholder_base()
    listed = [_cell(run, base) for run in runs]
    text = (
        _dumped({"name": _name(file), "base": base})
        + "runs:\n"
        + "".join(f"- {_flow(cell)}{_mark(cell, study)}\n" for cell in listed)
    )
    if study is None:
        text = text.replace("source: PLACEHOLDER", "source: PLACEHOLDER          # PLACEHOLDER: your data, a file or a hub id")
        text = text.replace(
            "task: causal-lm", "task: causal-lm              # PLACEHOLDER: what was learnt; see isolora list tasks"
        )
    return head + ("" if study else _PLACEHOLDERS) + text


def _base(study: JsonMapping) -> JsonObject:
    """The study's base, with what its grid held at a single value."""
    base = dict(study["base"])
    for key, values in (study.get("grid") or {}).items():
        if len(values) == 1 and key not in ("model", "seed"):
            base = _with(base, key, values[0])
    return base


def _with(base: JsonMapping, dotted: str, value: object) -> JsonObject:
    from isolora.config import with_value

    return with_value(base, dotted, value)


def _placeholder_base() -> JsonObject:
    return {"task": "causal-lm", "data": {"source": "PLACEHOLDER"}}


def _cell(run: JsonMapping, base: JsonMapping) -> JsonObject:
    """A run's own keys; a method beside its rank only where the base has another one."""
    given = base.get("method", "lora")
    known = given if isinstance(given, str) else given.get("name", "lora")
    cell: JsonObject = {"model": run["model"]}
    method, rank = run["method"] or known, {"rank": int(run["rank"])} if run["rank"] else {}
    if method == known:
        cell |= {f"method.{key}": value for key, value in rank.items()}
    else:
        cell["method"] = {"name": method, **rank}
    if math.isfinite(run["learning_rate"]):
        cell["training.learning_rate"] = run["learning_rate"]
    others = {key: yaml.safe_load(value) for key, value in fields_in(run.get(SETTINGS, "")).items()}
    return {**cell, **others, "training.tokens": run["tokens"]}


def _mark(cell: JsonMapping, study: object) -> str:
    return "" if study else f"  # PLACEHOLDER: is {cell['model']} the base's folder or hub id?"


def _dumped(body: JsonMapping) -> str:
    return str(yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True, width=120))


def _flow(cell: JsonMapping) -> str:
    """One run on one line."""
    return str(yaml.safe_dump(dict(cell), sort_keys=False, default_flow_style=True, allow_unicode=True, width=10_000)).strip()


def _name(file: Path) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in file.stem)[:64] or "next"
