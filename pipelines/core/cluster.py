"""Ray, started or joined once per process, and asked first whether it has what a stage wants.

    connect(cpus=2)          # RAY_ADDRESS is set: joins that cluster; otherwise starts a quiet local one
    connect(cpus=2, gpus=1)  # already connected: only checks

A job that asks a cluster for more than it has waits for ever without a word; here it fails at once and says why.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from pipelines.core.redaction import redact, scrub

T = TypeVar("T")

OBJECT_STORE_BYTES = 512 * 2**20  # a local cluster's shared memory; stages pass keys through it, not features
KNOCK_S = 10.0  # how long a joined cluster's port may take to answer
STARTS = 3  # Ray gives a helper 15 s to start, too few on a busy machine (github.com/ray-project/ray/issues/65983)
QUEUED = 2  # calls of `over` that are submitted for each CPU: one runs, the next one is ready
JOIN_PATIENCE_S = 30.0  # how long nodes of a joined cluster may take to report their resources

# A machine that is busy or was asleep answers late. Ray then takes parts of a cluster for dead, and ends the process
# that started it without a word; on one machine there is nobody to fail over to, so waiting costs nothing.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",  # 30 s
    "RAY_health_check_timeout_ms": "60000",  # 10 s, five times
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",  # 60 s
}


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or that lacks what a stage asks for."""


def connect(cpus: float = 1, gpus: float = 0, dashboard: bool = False, worker_output: bool = False) -> dict[str, float]:
    """The cluster's total resources, after starting or joining it if this process has not yet.

    cpus, gpus: what the caller is about to ask for at one time, over all nodes.
    dashboard: serve Ray's dashboard, on loopback alone (only where a local cluster is started).
    worker_output: print what workers print.

    Raises:
        ClusterError: RAY_ADDRESS leads nowhere, or the cluster has fewer CPUs or GPUs than asked for.
    """
    ray = _ray()
    if not ray.is_initialized():
        if address := os.environ.get("RAY_ADDRESS"):
            _join(address, worker_output)
        else:
            start_local(dashboard=dashboard, worker_output=worker_output)
    wanted = {"CPU": cpus, "GPU": gpus}
    patience = time.monotonic() + (JOIN_PATIENCE_S if os.environ.get("RAY_ADDRESS") else 0)
    while True:
        resources: dict[str, float] = ray.cluster_resources()
        lacking = [name for name, amount in wanted.items() if resources.get(name, 0) < amount]
        if not lacking:
            return resources
        if time.monotonic() > patience:
            break
        time.sleep(0.5)
    asked = ", ".join(f"{wanted[name]:g} {name}s" for name in lacking)
    there = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in lacking)
    raise ClusterError(
        f"{asked} asked for, but the Ray cluster at {ray.get_runtime_context().gcs_address} has {there} in all; "
        "ask for fewer workers, or set RAY_ADDRESS to a larger cluster"
    )


def connected() -> bool:
    """Whether this process has a cluster already, so that using it costs nothing."""
    return bool(_ray().is_initialized())


@contextmanager
def local_ray() -> Iterator[None]:
    """Ends the Ray session that the block started, and leaves one that was there. Ray starts when a stage needs it."""
    before = connected()
    try:
        yield
    finally:
        if not before and connected():
            _ray().shutdown()


def start_local(cpus: int | None = None, dashboard: bool = False, worker_output: bool = False) -> None:
    """A cluster of this machine's own, on loopback; `cpus` are those that it may use, all of them if left out.

    Raises:
        ClusterError: it did not start, three times in a row.
    """
    ray = _ray()
    for attempt in range(STARTS, 0, -1):
        try:
            # "local", or Ray would join whatever cluster somebody else started last on this machine.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=worker_output,
                logging_level="ERROR",
            )
            return
        except Exception as error:  # Ray's own, of many types, plain Exception among them
            ray.shutdown()
            if attempt == 1:
                hint = "is there room in /dev/shm and in /tmp/ray?"
                raise ClusterError(f"cannot start a local Ray cluster: {error}; {hint}") from error


def over(
    calls: Sequence[tuple[Any, ...]], function: Callable[..., T], *own: type[Exception]
) -> Iterator[tuple[int, T]]:
    """The number of each call and what the function gave, as they end: one Ray task each, of one CPU.

    own: errors of the function that are raised as they are; any other comes as Ray's. After an error no further call is
    submitted; those that were (QUEUED for each CPU) run to their end.

    Raises:
        ClusterError: Ray cannot be started or joined.
    """
    cpus = int(connect(cpus=1)["CPU"])
    import ray

    remote = ray.remote(num_cpus=1, max_retries=3)(function)
    waiting = enumerate(calls)
    pending: dict[Any, int] = {}
    try:
        while True:
            for number, arguments in islice(waiting, QUEUED * cpus - len(pending)):
                pending[remote.remote(*arguments)] = number
            if not pending:
                return
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(ready), ray.get(ready)
    # No task is cancelled: where one ends at that moment, Ray 2.60 aborts the driver ("Tried to complete task that was
    # not pending", a failed check in task_manager.cc).
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, own) else error from None


def _join(address: str, worker_output: bool) -> None:
    ray = _ray()
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=worker_output, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        hint = "is it up, and does RAY_AUTH_TOKEN match?"
        scrub(error)
        raise ClusterError(f"cannot use the Ray cluster at RAY_ADDRESS={redact(address)}: {error}; {hint}") from error


def _ray() -> Any:
    # Read at import, so set before it: no usage reports, and CUDA_VISIBLE_DEVICES of CPU tasks left as it is.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # On loopback, whatever the name says: nobody else's to reach, and no change of network takes it away.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
    import ray

    return ray


def _knock(address: str) -> None:
    """Raises OSError when nobody listens at host:port; Ray itself would end the whole process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
