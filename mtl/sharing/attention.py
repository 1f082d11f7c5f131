"""Soft attention of each task on the states of one shared encoder, after MTAN (Liu, Johns and Davison 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl.config.sharing import AttentionSettings
from mtl.layers.encoder import padding_mask
from mtl.sharing.base import MakeEncoder, Trunk

OPEN = 2.0  # initial bias of a mask: sigmoid(2) = 0.88


class Mask(nn.Module):
    """LayerNorm, narrow, ReLU, widen, sigmoid: (B, T, inputs) -> a mask (B, T, D) in fp32, frame by frame."""

    def __init__(self, inputs: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.narrow = nn.Linear(inputs, bottleneck)
        self.widen = nn.Linear(bottleneck, width)
        nn.init.constant_(self.widen.bias, OPEN)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.widen(torch.relu(self.narrow(self.norm(x)))).float())


class AttentionTrunk(Trunk):
    """After each block l with shared states s_l: t_kl = m_kl(s_l, t_k,l-1) x s_l; the last is the output of task k.

    The shared blocks do not depend on the masks, so they run once for all tasks.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: AttentionSettings
    ) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        self.width, self.blocks = width, len(self.shared.blocks)
        self.masks = nn.ModuleDict(
            {
                task: nn.ModuleList(
                    Mask(width if depth == 0 else 2 * width, width, settings.bottleneck) for depth in range(self.blocks)
                )
                for task in tasks
            }
        )

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        tasks = tuple(tasks)
        mask = padding_mask(lengths, x.shape[1])
        states: dict[str, Tensor] = {}
        for depth, block in enumerate(self.shared.blocks):
            x = block(x, mask)
            for task in tasks:
                seen = torch.cat((x, states[task]), dim=-1) if depth else x
                attention = cast(nn.ModuleList, self.masks[task])[depth](seen)
                states[task] = attention * x
                self.see(f"{depth} {task}", attention.flatten(0, 1), mask.flatten())
        return states

    def diagnostics(self) -> dict[str, Tensor]:
        """masks (blocks, K, D): mean over frames."""
        names = [f"{depth} {task}" for depth in range(self.blocks) for task in self.tasks]
        return self.means("masks", names, self.blocks, len(self.tasks), self.width)
