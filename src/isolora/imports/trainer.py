"""transformers' Trainer: `trainer_state.json` in its output folder or in its checkpoints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from isolora.imports.base import Importer, LoggedRun, Read, Steps, by_step
from isolora.json_types import JsonMapping, JsonObject
from isolora.table.foreign import foreign_json

_DECAYED = 0.5
"""Share of the highest rate below which the last one lies where the rate decays."""
STATE, ADAPTER = "trainer_state.json", "adapter_config.json"


class TrainerImporter(Importer):
    name = "trainer"
    reads = "a trainer_state.json, or a folder with some below it"

    def read(self, source: Path) -> Read:
        found = [source] if source.is_file() else sorted(source.rglob(STATE))
        states = {path: foreign_json(path) for path in found}
        states = {path: state for path, state in states.items() if isinstance(state, dict) and "log_history" in state}
        if not states:
            raise self.refuse(source)
        latest: dict[Path, Path] = {}
        for path in sorted(states, key=lambda path: float(states[path].get("global_step", 0))):
            latest[_output_folder(path)] = path
        root = source.parent if source.is_file() else source
        runs = [_run(folder, root, path, states[path]) for folder, path in sorted(latest.items())]
        left_out = Counter({"earlier checkpoints of the same runs": len(states) - len(latest)})
        counted = any(state.get("total_flos") for state in states.values())
        notes = (
            ("flops are the Trainer's total_flos: about 6 a weight and token, as if every weight were trained",)
            if counted
            else ()
        )
        return Read(tuple(runs), +left_out, notes)


def _output_folder(path: Path) -> Path:
    """The run's folder: the one above a `checkpoint-100`."""
    return path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent


def _run(folder: Path, root: Path, path: Path, state: JsonMapping) -> LoggedRun:
    history = by_step((entry["step"], entry) for entry in state["log_history"] if isinstance(entry, dict) and "step" in entry)
    end = history.setdefault(float(state.get("global_step") or max(history, default=0.0)), {})
    for name in ("total_flos", "num_input_tokens_seen"):
        if state.get(name):
            end.setdefault(name, state[name])
    config = _rate({step: entry["learning_rate"] for step, entry in history.items() if "learning_rate" in entry})
    if state.get("train_batch_size"):
        config["train_batch_size"] = state["train_batch_size"]
    name = str(folder.relative_to(root)) if folder.is_relative_to(root) and folder != root else folder.resolve().name
    return LoggedRun(name, {**config, **_adapter(path.parent), **_adapter(folder)}, Steps(history.items(), history.replaced))


def _rate(logged: Mapping[float, float]) -> JsonObject:
    """The learning rate, and whether it decays, from what was logged of it.

    Where it falls from the first entry on, it began higher: at step 0 on the line through the first two.
    """
    if not logged:
        return {}
    steps, rates = zip(*sorted(logged.items()), strict=True)
    peak = max(rates)
    if len(rates) > 1 and rates[0] == peak > rates[1]:
        peak = float(f"{peak + steps[0] * (peak - rates[1]) / (steps[1] - steps[0]):.3g}")
    return {"learning_rate": peak} | ({"schedule": "decaying"} if rates[-1] < _DECAYED * peak else {})


def _adapter(folder: Path) -> JsonObject:
    """The method, its rank and the base, where PEFT wrote its configuration beside the state."""
    path = folder / ADAPTER
    found = foreign_json(path) if path.is_file() else {}
    kept = ("peft_type", "r", "base_model_name_or_path")
    return {name: found[name] for name in kept if found.get(name) not in (None, "", math.nan)}


importer = TrainerImporter()
