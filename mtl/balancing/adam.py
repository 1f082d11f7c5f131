"""Adam (Kingma and Ba 2015) for a vector with one entry per task; entries of absent tasks do not change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class VectorAdam(nn.Module):
    """The moments are buffers, so they are part of the state_dict."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    def __init__(self, count: int, rate: float, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.rate, self.weight_decay = rate, weight_decay
        for name in ("mean", "square", "steps"):
            self.register_buffer(name, torch.zeros(count))

    def step(self, values: Tensor, gradient: Tensor, present: Tensor) -> None:
        """Updates values (K,) in place where present (K,)."""
        gradient = gradient + self.weight_decay * values
        self.steps += present
        self.mean += present * (1 - BETA1) * (gradient - self.mean)
        self.square += present * (1 - BETA2) * (gradient.square() - self.square)
        clock = self.steps.clamp(min=1)
        size = (self.square / (1 - BETA2**clock)).sqrt() + EPSILON
        values -= torch.where(present, self.rate * self.mean / (1 - BETA1**clock) / size, 0.0)
