"""What training writes beside an adapter, `isolora.json`: enough to load it, to judge it and to measure it again."""

from __future__ import annotations

import glob
import json
import math
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

from isolora import data, models
from isolora.adapters.card import CARD, card
from isolora.config import RunConfig, content_hash, parse
from isolora.data.sources import looks_like_a_file
from isolora.errors import DataError
from isolora.json_types import JsonMapping, JsonObject
from isolora.methods.adapter_files import CONFIG, WEIGHTS, leads_out, read_json, saved_settings, tensor_files
from isolora.paths import expanded, is_folder, is_there, replacing
from isolora.tasks.base import Task

RECORD, CERTIFICATE = "isolora.json", "certificate.json"


def write_record(folder: Path, facts: JsonMapping) -> None:
    """Enter the facts of a run with a digest of them, and write the model card that they make."""
    record = {**facts, "digest": digest(facts)}
    put(folder / RECORD, json.dumps(record, indent=1) + "\n")
    put(folder / CARD, card(record))


def put(path: Path, text: str) -> None:
    """Write a file of an adapter's folder: whole or not at all, and in place of a link rather than through it."""
    try:
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as failure:
        raise DataError(f"{path}: cannot be written ({failure.strerror or failure})") from None


def amend(folder: Path, **facts: object) -> None:
    """Add what came to be known after training, such as how a prediction held."""
    write_record(folder, {**_read(folder), **facts})


def digest(record: JsonMapping) -> str:
    """Hash over everything in a record but the digest itself."""
    return content_hash({key: value for key, value in record.items() if key != "digest"})


def recorded_origins(config: RunConfig) -> dict[str, str]:
    """Where the base model and the data come from: packaged, folder (or file), or hub."""
    known_model = config.model in models.packaged_models() | models.fetched()
    source = config.data.source
    local_data = is_there(expanded(source)) or looks_like_a_file(source)
    return {
        "model": _origin(known_model, is_folder(config.model)),
        "data": _origin(source in data.packaged_data(), local_data),
    }


def _origin(is_packaged: bool, is_local: bool) -> str:
    return "packaged" if is_packaged else "folder" if is_local else "hub"


def beyond_peft(folder: Path) -> str:
    """What of an adapter PEFT's two files have no place for; nothing where PEFT loads it whole."""
    for path in tensor_files(folder):
        if path.name != WEIGHTS:
            return path.name
    try:
        described = saved_settings(folder)
        return "" if described.get("peft_type") else f"adapters of method {described['isolora_type']}"
    except (KeyError, DataError):
        return f"an adapter without a readable {CONFIG}"


def files(folder: Path) -> list[Path]:
    """The files that make up the adapter: all but its record, its card, its certificate, and what begins with a dot."""
    own = {RECORD, CARD, CERTIFICATE}
    found = (path for path in sorted(folder.iterdir()) if path.name not in own and not path.name.startswith("."))
    return [path for path in found if path.is_file() and not leads_out(path)]


def find_adapter(folder: Path) -> Path:
    """The adapter's own folder: the one given, `adapter` inside a run's or search's folder, `recommended` in a study's, else the
    study's adapter with the lowest held-out loss, which is said."""
    for place in (folder, folder / "adapter", folder / "recommended"):
        if (place / RECORD).is_file() and place.resolve().is_relative_to(folder.resolve()):
            return place
    several = sorted(path.parent for path in folder.glob(f"adapters/*/{RECORD}"))
    if several:
        return _best_of(folder, several)
    raise DataError(f"{folder}: no adapter made by isolora here ({RECORD} is missing)")


def _best_of(folder: Path, several: Sequence[Path]) -> Path:
    """The adapter with the lowest held-out loss. Raises DataError where they were measured on different data."""
    records = {place: _read(place) for place in several if place.resolve().is_relative_to(folder.resolve())}
    measured_on = {_measured_on(record) for record in records.values()}
    finite = {place: float(record["loss"]) for place, record in records.items() if _is_number(record.get("loss"))}
    if len(measured_on) > 1 or not finite:
        why = "measured on different data" if len(measured_on) > 1 else "without a held-out loss"
        raise DataError(f"{folder} holds {len(several)} adapters {why}; name one of them, for example {several[0]}")
    best = min(finite, key=lambda place: finite[place])
    print(f"isolora: {folder} holds {len(several)} adapters; taken: {words_of(records[best])}, {best}", file=sys.stderr)
    return best


