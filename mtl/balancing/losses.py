"""Scalarizers: a step's weights from the losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchjd import scalarization

from mtl.balancing.adam import VectorAdam
from mtl.balancing.method import Method
from mtl.config.balancing import DWASettings, FAMOSettings, STCHSettings

TINY = 1e-8  # keeps a loss of zero away from logarithms


def derivative(scalarizer: nn.Module, losses: Tensor) -> Tensor:
    """dS/dL at the losses, detached."""
    losses = losses.detach().requires_grad_()
    return torch.autograd.grad(scalarizer(losses), losses)[0]


class Separable(Method):
    """A sum over tasks, each term linear in its own loss: the constant, UW, IMTL-L. Weights need no losses."""

    needs = "nothing"

    def __init__(self, scalarizer: nn.Module) -> None:
        super().__init__()
        self.scalarizer = scalarizer

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        return derivative(self.scalarizer, torch.zeros_like(losses)) * present

    def total(self, losses: Tensor) -> Tensor:
        return self.scalarizer(losses)


class Joint(Method):
    """A stateless scalarizer of whichever losses are there, such as the geometric mean."""

    def __init__(self, scalarizer: nn.Module, needs: str = "losses") -> None:
        super().__init__()
        self.scalarizer, self.needs = scalarizer, needs

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        there = losses[present].cpu().clamp(min=TINY)  # on the CPU, whose generator is the one that is seeded
        weights = torch.zeros_like(losses)
        weights[present] = derivative(self.scalarizer, there).to(losses.device)
        return weights


class DWA(Method):
    """Dynamic weight average (Liu et al. 2019): softmax over tasks of (last epoch's loss / the one before) / T.

    A task's epoch loss is its mean over the steps that had it; until two epochs of it are known its rate is 1.
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
        heard = self.counts > 0
        self.previous = torch.where(heard, self.last, self.previous)
        self.last = torch.where(heard, self.sums / self.counts.clamp(min=1), self.last)
        self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)


class FAMO(Method):
    """Fast adaptive multitask optimisation (Liu et al. 2023): every log loss is to fall at the same rate.

    After each step the logits move by how much the losses of that same batch fell: this costs one more forward pass.
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


def static(count: int, settings: object) -> Separable:
    """The sum: lambda_k is the Balancer's, so weights here are 1."""
    return Separable(scalarization.Sum())


def random(count: int, settings: object) -> Joint:
    """Lin et al. 2022."""
    return Joint(scalarization.Random(), needs="nothing")


def uncertainty(count: int, settings: object) -> Separable:
    """Kendall et al. 2018."""
    return Separable(scalarization.UW(count))


def imtl_l(count: int, settings: object) -> Separable:
    """Liu et al. 2021."""
    return Separable(scalarization.IMTLL(count))


def geometric_mean(count: int, settings: object) -> Joint:
    """Chennupati et al. 2019."""
    return Joint(scalarization.GeometricMean())


def stch(count: int, settings: STCHSettings) -> Joint:
    """Lin et al. 2024."""
    return Joint(scalarization.STCH(settings.smoothing))
