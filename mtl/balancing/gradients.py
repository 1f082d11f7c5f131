"""Weightings: a step's weights from the Gramian of the tasks' gradients of the shared parameters.

The Gramian of the present tasks is taken to the CPU in fp64: K is small, and several methods invert or factorise it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.linalg import DualConeProjector

from mtl.balancing.adam import VectorAdam
from mtl.balancing.method import Method
from mtl.balancing.solver import bounded_quadratic, fair, minimise
from mtl.config.balancing import CAGradSettings, FairGradSettings, GradNormSettings

LOWEST = 1e-3  # of a GradNorm weight
MAX_NORM = 1.0  # of a NashMTL step, the authors' own
TINY = 1e-12


class GramianMethod(Method):
    """Base: hands `of_present` the present tasks' part, and puts its weights in their places."""

    needs = "gramian"

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None
        index = present.nonzero()[:, 0].cpu()
        there = gramian.cpu().double()[index][:, index]
        weights = torch.zeros(len(gramian), dtype=torch.float64)
        if torch.isfinite(there).all():
            weights[index] = self.of_present(there, losses.cpu().double()[index], index)
        else:
            weights[index] = torch.nan  # a factorisation would fail without saying which task it was
        return weights.to(losses)

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        """(M, M), (M,) and the present tasks' positions (M,) -> (M,)."""
        raise NotImplementedError


class Stateless(GramianMethod):
    """One of torchjd's weightings that keep nothing from step to step."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        return self.weighting(gramian)


def mgda(count: int, settings: object) -> Stateless:
    """Désidéri 2012, as in Sener and Koltun 2018: the shortest vector in the gradients' convex hull."""
    return Stateless(aggregation.MGDAWeighting())


def pcgrad(count: int, settings: object) -> Stateless:
    """Yu et al. 2020: what conflicts with another task's gradient is projected away, in random order."""
    return Stateless(aggregation.PCGradWeighting())


def imtl_g(count: int, settings: object) -> Stateless:
    """Liu et al. 2021: equal projections on all normalised gradients."""
    return Stateless(aggregation.IMTLGWeighting())


def aligned_mtl(count: int, settings: object) -> Stateless:
    """Senushkin et al. 2023: the nearest orthogonal system of gradients."""
    return Stateless(aggregation.AlignedMTLWeighting())


def upgrad(count: int, settings: object) -> Stateless:
    """Quinton and Rey 2024: each gradient projected on the dual cone of all, then the mean."""
    return Stateless(aggregation.UPGradWeighting(projector=_Projector()))


