"""What every balancing method is: a step's weights, and the moments of training at which it may learn.

A new one is a subclass in the file of its family (losses.py or gradients.py), registered in mtl/config/balancing.py.
It is made from the number of tasks and its settings.
"""

from __future__ import annotations

from torch import Tensor, nn


class Method(nn.Module):
    """Base. Its losses (K,) are global means, lambda_k included; its state lies in buffers, its own parameters are
    (K,) each, and what belongs to a task absent from the step stays as it was."""

    needs: str = "losses"  # what weights need: "nothing", "losses" or "gramian"; see mtl.balancing
    observes_change: bool = False  # whether `observe_change` is called: it costs one more forward pass a step

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        """losses (K,), zeros where not needed; present (K,) bool; gramian (K, K) where needed -> weights (K,), zero
        for absent tasks."""
        raise NotImplementedError

    def total(self, losses: Tensor) -> Tensor:
        """S, the scalar that the method's own parameters are trained on; asked only of a method that has some."""
        raise NotImplementedError

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Called after each step."""

    def observe_change(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Called after each step with the losses (K,) of its batch before and after it, where `observes_change`."""

    def end_epoch(self) -> None:
        """Called after each epoch."""
