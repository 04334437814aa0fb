"""Optuna: a storage in an SQLite file or a journal; each finished trial is a run, its intermediate values are points."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from isolora.errors import TableError, in_brief
from isolora.imports.base import Importer, LoggedRun, Read, by_step
from isolora.store import reading

FINISHED = ("COMPLETE", "PRUNED")


class Optuna(Importer):
    name = "optuna"
    requires = ("optuna",)
    reads = "an SQLite file or a journal file of Optuna"

    def read(self, source: Path) -> Read:
        import optuna

        storage = _storage(optuna, source)
        runs: list[LoggedRun] = []
        left_out: Counter[str] = Counter()
        notes: list[str] = []
        for name in optuna.study.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            measure, note = _measure(study)
            notes += [note] if note else []
            for trial in study.trials:
                if trial.state.name in FINISHED:
                    runs.append(_run(name, trial, measure))
                else:
                    left_out[f"trials that are {trial.state.name.lower()}"] += 1
        return Read(tuple(runs), left_out, tuple(notes))


def _storage(optuna: ModuleType, source: Path) -> Any:
    if not source.is_file():
        raise importer.refuse(source)
    try:
        if _is_sqlite(source):
            uri = quote(source.resolve().as_uri())  # an address within an address, for SQLite within SQLAlchemy's
            return optuna.storages.RDBStorage(f"sqlite:///{uri}?mode=ro&uri=true")
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(source)))
    except Exception as error:  # sqlalchemy's, alembic's and json's own
        raise TableError(f"SOURCE: {source} is no storage of Optuna: {in_brief(error)}") from error


def _is_sqlite(source: Path) -> bool:
    """Raises ValueError where it is another program's: Optuna would make its tables in it."""
    with source.open("rb") as file:
        if file.read(15) != b"SQLite format 3":
            return False
    with reading(source) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := sorted({"studies", "trials", "version_info"} - tables):
        raise ValueError(f"it has no table {', '.join(missing)}")
    return True


def _measure(study: Any) -> tuple[str, str]:
    """What a trial's value is: the loss where less is better, else a score under the name that the study gives it."""
    if len(study.directions) > 1:
        raise TableError(f"SOURCE: study {study.study_name!r} has {len(study.directions)} objectives; a law has one")
    named = (study.metric_names or ["value"])[0]
    if study.direction.name == "MINIMIZE":
        return "eval_loss", f"the objective {named!r} of study {study.study_name!r} is minimised: read as the loss"
    return f"eval_{named}", f"the objective {named!r} of study {study.study_name!r} is maximised: it is no loss"


def _run(study: str, trial: Any, measure: str) -> LoggedRun:
    """Steps are the trial's own; a value without steps stands at step 1."""
    attributes = {**trial.user_attrs}
    history = by_step((step, {measure: value}) for step, value in trial.intermediate_values.items())
    last = max(history, default=1.0)
    if trial.value is not None:
        history.setdefault(last, {})[measure] = trial.value
    if trial.duration is not None:
        history.setdefault(last, {})["seconds"] = trial.duration.total_seconds()
    history.get(last, {}).update({key: value for key, value in attributes.items() if isinstance(value, int | float)})
    return LoggedRun(f"{study}-{trial.number}", {**attributes, **trial.params}, history)


importer = Optuna()
