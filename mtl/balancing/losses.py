"""Scalarizers: weights of a step from the losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchjd import scalarization

from mtl.balancing.adam import VectorAdam
from mtl.balancing.method import Method
from mtl.config.balancing import DWASettings, FAMOSettings, STCHSettings

TINY = 1e-8  # lower limit of a loss in a logarithm


def derivative(scalarizer: nn.Module, losses: Tensor) -> Tensor:
    """dS/dL, detached."""
    losses = losses.detach().requires_grad_()
    return torch.autograd.grad(scalarizer(losses), losses)[0]


class Separable(Method):
    """A sum over tasks of terms that are linear in the loss: constant weights, UW, IMTL-L."""

    needs = "nothing"

    def __init__(self, scalarizer: nn.Module) -> None:
        super().__init__()
        self.scalarizer = scalarizer

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        return derivative(self.scalarizer, torch.zeros_like(losses)) * present

    def total(self, losses: Tensor) -> Tensor:
        return self.scalarizer(losses)


class Joint(Method):
    """A stateless scalarizer of the present losses, such as the geometric mean."""

    def __init__(self, scalarizer: nn.Module, needs: str = "losses") -> None:
        super().__init__()
        self.scalarizer, self.needs = scalarizer, needs

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        weights = torch.zeros_like(losses)
        losses = losses[present].cpu().clamp(min=TINY)  # on the CPU, whose random generator is seeded
        weights[present] = derivative(self.scalarizer, losses).to(weights.device)
        return weights


class DWA(Method):
    """Dynamic weight average (Liu et al. 2019): softmax over tasks of (last epoch's loss / the one before) / T.

    The epoch loss of a task is its mean over the steps with the task; the rate is 1 until two epochs are known.
    """

    needs = "nothing"
    sums: Tensor
    counts: Tensor
    last: Tensor
    previous: Tensor

    def __init__(self, count: int, settings: DWASettings) -> None:
        super().__init__()
        self.temperature = settings.temperature
        for name, value in {"sums": 0.0, "counts": 0.0, "last": torch.nan, "previous": torch.nan}.items():
            self.register_buffer(name, torch.full((count,), value))

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        rate = (self.last / self.previous.clamp(min=TINY)).nan_to_num(nan=1.0)
        return present.sum() * torch.softmax((rate / self.temperature).masked_fill(~present, -torch.inf), dim=0)

    def observe(self, losses: Tensor, present: Tensor) -> None:
        self.sums += losses * present
        self.counts += present

    def end_epoch(self) -> None:
        known = self.counts > 0
        self.previous = torch.where(known, self.last, self.previous)
        self.last = torch.where(known, self.sums / self.counts.clamp(min=1), self.last)
        self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)


class FAMO(Method):
    """Fast adaptive multitask optimisation (Liu et al. 2023): all log losses should fall at the same rate.

    After each step the logits are updated from the fall of the losses on the same batch.
    """

    observes_change = True
    logits: Tensor

    def __init__(self, count: int, settings: FAMOSettings) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(count))
        self.adam = VectorAdam(count, settings.rate, weight_decay=1e-3)  # gamma of the paper

    def share(self, present: Tensor) -> Tensor:
        return torch.softmax(self.logits.masked_fill(~present, -torch.inf), dim=0)

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        scaled = self.share(present) / (losses + TINY)
        return scaled / scaled.sum()

    def observe_change(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        fall = torch.where(present, (before + TINY).log() - (after + TINY).log(), 0.0)
        share = self.share(present)
        self.adam.step(self.logits, share * (fall - (share * fall).sum()), present)


def _factory(kind: type[Method], make: Callable[[int], nn.Module], **options: str) -> Callable[[int, object], Method]:
    """Method of the number of tasks and its settings, of which there are none."""
    return lambda count, settings: kind(make(count), **options)


static = _factory(Separable, lambda count: scalarization.Sum())  # lambda_k is the Balancer's, so weights are 1
random = _factory(Joint, lambda count: scalarization.Random(), needs="nothing")  # Lin et al. 2022
uncertainty = _factory(Separable, scalarization.UW)  # Kendall et al. 2018
imtl_l = _factory(Separable, scalarization.IMTLL)  # Liu et al. 2021
geometric_mean = _factory(Joint, lambda count: scalarization.GeometricMean())  # Chennupati et al. 2019


def stch(count: int, settings: STCHSettings) -> Joint:
    """Lin et al. 2024."""
    return Joint(scalarization.STCH(settings.smoothing))
