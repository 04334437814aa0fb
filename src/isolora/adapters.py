"""An adapter's life after training: load it from its folder, generate from it, merge it, export it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isolora import models, registry
from isolora.config import RunConfig, parse
from isolora.errors import ConfigError, DataError, unknown
from isolora.methods._base import Attached
from isolora.models import Base
from isolora.tasks._base import Task

RECORD = "isolora.json"
EXPORTS = ("merged", "peft")


@dataclass(frozen=True)
class Adapter:
    """A saved adapter on its base. `record` is what its training wrote down: config, run, loss, tokens."""

    folder: Path
    config: RunConfig
    record: dict[str, Any]
    base: Base
    attached: Attached
    task: Task

    def generate(self, prompt: str, max_new_tokens: int = 80, temperature: float = 0.0, seed: int = 0) -> str:
        """Continue `prompt`; greedy at temperature 0, else sampled with the seed. Returns the new text only."""
        tokenizer, model = self.base.tokenizer, self.base.model
        device = next(model.parameters()).device
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        if ids.shape[1] == 0:
            ids = torch.tensor([[_start(tokenizer)]])
        room = self.base.max_length - ids.shape[1]
        if room < 1:
            raise ConfigError(f"prompt: {ids.shape[1]} tokens leave no room in the model's {self.base.max_length} positions")
        torch.manual_seed(seed)
        sampling: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        made = model.generate(
            input_ids=ids.to(device),
            attention_mask=torch.ones_like(ids).to(device),
            max_new_tokens=min(room, max_new_tokens),
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
        text: str = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        return text


def _start(tokenizer: Any) -> int:
    """What stands in front of a text when there is no prompt."""
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if start is not None:
            return int(start)
    raise ConfigError("prompt: empty, and this model's tokenizer has no token that starts a text")


def find(folder: Path) -> Path:
    """The adapter's own folder: the one given, `adapter` inside a run's folder, or `recommended` inside a study's."""
    for place in (folder, folder / "adapter", folder / "recommended"):
        if (place / RECORD).is_file():
            return place
    several = sorted(path.parent for path in folder.glob(f"adapters/*/{RECORD}"))
    if several:
        raise DataError(f"{folder} holds {len(several)} adapters; name one of them, for example {several[0]}")
    raise DataError(f"{folder}: no adapter made by isolora here ({RECORD} is missing)")


def read_record(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The run's configuration and all that its training wrote down.

    `trust_remote_code` is not taken from a file that may be a stranger's; a base that needs it can only be trained, not loaded.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return parse(RunConfig, {**record["config"], "trust_remote_code": False}), record
    except KeyError as failure:
        raise DataError(f"{folder / RECORD}: {failure} is missing") from None
    except (OSError, TypeError, ValueError) as failure:
        raise DataError(f"{folder / RECORD}: {failure}") from None


def bound_task(place: Path) -> Task:
    """The task that the adapter was trained for, with its classes."""
    config, record = read_record(place)
    return models.bound_task(config, record.get("labels", ()))


def bare_base(place: Path) -> Base:
    """The adapter's base model as it was before."""
    config, _ = read_record(place)
    return models.load(config, bound_task(place))


def load(folder: Path | str) -> Adapter:
    """Base model and adapter from the adapter's folder alone, ready for inference."""
    place = find(Path(folder))
    config, record = read_record(place)
    base, task = bare_base(place), bound_task(place)
    attached = registry.load("method", config.method.name).load(base.model, place, task.new_head)
    base.model.eval()
    return Adapter(place, config, record, base, attached, task)


def export(folder: Path | str, to: str, out: Path | str) -> Path:
    """Write the adapter as PEFT's two files, or merged into a plain Hugging Face folder with its tokenizer."""
    out = Path(out)
    if to not in EXPORTS:
        raise ConfigError(unknown("export", to, EXPORTS))
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out: {out} exists and is not an empty folder")
    adapter = load(folder)  # also where files are only copied: what does not load is not handed over
    if to == "peft":
        out.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy2(adapter.folder / name, out / name)
        return out
    adapter.attached.merge(0).save_pretrained(out)
    adapter.base.tokenizer.save_pretrained(out)
    return out
