"""Trunks: how much of the encoder the tasks share. To add a sharing mode, write a Trunk and name it in TRUNKS.

A trunk's contract, for every mode:
    forward(x (B, T, D), lengths (B,), tasks) -> {task: (B, T, D)}   runs only what the named tasks need
    penalty() -> scalar                                              joins the loss once a step
    shared_parameters()                                              whose gradients are balanced between tasks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from mtl.encoder import Encoder, FeedForward

MakeEncoder = Callable[[], Encoder]


class Trunk(nn.Module):
    """Base of every sharing mode; see the module's docstring for the contract."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        raise NotImplementedError

    def penalty(self) -> Tensor:
        return next(self.parameters()).new_zeros(())

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that several tasks train: all but what lies in a module named after a task.

        A mode whose tasks reach into each other's modules gives its own answer.
        """
        return [p for name, p in self.named_parameters() if not set(name.split(".")) & set(self.tasks)]


class HardTrunk(Trunk):
    """Hard sharing: f_k(x) = h(g(x)) + t_k(g(x)), g the shared encoder, h a shared head, t_k the task's own.

    The heads are as wide as the states: they run once per task on every frame, and at the encoder's expansion of 4
    those of six tasks would cost as much as two more of its blocks.
    """

    def __init__(self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, **_: object) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        self.shared_head = FeedForward(width, 1, dropout)
        self.task_heads = nn.ModuleDict({task: FeedForward(width, 1, dropout) for task in tasks})

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        shared = self.shared(x, lengths)
        common = shared + self.shared_head(shared)
        return {task: common + self.task_heads[task](shared) for task in tasks}


class SoftTrunk(Trunk):
    """Soft sharing: an encoder per task, held together by lambda x sum over pairs of D(theta_i, theta_j)."""

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, strength: float, distance: str = "l2", **_: object
    ) -> None:
        super().__init__(tasks)
        self.strength, self.distance = strength, DISTANCES[distance]
        self.encoders = nn.ModuleDict({task: encoder() for task in tasks})
        start = self.encoders[self.tasks[0]].state_dict()
        for encoder_ in self.encoders.values():  # a common start: the distance is zero before training
            encoder_.load_state_dict(start)

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        return {task: self.encoders[task](x, lengths) for task in tasks}

    def penalty(self) -> Tensor:
        per_task = [list(self.encoders[task].parameters()) for task in self.tasks]
        total = super().penalty()
        for one, other in combinations(per_task, 2):
            total = total + self.distance(one, other)
        return self.strength * total


Parameters = Sequence[Tensor]


def squared_l2(one: Parameters, other: Parameters) -> Tensor:
    """sum (a - b)^2 over all parameters."""
    return torch.stack([(a - b).square().sum() for a, b in zip(one, other, strict=True)]).sum()


def l1(one: Parameters, other: Parameters) -> Tensor:
    """sum |a - b| over all parameters."""
    return torch.stack([(a - b).abs().sum() for a, b in zip(one, other, strict=True)]).sum()


def cosine(one: Parameters, other: Parameters) -> Tensor:
    """1 - cos(a, b), all parameters of an encoder taken as one vector."""
    dot = torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
    norms = [torch.stack([a.square().sum() for a in side]).sum().sqrt() for side in (one, other)]
    return 1 - dot / (norms[0] * norms[1])


DISTANCES: dict[str, Callable[[Parameters, Parameters], Tensor]] = {"l2": squared_l2, "l1": l1, "cosine": cosine}
TRUNKS: dict[str, Callable[..., Trunk]] = {"hard": HardTrunk, "soft": SoftTrunk}
