"""How the tasks' losses become one: torchjd's scalarizers, made exact under data parallelism and accumulation.

A scalarizer S maps the K mean losses to one number. The gradient of S(L(theta)) is sum_k dS/dL_k grad L_k, so a step
needs only the weights w_k = dS/dL_k at the losses' global means; each micro-batch on each rank then back-propagates
sum_k w_k x (its summed loss_k / the global count_k). The scalarizer's own parameters take their gradient from the
same global means, so they are equal on every rank without any communication of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchjd import scalarization


class Balancer(nn.Module):
    """Static weights lambda_k times a scalarizer. Tasks keep one order on every rank."""

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float], method: str = "static") -> None:
        super().__init__()
        if method not in SCALARIZERS:
            raise ValueError(f"balancing method {method!r} is not known; expected one of {', '.join(SCALARIZERS)}")
        self.tasks = tuple(tasks)
        self.static: Tensor
        self.register_buffer("static", torch.tensor([float(weights.get(task, 1.0)) for task in tasks]))
        self.scalarizer = SCALARIZERS[method](len(self.tasks))

    def weights(self, present: Tensor) -> Tensor:
        """dS/dL (K,), detached, zero for absent tasks; present (K,) bool: the tasks labelled in this step.

        Every scalarizer here is linear in the losses, so its weights need no losses. (K,) detached.
        """
        losses = torch.zeros_like(self.static, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.scalarizer(losses * self.static), losses)
        return gradient * present

    def accumulate(self, losses: Tensor, present: Tensor) -> Tensor:
        """Adds dS/d(own parameters) at the global mean losses (K,) to their .grad; returns S, detached.

        A task absent from the step leaves its own parameter alone: its weight must not drift while nothing is heard.
        """
        total = self.scalarizer(losses.detach() * self.static)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if parameters:
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient * present if gradient.shape == present.shape else gradient
        return total.detach()


def _constant(count: int) -> nn.Module:
    return scalarization.Constant(torch.ones(count))


def _uncertainty(count: int) -> nn.Module:
    """Homoscedastic uncertainty weighting (Kendall et al. 2018)."""
    return scalarization.UW(count)


SCALARIZERS = {"static": _constant, "uncertainty": _uncertainty}