class _Projector(DualConeProjector):
    """min w'Gw subject to w >= u, without the optional package that torchjd's own projector needs."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        gramian = _normalised(G.numpy())
        return torch.from_numpy(np.stack([bounded_quadratic(gramian, row) for row in U.numpy()]))


class GradVac(GramianMethod):
    """Wang et al. 2021: gradients are turned until their cosines reach a moving average of those seen before.

    torchjd's weighting forgets its averages when the number of tasks changes; here each pair keeps its own.
    """

    targets: Tensor

    def __init__(self, count: int, settings: object) -> None:
        super().__init__()
        self.register_buffer("targets", torch.zeros(count, count, dtype=torch.float64))

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        weighting: Any = aggregation.GradVacWeighting()
        pairs = (index[:, None], index[None, :])
        targets = self.targets.cpu()
        weighting._phi_t, weighting._state_key = targets[pairs], (len(index), gramian.dtype)
        weights = weighting(gramian)
        targets[pairs] = weighting._phi_t
        self.targets.copy_(targets)
        return weights


class CAGrad(GramianMethod):
    """Liu et al. 2021 (conflict-averse): the best worst-case fall within `radius` of the mean gradient.

    torchjd's needs cvxpy and Clarabel; the problem has K unknowns on a simplex, and Newton's method solves it.
    """

    def __init__(self, count: int, settings: CAGradSettings) -> None:
        super().__init__()
        self.radius = settings.radius

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        matrix, count = _normalised(gramian.numpy()), len(index)
        to_mean = matrix.mean(axis=1)  # inner products with the mean gradient
        reach = self.radius * np.sqrt(max(to_mean.mean(), 0.0))

        def objective(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            product = matrix @ w
            length = np.sqrt(max(w @ product, 0.0) + TINY)
            curve = matrix / length - np.outer(product, product) / length**3
            return to_mean @ w + reach * length, to_mean + reach * product / length, reach * curve

        worst = minimise(objective, np.full(count, 1 / count), simplex=True)
        length = np.sqrt(max(worst @ matrix @ worst, 0.0))
        if length < 1e-4:  # the gradients cancel: a point that no task can leave without another's loss
            return torch.zeros(count, dtype=torch.float64)
        return torch.from_numpy(1 / count + reach / length * worst)


class NashMTL(GramianMethod):
    """Navon et al. 2022: the bargaining solution G a = 1 / a, the step no longer than MAX_NORM.

    It is where a'Ga / 2 - sum log a has its one minimum, found in a few Newton steps: torchjd's sequence of convex
    programs (which needs cvxpy and ECOS) and the last step's solution to start it from are not needed.
    """

    def __init__(self, count: int, settings: object) -> None:
        super().__init__()

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        matrix = gramian.numpy()
        alpha = fair(matrix / max(float(np.linalg.norm(matrix)), TINY), 1.0)
        length = np.sqrt(max(alpha @ matrix @ alpha, 0.0))
        return torch.from_numpy(alpha * min(1.0, MAX_NORM / max(length, TINY)))


class FairGrad(GramianMethod):
    """Ban and Ji 2024: G w = w^(-1/alpha). Solved as for NashMTL; torchjd's takes scipy's least squares."""

    def __init__(self, count: int, settings: FairGradSettings) -> None:
        super().__init__()
        self.fairness = settings.fairness

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        matrix = gramian.numpy()
        size = max(float(np.trace(matrix)), TINY)  # w for s x G is s^(-alpha / (1 + alpha)) x w for G
        found = fair(matrix / size, self.fairness)
        return torch.from_numpy(found * size ** (-self.fairness / (1 + self.fairness)))


class GradNorm(GramianMethod):
    """Chen et al. 2018: learned weights that bring w_k |g_k| to the tasks' mean, times (relative loss)^asymmetry.

    torchjd has none. The norms are those of all shared parameters; a task's first loss is that of its first step.
    """

    scale: Tensor
    first: Tensor

    def __init__(self, count: int, settings: GradNormSettings) -> None:
        super().__init__()
        self.asymmetry = settings.asymmetry
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("first", torch.full((count,), torch.nan))
        self.adam = VectorAdam(count, settings.rate)

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        self.first[index] = torch.where(self.first[index].isnan(), losses.to(self.first), self.first[index])
        norm = gramian.diagonal().clamp(min=0).sqrt()
        weights = self.scale[index].to(norm)
        left = losses / self.first[index].to(norm).clamp(min=TINY)  # of each loss
        target = (weights * norm).mean() * (left / left.mean().clamp(min=TINY)) ** self.asymmetry
        gradient = torch.zeros_like(self.scale)
        gradient[index] = ((weights * norm - target).sign() * norm).to(gradient)  # of sum |w_k |g_k| - target|
        present = torch.zeros_like(self.scale, dtype=torch.bool)
        present[index] = True
        total = self.scale[index].sum()
        self.adam.step(self.scale, gradient, present)
        moved = self.scale[index].clamp(min=LOWEST)
        self.scale[index] = moved * (total / moved.sum())  # over all tasks they go on summing to K
        return weights


def _normalised(gramian: np.ndarray) -> np.ndarray:
    return gramian / max(float(np.trace(gramian)), TINY)
