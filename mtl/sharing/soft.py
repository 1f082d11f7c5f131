"""Soft sharing: an encoder for each task, tied by the distance between their parameters (Duong et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from mtl.config.sharing import SoftSettings
from mtl.layers.encoder import Encoder
from mtl.sharing.base import MakeEncoder, Trunk, start_alike


class SoftTrunk(Trunk):
    """An encoder per task; the penalty is lambda x sum over pairs of D(theta_i, theta_j)."""

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: SoftSettings
    ) -> None:
        super().__init__(tasks)
        self.strength, self.distance = settings.strength, DISTANCES[settings.distance]
        self.encoders = nn.ModuleDict({task: encoder() for task in tasks})
        start_alike(list(self.encoders.values()))  # the initial distance is zero

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        return {task: self.encoders[task](x, lengths) for task in tasks}

    def penalty(self) -> Tensor:
        per_task = [list(self.encoders[task].parameters()) for task in self.tasks]
        total = super().penalty()
        for one, other in combinations(per_task, 2):
            total = total + self.distance(one, other)
        return self.strength * total

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """distances (blocks, K, K): between the encoders of two tasks, over the mean of their norms."""
        per_block = zip(*(cast(Encoder, self.encoders[task]).blocks for task in self.tasks), strict=True)
        return {"distances": torch.stack([_distances(blocks) for blocks in per_block]).cpu()}


def _distances(blocks: Sequence[nn.Module]) -> Tensor:
    """(K, K) for one block of K encoders."""
    flat = torch.stack([torch.cat([p.flatten().float() for p in block.parameters()]) for block in blocks])  # (K, P)
    length = flat.norm(dim=1)
    apart = torch.stack([(flat - row).norm(dim=1) for row in flat])
    return 2 * apart / (length[:, None] + length)


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
