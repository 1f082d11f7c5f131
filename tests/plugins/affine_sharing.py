"""A sharing mode of a plug-in: one encoder, whose states each task scales and shifts by channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl.config.setting import setting
from mtl.config.sharing import MODES, ModeSettings
from mtl.sharing.base import MakeEncoder, Trunk


@dataclass(frozen=True)
class AffineSettings(ModeSettings):
    initial_scale: float = setting(1.0, "Scale of every channel at the start.", gt=0)


class AffineTrunk(Trunk):
    """f_k(x) = a_k * g(x) + b_k with the shared encoder g."""

    def __init__(
        self, tasks: Sequence[str], encoder: MakeEncoder, width: int, dropout: float, settings: AffineSettings
    ) -> None:
        super().__init__(tasks)
        self.shared = encoder()
        self.scale = nn.ParameterDict(
            {task: nn.Parameter(torch.full((width,), settings.initial_scale)) for task in tasks}
        )
        self.shift = nn.ParameterDict({task: nn.Parameter(torch.zeros(width)) for task in tasks})

    def forward(self, x: Tensor, lengths: Tensor, tasks: Iterable[str]) -> dict[str, Tensor]:
        states = self.shared(x, lengths)  # (B, T, D), once for all tasks
        return {task: self.scale[task] * states + self.shift[task] for task in tasks}


MODES.register("affine", AffineTrunk, AffineSettings)
