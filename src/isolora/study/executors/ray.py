"""On a Ray cluster: one that runs already, by its address, or one that is started on this machine for the study alone.

Who writes what: the database of the study is written by one process on the machine of `isolora study`, which workers ask over
Ray, since SQLite is not safe on network file systems. Checkpoints and adapters are files in the study's folder, which every
machine has to see under the same path; isolora, its models and data likewise.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from isolora.errors import ConfigError, RunFailed, UserError, in_brief
from isolora.json_types import JsonObject
from isolora.runs.workspace import Workspace
from isolora.store import FAILED, Store
from isolora.study.design import Job
from isolora.study.executors.base import Executor, Failure, PrunerOf, Train, attempt, failed
from isolora.study.pruning import RoundPruner
from isolora.study.study_price import priced_run
from isolora.training.folder import say
from isolora.training.interruption import PATIENCE_SECONDS, Interrupted, handle_again
from isolora.training.lease import STOP_FILE

ANSWER_SECONDS = 5.0
"""How long an address has to answer before it is said to be dead."""


PROCESS_BYTES = 2**30
"""A worker before it trains: Python, torch and transformers hold 0.6 to 0.8 GiB."""


class Ray(Executor):
    """Stacks are Ray tasks, each with one CPU, one GPU where the cluster has any, and the memory that is predicted. A task whose
    worker or node died is tried once more."""

    name = "ray"
    requires = ("ray",)
    takes_address = True

    @contextmanager
    def opened(
        self, folder: Path, workers: int, quiet: bool, workspace: Workspace, address: str | None = None
    ) -> Iterator[Train]:
        with cluster(address, workers) as ray:
            yield partial(_train, ray, folder.resolve(), quiet, workspace)


@contextmanager
def cluster(address: str | None, workers: int) -> Iterator[ModuleType]:
    """Ray, connected. Without an address a cluster is started on loopback and ends with the context; none is found by chance."""
    import ray

    quietly: JsonObject = {"include_dashboard": False, "logging_level": "ERROR"}
    if address is not None:
        _check_answers(address)
        quietly = {"logging_level": "ERROR"}
    else:
        _ask_for_token()
        _stay_on_loopback()
        quietly |= {"num_cpus": workers, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **quietly)
    except Exception as failure:  # its own kinds, and those of its parts
        words = in_brief(failure)
        raise ConfigError(f"--executor ray: no cluster at {address or 'this machine'}: {words}") from None
    handle_again()  # Ray has put its own in the place of our handlers
    try:
        yield ray
    finally:
        ray.shutdown()


def _ask_for_token() -> None:
    """Others on this machine can reach loopback too; so Ray gets a token that only this study knows."""
    from ray._raylet import AuthenticationTokenLoader, Config

    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    Config.initialize("")  # both have looked when Ray was imported
    AuthenticationTokenLoader.instance().reset_cache()


def _stay_on_loopback() -> None:
    """Ray 2.60 takes 127.0.0.1 for an address that other machines reach, and then listens on every interface, unless it is told
    that it is to be no cluster. The variable is for the processes that it starts, and for whoever wants it otherwise (1)."""
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    os.environ.setdefault(name, "0")
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(name, True)


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--address: expected HOST:PORT or ray://HOST:PORT (got {address!r})")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"--address: no Ray cluster answers at {address}: {error.strerror or error}") from None


class StoreServer:
    """The study's store, for workers that may be on other machines. An actor."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def call(self, name: str, given: tuple[Any, ...]) -> Any:
        return getattr(self.store, name)(*given)


class RemoteStore:
    """What a worker has in place of the store: its methods are called where the database lies."""

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder, self.server = folder, server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: object) -> Any:
            import ray

            kept = tuple(list(values) if isinstance(values, Iterator) else values for values in given)
            return ray.get(self.server.call.remote(name, kept))

        return call


def _train(
    ray: ModuleType,
    folder: Path,
    quiet: bool,
    workspace: Workspace,
    jobs: Sequence[Job],
    stage: str,
    pruner_of: PrunerOf,
) -> list[Failure]:
    store = cast(Store, RemoteStore(folder, _server(ray, folder)))
    if isinstance(pruner_of, RoundPruner):
        pruner_of = replace(pruner_of, store=store)
    remote, nodes = ray.remote(max_retries=1)(train_remotely), ray.nodes()
    asked = [(job, task_options(job, nodes, workspace, folder)) for job in jobs]
    running = {remote.options(**options).remote(job, store, stage, quiet, pruner_of): job for job, options in asked}
    failures = []
    try:
        while running:
            for task in ray.wait(list(running), timeout=1)[0]:
                job = running.pop(task)
                if (error := _result(ray, task, job, store, workspace)) is not None:
                    failures.append(failed(job, error, folder))
    except KeyboardInterrupt:
        _stop(ray, folder, list(running))
        raise
    return failures


def _server(ray: ModuleType, folder: Path) -> Any:
    """On this very machine, whatever else the cluster has."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StoreServer).remote(folder)


def train_remotely(job: Job, store: Store, stage: str, quiet: bool, pruner_of: PrunerOf) -> UserError | str | None:
    """A Ray task. Ray takes an interrupt for one of its own, so it is told as a word."""
    try:
        return attempt(job, store, stage, quiet, pruner_of)
    except Interrupted:
        return "interrupted"


def _result(ray: ModuleType, task: object, job: Job, store: Store, workspace: Workspace) -> UserError | None:
    try:
        error: UserError | str | None = ray.get(task)
    except ray.exceptions.RayError as failure:
        line = f"its Ray worker or node was lost, twice: {type(failure).__name__}"
        names = [workspace.identity(config) for config in job]
        store.set_state([name for name in names if name not in store.ended()], FAILED, line)
        return RunFailed(f"runs {', '.join(names)}: {line}")
    if isinstance(error, str):
        raise Interrupted(15)
    return error


def _stop(ray: ModuleType, folder: Path, tasks: list[Any]) -> None:
    """Workers find a file, keep a checkpoint and end."""
    (folder / STOP_FILE).touch()
    until = time.monotonic() + PATIENCE_SECONDS
    while tasks and time.monotonic() < until:
        tasks = ray.wait(tasks, num_returns=len(tasks), timeout=1)[1]


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


executor = Ray()
