"""Shares of the cluster: CPUs and GPUs of each worker, and the number of models that train at once.

share_of(nodes(), workers=2, gpus=None)        # Share(cpus=4, gpu=True)
slots_of(nodes(), trials=16, gpus=None)        # Slots(concurrent=8, share=Share(cpus=2, gpu=False))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.cluster import ClusterError

TRIAL_BYTES = 2 * 2**30  # memory of a trial: torch, a small model, its optimiser, mapped features


@dataclass(frozen=True)
class Share:
    """Resources of one worker. cpus: reserved in Ray, and the number of torch threads."""

    cpus: int
    gpu: bool

    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}


@dataclass(frozen=True)
class Slots:
    """Number of trials or cells that run at once, and the resources of each."""

    concurrent: int
    share: Share


def share_of(nodes: Sequence[Mapping[str, float]], workers: int, gpus: bool | None) -> Share:
    """An even share of the cluster for each worker; `nodes` are the resources of each node.

    Raises:
        ClusterError: the workers do not fit; Ray itself would wait forever.
    """
    cpu, gpu = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    use_gpu = gpu > 0 if gpus is None else gpus
    if use_gpu and gpu < workers:
        raise ClusterError(
            f"{workers} workers need {workers} GPUs, the Ray cluster has {gpu}; "
            f"take --workers {max(gpu, 1)}, add nodes, or set trainer.gpus=false"
        )
    for cpus in range(max(cpu // workers, 1), 0, -1):
        capacity = (min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if use_gpu else workers) for node in nodes)
        if sum(capacity) >= workers:
            return Share(cpus, use_gpu)
    raise ClusterError(
        f"{workers} workers need a CPU each{' beside their GPU' if use_gpu else ''}, "
        f"the Ray cluster has {cpu} CPUs on {len(nodes)} nodes; take fewer --workers or add nodes"
    )


def slots_of(nodes: Sequence[Mapping[str, float]], trials: int, gpus: bool | None) -> Slots:
    """As many trials at once as fit by GPU, CPU and memory, but at most half of all, so that proposals can learn.

    Raises:
        ClusterError: trainer.gpus is true and the cluster has no GPU.
    """
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes) if gpus is None else gpus
    fits = [(node, _trials_on(node, use_gpu)) for node in nodes]
    capacity = sum(fit for _, fit in fits)
    if not capacity:
        raise ClusterError(
            f"a trial needs a CPU{' and a GPU' if use_gpu else ''}, which no node of the Ray cluster has; "
            f"{'set trainer.gpus=false or ' if use_gpu else ''}add nodes"
        )
    concurrent = min(capacity, max(2, math.ceil(trials / 2)))
    # On one node, trials share all CPUs; on several nodes, the placement is up to Ray.
    cpus = min(int(node["CPU"] // (concurrent if len(nodes) == 1 else fit)) for node, fit in fits if fit)
    return Slots(concurrent, Share(cpus, use_gpu))


def _trials_on(node: Mapping[str, float], use_gpu: bool) -> int:
    limits = [node.get("CPU", 0)]
    if use_gpu:
        limits.append(node.get("GPU", 0))
    if "memory" in node:
        limits.append(max(1, node["memory"] // TRIAL_BYTES))
    return int(min(limits))


def nodes() -> list[dict[str, float]]:
    """Resources of each node of the cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
