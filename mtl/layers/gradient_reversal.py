"""Gradient reversal (Ganin and Lempitsky 2015): a head learns what what is shared is to forget."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reverse(x: Tensor, strength: float) -> Tensor:
    """x as it is; its gradient goes on with the other sign, `strength` times as large."""
    turned: Tensor = _Reverse.apply(x, strength)
    return turned


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradient, None
