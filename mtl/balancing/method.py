"""Base of balancing methods. To add one, write a subclass and register it in mtl/config/balancing.py."""

from __future__ import annotations

from torch import Tensor, nn


class Method(nn.Module):
    """Base, created with the number of tasks and its settings.

    Losses (K,) are global means scaled by lambda_k. State is stored in buffers; parameters are (K,) each. The state of
    absent tasks must not change.
    """

    needs: str = "losses"  # "nothing", "losses" or "gramian"; see mtl.balancing
    observes_change: bool = False  # whether `observe_change` is called, which costs one more forward pass a step

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        """losses (K,); present (K,) bool; gramian (K, K) if needed -> weights (K,), zero for absent tasks."""
        raise NotImplementedError

    def total(self, losses: Tensor) -> Tensor:
        """S, the scalar that the method's parameters are trained on, if it has any."""
        raise NotImplementedError

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Called after each step with its losses (K,)."""

    def observe_change(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Called after each step with the losses (K,) of its batch before and after it."""

    def end_epoch(self) -> None:
        """Called after each epoch."""
