"""Process group of the workers of a training, on the addresses of Ray's nodes.

    TorchTrainer(loop, torch_config=NodeTorchConfig(), ...)

With Ray's own TorchConfig, the store of rank 0 listens on every interface, and gloo on the address of the host's name:
beyond loopback on a local cluster, and on loopback on a cluster of Debian machines, whose name is 127.0.1.1. Here both
use the address of Ray's node, which is 127.0.0.1 on a local cluster.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from pipelines.training.network_interfaces import use_interface


@dataclass
class NodeTorchConfig(TorchConfig):
    """TorchConfig whose process group listens only on the addresses of the nodes."""

    @property
    def backend_cls(self) -> type[NodeBackend]:
        return NodeBackend


class NodeBackend(_TorchBackend):
    """Backend that Ray starts in the controller, before the training function."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        backend = backend_config.backend or ("nccl" if on_gpus else "gloo")
        timeout = timedelta(seconds=backend_config.timeout_s)
        address, port = worker_group.execute_single(0, free_port)
        worker_group.execute(_set_torch_distributed_env_vars)
        world = len(worker_group)
        ranks = [
            worker_group.execute_single_async(rank, join, backend, address, port, rank, world, timeout)
            for rank in range(world)
        ]
        ray.get(ranks)


def free_port() -> tuple[str, int]:
    """Address of this node, and a free port on it."""
    address = ray.util.get_node_ip_address()
    with _listener(address, 0) as listener:
        return address, listener.getsockname()[1]


def join(backend: str, address: str, port: int, rank: int, world: int, timeout: timedelta) -> None:
    """Joins the process group; rank 0 listens at the address and port."""
    use_interface(ray.util.get_node_ip_address())
    listener = _listener(address, port).detach() if rank == 0 else None
    store = dist.TCPStore(
        address, port, world, is_master=rank == 0, timeout=timeout, multi_tenant=True, master_listen_fd=listener
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _listener(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1024)
