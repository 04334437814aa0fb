"""Which modules of a base a method adapts: by kind, by name, or by a pattern over full names.

Names that match nothing are refused, since an adapter without them would train in silence. Patterns may come from a stranger's
file, so they are matched in a process that can be ended: `re` has no time limit of its own.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from isolora.errors import MANY, ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SECONDS = 4.0
"""For one pattern on all names of a model: a start of Python takes 0.02, a sensible pattern a thousandth."""
LONGEST_PATTERN = 10_000
ROUTER = re.compile(r"router|(^|\.)gate\.")
"""Names of what decides which expert hears a token. `gate_proj` is none."""
GATE = re.compile(r"(^|[._])gate$")
"""The same of one layer, as far as it is narrow: attention's gates are as wide as what they let through."""
STATE_SPACES = frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"))
"""Architectures whose kernels read the weights of `out_proj` past any adapter; PEFT loads none there."""
MATCHER = """
import json, re, sys
pattern, names = json.load(sys.stdin)
try:
    compiled = re.compile(pattern)
except (re.error, OverflowError, RecursionError) as failure:
    print(json.dumps(str(failure) or type(failure).__name__))
else:
    print(json.dumps([name for name in names if compiled.fullmatch(name)]))
"""


def target_modules(model: PreTrainedModel, targets: str | list[str]) -> list[str]:
    """Full names of the chosen layers, in model order.

    `all-linear` means every Linear and Conv1D but the output head or a classifier's, but routers and gates, and but what a
    kernel reads past any adapter; a list matches names or their endings, as in PEFT; any other string is a regular expression
    over full names. Raises ConfigError, naming what exists, when a name or the pattern matches nothing.
    """
    adaptable = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D | nn.Embedding)}
    if targets == "all-linear":
        return _all_linear(model, adaptable)
    if isinstance(targets, str):
        found = matching(targets, list(adaptable), "method.targets")
    else:
        check_names(targets, adaptable, "method.targets")
        found = [name for name in adaptable if is_named(name, targets)]
    if not found:
        raise ConfigError(nothing_matches(targets, adaptable, "method.targets"))
    return found


def _all_linear(model: PreTrainedModel, adaptable: dict[str, nn.Module]) -> list[str]:
    head = model.get_output_embeddings()
    body = set(model.modules()) - {head} if head is not None else set(model.base_model.modules())
    counts = expert_counts(model.config.to_dict())
    linear = {name: module for name, module in adaptable.items() if not isinstance(module, nn.Embedding) and module in body}
    passed_by = {"out_proj"} if model.config.model_type in STATE_SPACES else set()
    return [
        name
        for name, module in linear.items()
        if not is_routing(name, module, counts) and name.rsplit(".", 1)[-1] not in passed_by
    ]


def is_routing(name: str, layer: Any, expert_counts: set[int]) -> bool:
    """Whether a layer is a gate or a router: of a single output, part of a router, or a gate with an output for each expert."""
    outputs = layer.weight.shape[1] if isinstance(layer, Conv1D) else layer.out_features
    narrow_gate = outputs in expert_counts and GATE.search(name) is not None
    return outputs == 1 or narrow_gate or ROUTER.search(name) is not None


def expert_counts(config: dict[Any, Any]) -> set[int]:
    """Numbers that a configuration, or one inside it, gives under a name that speaks of experts."""
    found = {value for key, value in config.items() if "expert" in str(key) and isinstance(value, int)}
    return found.union(*(expert_counts(inner) for inner in config.values() if isinstance(inner, dict)))


def is_named(name: str, targets: Iterable[str]) -> bool:
    """Whether a full name is one of the targets or ends in one."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def check_names(targets: Iterable[str], names: Iterable[str], field: str) -> None:
    """Raises ConfigError for the first target that no name ends in, with the nearest that exists."""
    names = list(names)
    for target in targets:
        if not any(is_named(name, [target]) for name in names):
            raise ConfigError(nothing_matches(target, names, field))


def nothing_matches(targets: str | list[str], names: Iterable[str], field: str) -> str:
    """One line with the nearest ending of a name, and those that exist."""
    endings = sorted({name.rsplit(".", 1)[-1] for name in names})
    near = difflib.get_close_matches(targets, endings, n=1) if isinstance(targets, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = f"{targets[:100]!r}" if isinstance(targets, str) else repr(targets)
    beyond = f" and {len(endings) - MANY} more" if len(endings) > MANY else ""
    return f"{field}: nothing matches {shown}{hint} (layers that exist: {', '.join(endings[:MANY])}{beyond})"


def matching(pattern: str, names: Sequence[str], field: str) -> list[str]:
    """Those names that the pattern matches in full. Raises ConfigError where it is no pattern, or is still busy after SECONDS."""
    if len(pattern) > LONGEST_PATTERN:
        raise ConfigError(f"{field}: a pattern of {len(pattern):,} characters (at most {LONGEST_PATTERN:,})")
    words = [sys.executable, "-I", "-S", "-c", MATCHER]
    try:
        ended = subprocess.run(
            words, input=json.dumps([pattern, list(names)]), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{field}: {pattern[:100]!r} takes more than {SECONDS:.0f} seconds to match; write it plainer"
        ) from None
    try:
        found = json.loads(ended.stdout)
    except ValueError:
        found = f"matching ended with status {ended.returncode}"
    if isinstance(found, str):
        raise ConfigError(f"{field}: {pattern[:100]!r} is no valid pattern: {found}")
    return list(found)


def short_names(model: PreTrainedModel, names: list[str]) -> list[str]:
    """Last parts of the names where these select the very same layers, full names otherwise."""
    endings = sorted({name.rsplit(".", 1)[-1] for name in names})
    matched = {name for name, _ in model.named_modules() if is_named(name, endings)}
    return endings if matched == set(names) else names
