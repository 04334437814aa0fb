"""What a stack asks of a Ray cluster: a CPU, a GPU where there are any, and the memory that the ledger predicts.

Ray starts a task where so much memory is still promised to nobody, so that two large stacks do not meet on one node. It counts
promises, it limits nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isolora.errors import UserError
from isolora.json_types import JsonObject
from isolora.runs.workspace import Workspace
from isolora.study.design import Job
from isolora.study.study_price import priced_run
from isolora.training.folder import say

PROCESS_BYTES = 2**30
"""A worker before it trains: Python, torch and transformers hold 0.6 to 0.8 GiB."""


def task_options(job: Job, nodes: Iterable[Mapping[str, Any]], workspace: Workspace, folder: Path) -> JsonObject:
    """Options of a stack's task. nodes: as `ray.nodes()` tells them. What no node has is not asked for, since the task would
    wait for ever; that is said in a line."""
    resources = [node["Resources"] for node in nodes if node.get("Alive")]
    options: JsonObject = {"num_cpus": 1, "num_gpus": int(any(each.get("GPU") for each in resources))}
    wanted = stack_bytes(job, workspace)
    most = int(max((each.get("memory", 0) for each in resources), default=0))
    if wanted is None:
        return options
    if wanted > most:
        needs = f"{job[0].model}, {len(job)} runs: {wanted / 2**30:.1f} GiB are predicted"
        say(folder, f"{needs}, and no node of the cluster offers more than {most / 2**30:.1f}; it is tried there")
    return {**options, "memory": min(wanted, most)}


def stack_bytes(job: Job, workspace: Workspace) -> int | None:
    """Predicted peak of a stack's worker: as if each member had a base of its own, which is more than they take. None where it
    cannot be told."""
    try:
        parts = [priced_run("", config, workspace).memory_bytes for config in job]
    except UserError:  # the worker will say so
        return None
    return None if None in parts else PROCESS_BYTES + sum(part for part in parts if part is not None)
