"""Starts or joins a Ray cluster once per process, and checks its resources.

    connect(cpus=2)          # joins the cluster at RAY_ADDRESS, or starts a local one
    connect(cpus=2, gpus=1)  # already connected: only checks

Ray waits for ever, silently, for resources that a cluster does not have; `connect` fails at once with a message.
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

OBJECT_STORE_BYTES = 512 * 2**20  # shared memory of a local cluster; stages pass keys through it, not features
CONNECT_TIMEOUT_S = 10.0  # for the port of a joined cluster
STARTS = 3  # attempts: Ray's 15 s for a helper are too few on a busy machine (github.com/ray-project/ray/issues/65983)
QUEUED = 2  # submitted tasks per CPU: one runs, the next one is ready
RESOURCES_TIMEOUT_S = 30.0  # for the nodes of a joined cluster to report their resources

# A busy or suspended machine responds late. Ray then declares parts of a cluster dead and ends the driver's process. A
# local cluster has no other node to fail over to, so longer timeouts have no disadvantage. Defaults are in comments.
TIMEOUTS = {
    "RAY_agent_register_timeout_ms": "300000",  # 30 s
    "RAY_health_check_timeout_ms": "60000",  # 10 s, five times
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",  # 60 s
}


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or does not have the required resources."""


def connect(cpus: float = 1, gpus: float = 0) -> dict[str, float]:
    """Starts or joins the cluster, unless this process is connected, and returns its total resources.

    cpus, gpus: the caller's concurrent needs, over all nodes.

    Raises:
        ClusterError: no cluster at RAY_ADDRESS, or it has too few CPUs or GPUs.
    """
    ray = _ray()
    if not ray.is_initialized():
        if address := os.environ.get("RAY_ADDRESS"):
            _join(address)
        else:
            start_local()
    required = {"CPU": cpus, "GPU": gpus}
    deadline = time.monotonic() + (RESOURCES_TIMEOUT_S if os.environ.get("RAY_ADDRESS") else 0)
    while True:
        resources: dict[str, float] = ray.cluster_resources()
        lacking = [name for name, amount in required.items() if resources.get(name, 0) < amount]
        if not lacking:
            return resources
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    requested = ", ".join(f"{required[name]:g} {name}s" for name in lacking)
    available = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in lacking)
    raise ClusterError(
        f"{requested} required, but the Ray cluster at {ray.get_runtime_context().gcs_address} has {available} in "
        "total; request fewer workers, or set RAY_ADDRESS to a larger cluster"
    )


def connected() -> bool:
    """Whether this process is connected to a cluster."""
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


def start_local(cpus: int | None = None) -> None:
    """Starts a cluster on this machine, on loopback, with `cpus` (default: all).

    Raises:
        ClusterError: it did not start, after STARTS attempts.
    """
    ray = _ray()
    for attempt in range(STARTS, 0, -1):
        try:
            # "local", because Ray would otherwise join the cluster that was last started on this machine.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        except Exception as error:  # Ray raises many types, including Exception
            ray.shutdown()
            if attempt == 1:
                hint = "is there room in /dev/shm and in /tmp/ray?"
                raise ClusterError(f"cannot start a local Ray cluster: {error}; {hint}") from error


def run_tasks(
    calls: Sequence[tuple[Any, ...]], function: Callable[..., T], *errors: type[Exception]
) -> Iterator[tuple[int, T]]:
    """Runs each call as a Ray task with one CPU; yields its number and result, in order of completion.

    errors: types that are raised as they are; others are raised as Ray's. After an error no further
    task is submitted; submitted ones complete.

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
    # Tasks are not cancelled: if one completes at that moment, Ray 2.60 aborts the driver ("Tried
    # to complete task that was not pending", a failed check in task_manager.cc).
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, errors) else error from None


def _join(address: str) -> None:
    ray = _ray()
    try:
        _check_port(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        hint = "is it up, and does RAY_AUTH_TOKEN match?"
        scrub(error)
        raise ClusterError(f"cannot use the Ray cluster at RAY_ADDRESS={redact(address)}: {error}; {hint}") from error


def _ray() -> Any:
    # Ray reads these at import: no usage reports, and CUDA_VISIBLE_DEVICES of CPU tasks stays unchanged.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # Despite its name, makes Ray listen on loopback: unreachable from outside, and robust to network changes.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        for name, value in TIMEOUTS.items():
            os.environ.setdefault(name, value)
    import ray

    return ray


def _check_port(address: str) -> None:
    """Raises OSError if nothing listens at host:port; Ray would end the whole process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
