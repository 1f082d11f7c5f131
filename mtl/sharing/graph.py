"""Message passing between the states of tasks along a task graph (Gilmer et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from mtl.config.sharing import GraphSettings
from mtl.layers.encoder import FeedForward, padding_mask
from mtl.sharing.base import MakeEncoder, Trunk

Pairs = Sequence[Sequence[str]]
DEFAULT_GRAPH: Pairs = (("intent", "slots"), ("slots", "domain"))  # intent and slots determine each other


def directed(graph: Pairs | None, tasks: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(from, to) in both directions for each pair of `tasks`. Raises ValueError for an invalid pair."""
    edges: list[tuple[str, str]] = []
    for pair in DEFAULT_GRAPH if graph is None else graph:
        if len(set(pair)) != 2 or len(pair) != 2:
            raise ValueError(f"the task graph holds {list(pair)}, expected a pair of two different tasks")
        one, other = pair
        if one in tasks and other in tasks and (one, other) not in edges:
            edges += [(one, other), (other, one)]
    return tuple(edges)


class GraphTrunk(Trunk):
    """One round: f_k(x) = z_k + sum over neighbours j of w_jk x V_j(z_j), with z_k = g(x) + t_k(g(x)), frame by frame.

    g is the shared encoder, t_k the task's head, V_j a LayerNorm and a matrix, w_jk a number for each direction of an
    edge, initially one over the number of k's neighbours. The heads of neighbours run too.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: GraphSettings
    ) -> None:
        super().__init__(tasks)
        self.edges = directed(settings.graph, self.tasks)
        self.shared = encoder()
        self.task_heads = nn.ModuleDict({task: FeedForward(width, 1, dropout) for task in tasks})
        sources = [task for task in self.tasks if any(task == source for source, _ in self.edges)]
        self.messages = nn.ModuleDict(
            {task: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for task in sources}
        )
        targets = [target for _, target in self.edges]
        # (edges,): one-dimensional, because weight decay applies to matrices.
        self.weights = nn.Parameter(torch.tensor([1.0 / targets.count(target) for target in targets]))

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        tasks = tuple(tasks)
        mask = padding_mask(lengths, x.shape[1])
        shared = self.shared(x, lengths)
        sources = {source for source, target in self.edges if target in tasks}
        needed = [task for task in self.tasks if task in tasks or task in sources]
        before = {task: shared + self.task_heads[task](shared) for task in needed}
        messages = {task: self.messages[task](before[task]) for task in needed if task in sources}
        after = {task: before[task] for task in tasks}
        for weight, (source, target) in zip(self.weights, self.edges, strict=True):
            if target in tasks:
                message = weight * messages[source]
                after[target] = after[target] + message
                self.see_ratio(f"{source} {target}", message, before[target], mask)
        return after

    def shared_parameters(self) -> list[nn.Parameter]:
        """The encoder, and the modules of senders, which their receivers train too."""
        senders = {source for source, _ in self.edges}
        return self._outside_of(task for task in self.tasks if task not in senders)

    def diagnostics(self) -> dict[str, Tensor]:
        """edges (K to, K from): norm of the message over that of the receiver's state, mean over frames; 0: no edge."""
        edges = torch.zeros(len(self.tasks), len(self.tasks))
        means = self.means("edges", [f"{source} {target}" for source, target in self.edges], len(self.edges))
        for (source, target), size in zip(self.edges, means.get("edges", ()), strict=False):
            edges[self.tasks.index(target), self.tasks.index(source)] = size
        return {"edges": edges} if means else {}
