"""Cross-stitch units between the blocks of one encoder per task (Misra et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl.config.sharing import ModeSettings
from mtl.layers.encoder import Encoder, padding_mask
from mtl.sharing.base import MakeEncoder, Trunk, mix, start_alike

OWN = 0.9  # initial share of a task's own states; the rest is divided between the other tasks


class CrossStitchTrunk(Trunk):
    """After each block l the states of task k become sum_j A_l[k, j] x (states of task j); A_l (K, K) is learned; its
    rows sum to one initially. The paper has one number per pair of tasks and channel, here there is one per pair.

    All encoders always run, because each feeds the others. They have the same initial parameters, as in the paper,
    where they start from one pre-trained network.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: ModeSettings
    ) -> None:
        super().__init__(tasks)
        encoders = [encoder() for _ in tasks]
        start_alike(encoders)
        self.encoders = nn.ModuleDict(dict(zip(tasks, encoders, strict=True)))
        self.blocks, count = len(encoders[0].blocks), len(encoders)
        others = (1 - OWN) / max(count - 1, 1)
        unit = torch.full((count, count), others).fill_diagonal_(OWN if count > 1 else 1.0)
        # One-dimensional, because weight decay applies to matrices.
        self.units = nn.Parameter(unit.flatten().repeat(self.blocks))

    def matrices(self) -> Tensor:
        """(blocks, K to, K from)."""
        return self.units.view(self.blocks, len(self.tasks), len(self.tasks))

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        mask = padding_mask(lengths, x.shape[1])
        chosen = [self.tasks.index(task) for task in tasks]
        states: Sequence[Tensor] = [x] * len(self.tasks)
        for depth, matrix in enumerate(self.matrices()):
            after = [
                cast(Encoder, encoder).blocks[depth](state, mask)
                for encoder, state in zip(self.encoders.values(), states, strict=True)
            ]
            states = mix(matrix if depth + 1 < self.blocks else matrix[chosen], after).unbind()
        return {self.tasks[index]: state for index, state in zip(chosen, states, strict=True)}

    def shared_parameters(self) -> list[nn.Parameter]:
        """All, because every encoder feeds every task."""
        return list(self.parameters())

    def diagnostics(self) -> dict[str, Tensor]:
        """units (blocks, K to, K from)."""
        return {"units": self.matrices().detach().float().cpu()}
