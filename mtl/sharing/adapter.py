"""Task-routed residual adapters in one shared encoder (Houlsby et al. 2019), and FiLM (Perez et al. 2018).

mtl.inference.adaptation and mtl.models.domains use both for speakers and domains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtl.config.sharing import AdapterSettings
from mtl.layers.encoder import padding_mask
from mtl.sharing.base import SHARED, Layer, MakeEncoder, Trunk


class Adapter(nn.Module):
    """x + up(SiLU(down(LayerNorm(x)))); up is zero initially. (B, T, D) -> same."""

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
    """x + x * gamma + beta from a condition, (R,) for all rows or (B, R): x (B, T, D) -> same; zero initially."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(2 * width, rank))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale_shift = F.linear(condition, self.up)
        gamma, beta = (scale_shift if condition.ndim == 1 else scale_shift[:, None]).chunk(2, dim=-1)
        return x + x * gamma + beta


class AdapterTrunk(Trunk):
    """An adapter of each task after each shared block, whose output is the input of the next block.

    The first block runs once, the others once for each task, which takes about as long as soft sharing. Tasks are not
    batched, because rounding depends on the shape, and an adapter at zero must not change the states.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: AdapterSettings
    ) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        self.adapters = nn.ModuleDict(
            {
                task: nn.ModuleList(Adapter(width, settings.bottleneck, dropout) for _ in self.shared.blocks)
                for task in tasks
            }
        )

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        mask = padding_mask(lengths, x.shape[1])
        first, *others = self.shared.blocks
        common = first(x, mask)
        states = {}
        for task in tasks:
            entry, *adapters = cast(nn.ModuleList, self.adapters[task])
            state = self._adapted(0, task, entry, common, mask)
            for depth, (block, adapter) in enumerate(zip(others, adapters, strict=True), start=1):
                state = self._adapted(depth, task, adapter, block(state, mask), mask)
            states[task] = state
        return states

    def _adapted(self, depth: int, task: str, adapter: nn.Module, before: Tensor, mask: Tensor) -> Tensor:
        after = adapter(before)
        if not self.training:
            self.see_ratio(f"{depth} {task}", after - before, before, mask)
        return after

    def layers(self) -> dict[Layer, nn.Module]:
        """The first block, and the adapters of each task, whose outputs enter the next block."""
        layers: dict[Layer, nn.Module] = {Layer(SHARED, "block 1"): self.shared.blocks[0]}
        for task in self.tasks:
            for depth, adapter in enumerate(cast(nn.ModuleList, self.adapters[task])):
                layers[Layer(task, f"block {depth + 1}")] = adapter
        return layers

    def diagnostics(self) -> dict[str, Tensor]:
        """adapters (blocks, K): norm of an adapter's output over that of its input, mean over frames."""
        blocks = len(self.shared.blocks)
        names = [f"{depth} {task}" for depth in range(blocks) for task in self.tasks]
        return self.means("adapters", names, blocks, len(self.tasks))