def _measured_on(record: JsonMapping) -> str:
    """What two losses must share to be compared."""
    config = _part(record, "config")
    held_out = {name: value for name, value in _part(config, "data").items() if name not in ("train_examples", "mix")}
    return content_hash([config.get("task"), held_out])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def words_of(record: JsonMapping) -> str:
    """An adapter in words: base, method, rank, loss."""
    config = _part(record, "config")
    method = _part(config, "method")
    rank = f" of rank {method['rank']}" if method.get("rank") else ""
    return f"{config.get('model')} with {method.get('name')}{rank}, loss {record['loss']:.4f}"


def _part(record: JsonMapping, name: str) -> JsonMapping:
    """A group of a record that may be damaged: nothing where it is no group."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def read_record(folder: Path) -> tuple[RunConfig, JsonObject]:
    """The run's configuration and all that its training wrote down.

    `trust_remote_code` is not taken from a file that may be a stranger's; a base that needs it can only be trained, not loaded.
    """
    record = _read(folder)
    try:
        config = parse(RunConfig, {**record["config"], "trust_remote_code": False})
        return config.model_copy(update={"model": _base(folder, config.model, record), **_sources(folder, config)}), record
    except KeyError as failure:
        raise DataError(f"{folder / RECORD}: {failure} is missing") from None
    except (TypeError, ValueError) as failure:
        raise DataError(f"{folder / RECORD}: {failure}") from None


def _base(folder: Path, name: str, record: JsonMapping) -> str:
    """The base's name, or its folder where it was named by a path from the place of training, which moves with the adapter."""
    local = isinstance(record.get("origins"), dict) and record["origins"].get("model") == "folder"
    if not local or is_folder(name):
        return name
    if not Path(name).is_absolute():
        above = (parent / name for parent in folder.resolve().parents)
        for candidate in above:
            if is_folder(str(candidate)) and models.fingerprint(str(candidate)) == record.get("base"):
                return str(candidate)
    raise DataError(
        f"model: the base was the local folder {name!r} when the adapter was trained; it is neither here nor beside the adapter"
        f" (go where it is, or enter its place as `model` in {folder / RECORD})"
    )


def _sources(folder: Path, config: RunConfig) -> JsonObject:
    """The data sources of a run, with those that a path from the place of training names as seen from here."""
    mix = tuple(part.model_copy(update={"source": _beside(folder, part.source)}) for part in config.data.mix)
    found: JsonObject = {"data": config.data.model_copy(update={"source": _beside(folder, config.data.source), "mix": mix})}
    if config.forgetting is not None:
        sources = tuple(_beside(folder, source) for source in config.forgetting.sources)
        found["forgetting"] = config.forgetting.model_copy(update={"sources": sources})
    return found


def _beside(folder: Path, source: str) -> str:
    """A source's name; where files of that name lie not here but in a folder above the adapter, their place there. Whether there
    are any is asked when they are read: an adapter answers without its data."""
    fixed = source in data.packaged_data() or source.startswith("~") or Path(source).is_absolute()
    places = [] if fixed else [Path(), *folder.resolve().parents]
    found = next((place for place in places if _holds(place, source)), Path())
    return source if found == Path() else str(found / source)


def _holds(place: Path, source: str) -> bool:
    """Whether a folder has something of that name, or of a pattern's first part: no disk is searched for a stranger."""
    parts = Path(source).parts
    plain = list(takewhile(lambda part: not glob.has_magic(part), parts))
    try:
        if len(plain) == len(parts):
            return (place / source).exists()
        return any(fnmatch(path.name, parts[len(plain)]) for path in place.joinpath(*plain).iterdir())
    except (OSError, ValueError):
        return False


def _read(folder: Path) -> JsonObject:
    return read_json(folder / RECORD)


def saved_task(place: Path) -> Task:
    """The task that the adapter was trained for, with its classes."""
    config, record = read_record(place)
    labels = record.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{place / RECORD}: labels are no list of names")
    return models.bound_task(config, labels)
