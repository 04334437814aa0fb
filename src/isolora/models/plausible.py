"""A local checkpoint's configuration held against its weights, before a model of the size that it names is built.

A folder may be a stranger's: one wrong digit in `config.json` would take all memory, or hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from isolora.errors import ConfigError, in_brief
from isolora.methods.adapter_files import regular
from isolora.models import architectures

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LAYERS = re.compile(r"^(?!max_)(.*_)?(n_layers?|n_blocks?|layers|num_layers|num_hidden_layers|depth|num_blocks)$")
"""Names of counts of layers, each of which holds a tensor at least; Qwen's max_window_layers is only a bound."""
TIMES_LARGER, SMALLEST = 4, 2**26
"""A model may be that many times larger than its weights (a new head, shared matrices), or of that many numbers in any case."""


def check_plausible(name: str, folder: Path, architecture: PretrainedConfig, auto_class: str) -> None:
    """Raises ConfigError, one line, where the configuration asks for far more than the weights hold."""
    stored = list(_sizes(folder))
    if not stored:
        return
    for field, value in _numbers(architecture.to_dict()):
        if LAYERS.search(field) and value > max(len(stored), 8):
            raise ConfigError(f"model: {name}/config.json: {field} is {value:,}; its weights hold {len(stored):,} tensors")
    model = architectures.on_meta(architecture, auto_class)
    asked = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if asked > TIMES_LARGER * sum(stored) + SMALLEST:
        raise ConfigError(f"model: {name}/config.json describes {asked:,} weights; its files hold {sum(stored):,}")


def _sizes(folder: Path) -> Iterator[int]:
    """Numbers in each tensor of the folder's safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(regular(path)), "pt") as tensors:
                for key in list(tensors.keys()):
                    yield _product(tensors.get_slice(key).get_shape())
        except (OSError, SafetensorError) as failure:
            raise ConfigError(f"model: {folder}: no readable {path.name} ({in_brief(failure)})") from None


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _numbers(config: Mapping[object, object]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield str(key), value
