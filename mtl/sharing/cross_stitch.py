"""Cross-stitch units between the blocks of one encoder per task (Misra et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mtl.config.sharing import ModeSettings
from mtl.layers.encoder import Encoder, padding_mask
from mtl.sharing.base import MakeEncoder, Trunk, mix, start_alike

OWN = 0.9  # what a task keeps of its own states at the start; the rest comes evenly from the others


class CrossStitchTrunk(Trunk):
    """After each block l task k goes on with sum_j A_l[k, j] x (task j's states); A_l (K, K) is learned, rows of it
    sum to one at the start. One number for a pair of tasks, where the paper has one for each channel.

    All encoders run, whichever tasks are asked for: each feeds the others. They start alike, as the paper's start
    from one pre-trained network, or the mixtures would be of unrelated coordinates.
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
        # Kept flat: weight decay falls on matrices, and would pull the units towards silence.
        self.units = nn.Parameter(unit.flatten().repeat(self.blocks))

    def matrices(self) -> Tensor:
        """(blocks, K to, K from)."""
        return self.units.view(self.blocks, len(self.tasks), len(self.tasks))

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        mask = padding_mask(lengths, x.shape[1])
        asked = [self.tasks.index(task) for task in tasks]
        states: Sequence[Tensor] = [x] * len(self.tasks)
        for depth, matrix in enumerate(self.matrices()):
            after = [
                cast(Encoder, encoder).blocks[depth](state, mask)
                for encoder, state in zip(self.encoders.values(), states, strict=True)
            ]
            states = mix(matrix if depth + 1 < self.blocks else matrix[asked], after).unbind()
        return {self.tasks[index]: state for index, state in zip(asked, states, strict=True)}

    def shared_parameters(self) -> list[nn.Parameter]:
        """All: every encoder feeds every task."""
        return list(self.parameters())

    def diagnostics(self) -> dict[str, Tensor]:
        """units (blocks, K to, K from)."""
        return {"units": self.matrices().detach().float().cpu()}
