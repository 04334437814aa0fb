"""The transformers configuration of a base model: from its folder, the hub or packaged facts; and its longest sequence.

A local one is held against its weights before a model of the size that it names is built: a folder may be a stranger's, and one
wrong digit in `config.json` would take all memory, or hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from isolora.config import RunConfig
from isolora.errors import ConfigError, UserError, in_brief
from isolora.methods.adapter_files import regular
from isolora.models import architectures
from isolora.models.names import locate, not_found
from isolora.paths import is_folder
from isolora.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig


LAYERS = re.compile(r"^(?!max_)(.*_)?(n_layers?|n_blocks?|layers|num_layers|num_hidden_layers|depth|num_blocks)$")
"""Names of counts of layers, each of which holds a tensor at least; Qwen's max_window_layers is only a bound."""


def load_architecture(config: RunConfig, task: Task | None = None) -> Any:
    """The transformers configuration alone, with what the task adds to it; packaged facts before a look at the hub."""
    import transformers

    facts = architectures.by_name().get(config.model)
    if facts is None or is_folder(locate(config.model)):
        return published_architecture(config, task)
    options = {} if task is None else task.model_options()
    return transformers.CONFIG_MAPPING[facts.config["model_type"]].from_dict(deepcopy(facts.config), **options)


def published_architecture(config: RunConfig, task: Task | None) -> Any:
    """The configuration that lies beside the weights."""
    import transformers

    options = {} if task is None else task.model_options()
    with foreign(config.model):
        return transformers.AutoConfig.from_pretrained(
            locate(config.model), trust_remote_code=config.trust_remote_code, **options
        )


@contextmanager
def foreign(name: str) -> Iterator[None]:
    """Within, files of a base model are read that may be a stranger's: whatever a library raises over them becomes a ConfigError.

    transformers, its strict configurations, tokenizers and safetensors each raise their own, down to a bare Exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as failure:
        raise ConfigError(not_found(name, failure)) from None


def positions(architecture: PretrainedConfig) -> int:
    """The longest sequence that a model takes, in tokens; 1,024 where its configuration sets no bound.

    Relative positions set none: there it is the length of pretraining, which T5 and BLOOM write down.
    """
    text = architecture.get_text_config()
    found = (position_bound(text) or 1024) - _positions_of_padding(text)
    if found < 1:
        raise ConfigError(f"model: its configuration leaves {found} positions for text")
    return found


def position_bound(text: PretrainedConfig) -> int | None:
    """The number of positions that a configuration states; None where it states none, or -1 as XLNet does."""
    stated = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"))
    return next((int(bound) for bound in stated if bound and bound > 0), None)


def _positions_of_padding(architecture: PretrainedConfig) -> int:
    """Rows of the table of positions that no token uses: RoBERTa and its kin count from behind the padding's own."""
    import transformers

    if getattr(architecture, "pad_token_id", None) is None or type(architecture) not in transformers.MODEL_MAPPING:
        return 0
    modules = architectures.on_meta(architecture, "AutoModel").named_modules()
    rows = [table.padding_idx for name, table in modules if name.endswith("position_embeddings")]
    return max((row + 1 for row in rows if row is not None), default=0)


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
