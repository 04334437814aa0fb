"""A live adapter measured by lm-evaluation-harness: nothing is merged, exported or, for local tasks, downloaded.

Source: Gao et al., A framework for few-shot language model evaluation, Zenodo 10.5281/zenodo.12608602.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from isolora import adapters, data
from isolora.adapters import Adapter
from isolora.errors import ConfigError, DataError, MissingExtra
from isolora.json_types import JsonObject

MODELS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
BATCH_ROWS = 16


def harness(
    folder: Path | str, tasks: Sequence[str], include: Path | str | None = None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Task -> its metrics, and their standard errors as the harness estimates them (`acc_stderr`).

    tasks: packaged ones, those of the YAML files in the folder `include`, or the harness's own, whose data it downloads;
    limit: documents of each task. Raises MissingExtra without lm_eval, ConfigError for unknown tasks and for models that give no
    text, DataError where a task's data cannot be had.
    """
    names = list(dict.fromkeys(tasks))
    with _quiet():
        specs, manager = _known(names, include)
        adapter = adapters.load(folder)
        found = _measured(adapter, _loaded(names, specs, manager), manager, limit)
    return {task: _plain(metrics) for task, metrics in found.items()}


def packaged_tasks() -> dict[str, JsonObject]:
    """The tasks over packaged data by name; paths of their data as they are here."""
    folder = Path(str(resources.files("isolora").joinpath("assets", "harness")))
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        task = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = task["dataset_kwargs"]["data_files"]
        task["dataset_kwargs"] = {
            "data_files": {split: str((folder / name).resolve()) for split, name in files.items()},
            "cache_dir": str(data.cache_folder() / "harness"),
        }
        found[task["task"]] = task
    return found


def _known(names: Sequence[str], include: Path | str | None) -> tuple[list[Any], Any]:
    """What the harness's manager of tasks loads for each name, and that manager."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtra("lm_eval", "eval") from None
    if include is not None and not Path(include).is_dir():
        raise ConfigError(f"--include: {include} is not a folder")
    packaged = packaged_tasks()
    manager = TaskManager(include_path=include, include_defaults=False)
    if not set(names) <= {*packaged, *manager.all_tasks}:
        manager = TaskManager(include_path=include)  # some thousand files are read for it
    for name in names:
        if name not in packaged and name not in manager.all_tasks:
            near = difflib.get_close_matches(name, [*packaged, *manager.all_tasks], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"--harness: unknown task {name!r}{hint} (valid: {', '.join(packaged)}, those of --include FOLDER, lm_eval's own)"
            )
    return [packaged.get(name, name) for name in names], manager


def _loaded(names: Sequence[str], specs: Sequence[object], manager: Any) -> list[Any]:
    """Tasks with their data."""
    built = []
    for name, spec in zip(names, specs, strict=True):
        try:
            loaded = manager.load([spec])
        except Exception as failure:  # the harness, datasets and the hub's client each have their own
            first = (str(failure).splitlines() or [""])[0]
            raise DataError(f"--harness: the data of {name} cannot be had ({type(failure).__name__}: {first})") from None
        built += [*loaded["groups"].values()] or [*loaded["tasks"].values()]
    return built


def _measured(adapter: Adapter, tasks: list[Any], manager: object, limit: int | None) -> dict[str, JsonObject]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if adapter.task.auto_class(adapter.base.model.config) not in MODELS:
        raise ConfigError(f"--harness: it measures models that give text; that of task {adapter.task.name} has another head")
    with adapter.attached.rows([(0, 0, -1)]):
        model = HFLM(
            pretrained=adapter.attached.model,
            tokenizer=adapter.base.tokenizer,
            max_length=adapter.writer.positions,
            batch_size=BATCH_ROWS,
        )
        answer = simple_evaluate(model, tasks=tasks, limit=limit, task_manager=manager, log_samples=False, bootstrap_iters=1000)
    found: dict[str, JsonObject] = answer["results"]
    return found


def _plain(metrics: JsonObject) -> dict[str, float]:
    """`acc,none` is called acc; another filter of answers keeps its name."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float) and "," in name}
    return {name.removesuffix(",none"): float(value) for name, value in numbers.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's advice to callers of its functions."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
