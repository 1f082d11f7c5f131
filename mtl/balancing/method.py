"""What every balancing method is: a step's weights, and the moments of training at which it may learn.

A new one is a subclass and a line of METHODS, both in the file of its family (mtl.balancing.losses or .gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    temperature: float = 2.0  # dwa: higher is more even
    smoothing: float = 0.1  # stch: mu; lower is nearer to the worst loss alone
    radius: float = 0.5  # cagrad: c, how far from the mean gradient the step may be, as a share of its length
    fairness: float = 2.0  # fairgrad: alpha; 1 is proportional fairness, infinity max-min
    asymmetry: float = 1.5  # gradnorm: alpha, how hard slow tasks are pulled along
    rate: float = 0.025  # famo, gradnorm: learning rate of their own weights


class Method(nn.Module):
    """Base. Its losses (K,) are global means, lambda_k included; its state lies in buffers, its own parameters are
    (K,) each, and what belongs to a task absent from the step stays as it was."""

    needs: str = "losses"  # what weights need: "nothing", "losses" or "gramian"; see mtl.balancing
    looks_back: bool = False  # whether `look_back` is called: it costs one more forward pass a step

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        """losses (K,), zeros where not needed; present (K,) bool; gramian (K, K) where needed -> weights (K,), zero
        for absent tasks."""
        raise NotImplementedError

    def total(self, losses: Tensor) -> Tensor:
        """S, the scalar that the method's own parameters are trained on; asked only of a method that has some."""
        raise NotImplementedError

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Called after each step."""

    def look_back(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Called after each step with the losses (K,) of its batch before and after it, where `looks_back`."""

    def end_epoch(self) -> None:
        """Called after each epoch."""


Make = Callable[[int, Settings], Method]  # from the number of tasks
