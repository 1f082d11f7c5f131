"""A balancing method of a plug-in: weights inversely proportional to a power of the losses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mtl.balancing.method import Method
from mtl.config.balancing import METHODS
from mtl.config.setting import setting


@dataclass(frozen=True)
class InverseSettings:
    power: float = setting(1.0, "Exponent of the losses; 0 is the plain mean.", ge=0)


class Inverse(Method):
    """w_k proportional to L_k ** -power over the tasks of the step, with mean 1."""

    needs = "losses"

    def __init__(self, count: int, settings: InverseSettings) -> None:
        super().__init__()
        self.power = settings.power

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        weights = losses.clamp(min=1e-8) ** -self.power * present
        return weights * present.sum() / weights.sum()


METHODS.register("inverse", Inverse, InverseSettings)
