"""Task-routed residual adapters in one shared encoder (Houlsby et al. 2019), and FiLM (Perez et al. 2018).

Both are also used to tell a model of its speaker (mtl.personal) and of a recording's domain (mtl.domains).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl.encoder import padding_mask
from mtl.sharing.base import MakeEncoder, Trunk


class Adapter(nn.Module):
    """x + up(SiLU(down(LayerNorm(x)))); up starts at zero, so that at first x passes bit for bit. (B, T, D) -> same."""

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.up(F.silu(self.down(self.norm(x)))))


class Film(nn.Module):
    """x + x * gamma + beta from a condition, (R,) for all rows or (B, R): x (B, T, D) -> same; starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(2 * width, rank))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        found = F.linear(condition, self.up)
        gamma, beta = (found if condition.ndim == 1 else found[:, None]).chunk(2, dim=-1)
        return x + x * gamma + beta


class AdapterTrunk(Trunk):
    """After each shared block the states go through the task's own adapter, and so into the next block.

    The first block runs once; the others run once for each task asked for, since their inputs differ. Few parameters,
    but about the time of soft sharing. One task after the other, not as one large batch: products of another
    shape round differently, and an adapter at zero must leave the encoder's states bit for bit.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, bottleneck: int, **_: object
    ) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        self.adapters = nn.ModuleDict(
            {task: nn.ModuleList(Adapter(width, bottleneck, dropout) for _ in self.shared.blocks) for task in tasks}
        )

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        mask = padding_mask(lengths, x.shape[1])
        first, *others = self.shared.blocks
        common = first(x, mask)
        states = {}
        for task in tasks:
            entry, *adapters = cast(nn.ModuleList, self.adapters[task])
            state = entry(common)
            for block, adapter in zip(others, adapters, strict=True):
                state = adapter(block(state, mask))
            states[task] = state
        return states
