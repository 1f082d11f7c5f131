"""Ray, started or joined once per process, and asked first whether it has what a stage wants.

    connect(cpus=2)          # RAY_ADDRESS is set: joins that cluster; otherwise starts a quiet local one
    connect(cpus=2, gpus=1)  # already connected: only checks

A job that asks a cluster for more than it has waits for ever without a word; here it fails at once and says why.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

OBJECT_STORE_BYTES = 512 * 2**20  # a local cluster's shared memory; stages pass keys through it, not features
KNOCK_S = 10.0  # how long a joined cluster's port may take to answer
JOIN_PATIENCE_S = 30.0  # how long nodes of a joined cluster may take to report their resources


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
        _start_or_join(ray, dashboard, worker_output)
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


def _ray() -> Any:
    # Read at import, so set before it: no usage reports, and CUDA_VISIBLE_DEVICES of CPU tasks left as it is.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    return ray


def _start_or_join(ray: Any, dashboard: bool, worker_output: bool) -> None:
    address = os.environ.get("RAY_ADDRESS")
    common = {"log_to_driver": worker_output, "logging_level": "ERROR", "configure_logging": True}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **common)
        else:
            # "local", or Ray would join whatever cluster somebody else started last on this machine.
            ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
    except (OSError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a local Ray cluster"
        hint = "is it up, and does RAY_AUTH_TOKEN match?" if address else "is there room in /dev/shm and in /tmp/ray?"
        raise ClusterError(f"cannot use {where}: {error}; {hint}") from error


def _knock(address: str) -> None:
    """Raises OSError when nobody listens at host:port; Ray itself would end the whole process."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
