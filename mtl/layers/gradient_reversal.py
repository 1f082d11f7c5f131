"""Gradient reversal (Ganin and Lempitsky 2015): the head learns a task, the shared layers unlearn it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reverse(x: Tensor, strength: float) -> Tensor:
    """Returns x unchanged; multiplies its gradient by -strength."""
    unchanged: Tensor = _Reverse.apply(x, strength)
    return unchanged


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None
