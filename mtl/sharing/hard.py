"""Hard sharing: one encoder for all tasks (Caruana 1997), and a small head for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from mtl.config.sharing import HardSettings
from mtl.layers.encoder import FeedForward
from mtl.sharing.base import MakeEncoder, Trunk


class HardTrunk(Trunk):
    """f_k(x) = h(g(x)) + t_k(g(x)), g the shared encoder, h a shared head with a residual path, t_k the task's own.

    The heads are only as wide as the states, because they run for every task on every frame. Without encoder blocks
    (model.blocks: 0) they are zero initially and have no dropout; front-end and tasks have their own.
    """

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: HardSettings
    ) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        if not self.shared.blocks:
            dropout = 0.0
        self.shared_head = FeedForward(width, 1, dropout)
        heads = {task: FeedForward(width, 1, dropout) for task in tasks}
        self.task_heads = nn.ModuleDict(heads)
        if not self.shared.blocks:
            for head in (self.shared_head, *heads.values()):
                nn.init.zeros_(head.narrow.weight)
                nn.init.zeros_(head.narrow.bias)

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        shared = self.shared(x, lengths)
        common = shared + self.shared_head(shared)
        return {task: common + self.task_heads[task](shared) for task in tasks}
