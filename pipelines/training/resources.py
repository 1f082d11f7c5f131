"""What one process gets of the cluster: an even share for each worker of a training, and how many models at once.

share_of(nodes(), workers=2, gpus=None)        # Share(cpus=4, gpu=True): of one training's workers
slots_of(nodes(), trials=16, gpus=None)        # Slots(concurrent=8, share=Share(cpus=2, gpu=False))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.core.cluster import ClusterError

TRIAL_BYTES = 2 * 2**30  # memory that a trial is counted with: torch, a small model, its optimiser, mapped features


@dataclass(frozen=True)
class Share:
    """What one worker gets: cpus are reserved in Ray, and are its torch threads."""

    cpus: int
    gpu: bool

    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}


@dataclass(frozen=True)
class Slots:
    """How many trials (or cells of a study) run at once, and what one of them gets."""

    concurrent: int
    share: Share


def share_of(nodes: Sequence[Mapping[str, float]], workers: int, gpus: bool | None) -> Share:
    """An even share of the cluster for each worker; `nodes` are the resources of each node.

    Raises:
        ClusterError: the workers do not fit; Ray itself would wait for ever.
    """
    cpu, gpu = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    use_gpu = gpu > 0 if gpus is None else gpus
    if use_gpu and gpu < workers:
        raise ClusterError(
            f"{workers} workers need {workers} GPUs, the Ray cluster has {gpu}; "
            f"take --workers {max(gpu, 1)}, add nodes, or set trainer.gpus=false"
        )
    for cpus in range(max(cpu // workers, 1), 0, -1):
        places = (min(node.get("CPU", 0) // cpus, node.get("GPU", 0) if use_gpu else workers) for node in nodes)
        if sum(places) >= workers:
            return Share(cpus, use_gpu)
    raise ClusterError(
        f"{workers} workers need a CPU each{' beside their GPU' if use_gpu else ''}, "
        f"the Ray cluster has {cpu} CPUs on {len(nodes)} nodes; take fewer --workers or add nodes"
    )


def slots_of(nodes: Sequence[Mapping[str, float]], trials: int, gpus: bool | None) -> Slots:
    """As many trials at once as fit by GPU, CPU and memory, but at most half of all, so that proposals can learn.

    Raises:
        ClusterError: trainer.gpus asks for GPUs that the cluster lacks.
    """
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes) if gpus is None else gpus
    fits = [(node, _trials_on(node, use_gpu)) for node in nodes]
    places = sum(fit for _, fit in fits)
    if not places:
        raise ClusterError(
            f"a trial needs a CPU{' and a GPU' if use_gpu else ''}, which no node of the Ray cluster has free to give; "
            f"{'set trainer.gpus=false or ' if use_gpu else ''}add nodes"
        )
    concurrent = min(places, max(2, math.ceil(trials / 2)))
    # CPUs that no trial uses go to those that run, on one node: on several, Ray packs them as it likes.
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
