"""Which bases are of one family, so that one curve with the size holds for them: they share a tokenizer and a making.

A column `family` says so; without one what a study notes of its bases, architecture and tokenizer; else how many bytes their
tokens have (see `isolora.fit.token_units`), or, where every name bears a size, what is left of the names without it (Qwen2.5 of
Qwen2.5-3B).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from isolora.errors import TableError
from isolora.fit.fit_points import families_of
from isolora.fit.token_units import bytes_per_token, same_tokens
from isolora.table import Table, name_without_size

MOST_FAMILIES = 6
_UNKNOWN = ("", "None", "nan")
"""What a text column holds where a row has no value."""
_TEXT, _WORD = re.compile(r"[^\w.\-/ ]"), re.compile(r"[^\W\d_]+")


def with_families(table: Table) -> Table:
    """The table with a text column `family`, where its bases are of several. Raises TableError for a base of two families."""
    if "family" in table:
        family_M = [_TEXT.sub("_", str(name)) for name in table["family"]]
        _demand_one_each(table, family_M)
    elif family_of := _family_of(table):
        family_M = [family_of.get(str(name), str(name)) for name in table["model"]]
    else:
        return table
    return replace(table, columns={**table.columns, "family": np.array(family_M, dtype=object)})


def _demand_one_each(table: Table, family_M: Sequence[str]) -> None:
    pairs = sorted(set(zip(map(str, table["model"]), family_M, strict=True))) if "model" in table else []
    for (model, one), (other, another) in pairwise(pairs):
        if model == other:
            raise TableError(f"model {model!r} is of two families ({one}, {another}) in the column family")


def _family_of(table: Table) -> dict[str, str]:
    """Base -> family, by what tells it best; none where all are of one, or nothing tells."""
    if "model" not in table:
        return {}
    kinds = _kinds(table)
    return _by_kind(kinds) or _by_tokens(bytes_per_token(table)) or ({} if kinds else _by_names(table["model"]))


def family_by_model(table: Table) -> dict[str, str]:
    """Base -> its family."""
    if not families_of(table) or "model" not in table:
        return {}
    return dict(zip(map(str, table["model"]), map(str, table["family"]), strict=True))


def about_families(families: Sequence[str], seen: bool) -> str:
    """What a law makes of the families of a table, in words; empty where it has not several."""
    if not families:
        return ""
    shown = ", ".join(families[:4]) + (f" and {len(families) - 4} more" if len(families) > 4 else "")
    if seen:
        return f"bases of {len(families)} families ({shown}): each has an offset and a factor of its own"
    why = f"a law tells {MOST_FAMILIES} apart at most" if len(families) > MOST_FAMILIES else "the points do not tell them apart"
    return f"bases of {len(families)} families ({shown}) share one curve: {why}"


def _kinds(table: Table) -> dict[str, str]:
    """Base -> its architecture and tokenizer, where the runs of all bases noted them."""
    if "base_kind" not in table:
        return {}
    pairs = set(zip(map(str, table["model"]), map(str, table["base_kind"]), strict=True))
    known = {model: kind for model, kind in pairs if kind not in _UNKNOWN}
    return known if known.keys() == {model for model, _ in pairs} else {}


def _by_kind(kinds: Mapping[str, str]) -> dict[str, str]:
    """Bases in groups of one architecture and tokenizer; none where there is one group."""
    groups = [sorted(model for model, own in kinds.items() if own == kind) for kind in sorted(set(kinds.values()))]
    return _named(groups)


def _by_tokens(size_of: Mapping[str, float]) -> dict[str, str]:
    """Bases in groups of one tokenizer, named after what their names begin with; none where there is one group."""
    groups: list[list[str]] = []
    for name in sorted(size_of, key=lambda name: size_of[name]):
        if groups and same_tokens(size_of[groups[-1][0]], size_of[name]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return _named(groups)


def _named(groups: Sequence[list[str]]) -> dict[str, str]:
    """Base -> the name of its group: the word that the first one's name begins with, or all of it where that is taken. None where
    there is one group."""
    found: dict[str, str] = {}
    for group in groups if len(groups) > 1 else ():
        word = _WORD.match(group[0].rstrip("/").rpartition("/")[2])
        family = word[0] if word and word[0] not in found.values() else _TEXT.sub("_", group[0])
        found |= dict.fromkeys(group, family)
    return found


def _by_names(model_M: Iterable[object]) -> dict[str, str]:
    """Base -> its name without the size, where every name bears one and what is left is not the same for all, nor for none."""
    stems = {model: name_without_size(model) for model in map(str, model_M)}
    told = [stem for stem in stems.values() if stem]
    if len(told) < len(stems) or not 1 < len(set(told)) < len(stems):
        return {}
    return {model: _TEXT.sub("_", str(stem)) for model, stem in stems.items()}
