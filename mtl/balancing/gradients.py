"""Weightings: weights of a step from the Gramian of the tasks' gradients of the shared parameters.

The Gramian is moved to the CPU in fp64: it is small, and several methods invert or factorise it.
"""

from __future__ import annotations

from collections.abc import Callable
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

LOWEST = 1e-3  # minimum of a GradNorm weight
MAX_NORM = 1.0  # maximum length of a NashMTL step, as in the paper's implementation
TINY = 1e-12


class GramianMethod(Method):
    """Base of methods that compute the weights of the present tasks from their Gramian."""

    needs = "gramian"

    def forward(self, losses: Tensor, present: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None
        index = present.nonzero()[:, 0].cpu()
        of_present = gramian.cpu().double()[index][:, index]
        weights = torch.zeros(len(gramian), dtype=torch.float64)
        if torch.isfinite(of_present).all():
            weights[index] = self.of_present(of_present, losses.cpu().double()[index], index)
        else:
            weights[index] = torch.nan  # a factorisation would fail without naming the task
        return weights.to(losses)

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        """Gramian (M, M), losses (M,) and positions (M,) of the present tasks -> weights (M,)."""
        raise NotImplementedError


class Stateless(GramianMethod):
    """A weighting of torchjd without state."""

    def __init__(self, weighting: nn.Module) -> None:
        super().__init__()
        self.weighting = weighting

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        return self.weighting(gramian)


class _Projector(DualConeProjector):
    """min w'Gw subject to w >= u, without the optional package that torchjd's projector needs."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        gramian = _normalised(G.numpy())
        return torch.from_numpy(np.stack([bounded_quadratic(gramian, row) for row in U.numpy()]))


def _factory(make: Callable[[], nn.Module]) -> Callable[[int, object], Stateless]:
    """Method of the number of tasks and its settings, which are not needed."""
    return lambda count, settings: Stateless(make())


mgda = _factory(aggregation.MGDAWeighting)  # Désidéri 2012, Sener and Koltun 2018: shortest vector in the convex hull
pcgrad = _factory(aggregation.PCGradWeighting)  # Yu et al. 2020: conflicting parts are projected away, in random order
imtl_g = _factory(aggregation.IMTLGWeighting)  # Liu et al. 2021: equal projections on all normalised gradients
aligned_mtl = _factory(aggregation.AlignedMTLWeighting)  # Senushkin et al. 2023: nearest orthogonal system of gradients
# Quinton and Rey 2024: mean of the projections of each gradient on the dual cone of all.
upgrad = _factory(lambda: aggregation.UPGradWeighting(projector=_Projector()))


class GradVac(GramianMethod):
    """Wang et al. 2021: gradients are rotated until their cosines reach a moving average of previous cosines.

    torchjd resets the averages if the number of tasks changes; here each pair of tasks keeps its own.
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
    """Liu et al. 2021: the step within `radius` of the mean gradient with the best descent in the worst case.

    torchjd needs cvxpy and Clarabel for it; here Newton's method solves the problem of K unknowns on a simplex.
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
        if length < 1e-4:  # the gradients cancel: a Pareto-stationary point
            return torch.zeros(count, dtype=torch.float64)
        return torch.from_numpy(1 / count + reach / length * worst)


class NashMTL(GramianMethod):
    """Navon et al. 2022: the bargaining solution G a = 1 / a, with a step of at most MAX_NORM.

    It minimises a'Ga / 2 - sum log a, by Newton's method; torchjd solves a sequence of convex programs with ECOS.
    """

    def __init__(self, count: int, settings: object) -> None:
        super().__init__()

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        matrix = gramian.numpy()
        alpha = fair(matrix / max(float(np.linalg.norm(matrix)), TINY), 1.0)
        length = np.sqrt(max(alpha @ matrix @ alpha, 0.0))
        return torch.from_numpy(alpha * min(1.0, MAX_NORM / max(length, TINY)))


class FairGrad(GramianMethod):
    """Ban and Ji 2024: G w = w^(-1/alpha). Solved as for NashMTL; torchjd uses scipy's least squares."""

    def __init__(self, count: int, settings: FairGradSettings) -> None:
        super().__init__()
        self.fairness = settings.fairness

    def of_present(self, gramian: Tensor, losses: Tensor, index: Tensor) -> Tensor:
        matrix = gramian.numpy()
        size = max(float(np.trace(matrix)), TINY)  # w for s x G is s^(-alpha / (1 + alpha)) x w for G
        weights = fair(matrix / size, self.fairness)
        return torch.from_numpy(weights * size ** (-self.fairness / (1 + self.fairness)))


class GradNorm(GramianMethod):
    """Chen et al. 2018: learned weights that move w_k |g_k| towards the mean over tasks x (relative loss)^asymmetry.

    |g_k|: over all shared parameters. Relative loss: to the loss of the task's first step.
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
        relative = losses / self.first[index].to(norm).clamp(min=TINY)
        target = (weights * norm).mean() * (relative / relative.mean().clamp(min=TINY)) ** self.asymmetry
        gradient = torch.zeros_like(self.scale)
        gradient[index] = ((weights * norm - target).sign() * norm).to(gradient)  # of sum |w_k |g_k| - target|
        present = torch.zeros_like(self.scale, dtype=torch.bool)
        present[index] = True
        total = self.scale[index].sum()
        self.adam.step(self.scale, gradient, present)
        moved = self.scale[index].clamp(min=LOWEST)
        self.scale[index] = moved * (total / moved.sum())  # the sum over all tasks stays K
        return weights


def _normalised(gramian: np.ndarray) -> np.ndarray:
    return gramian / max(float(np.trace(gramian)), TINY)
