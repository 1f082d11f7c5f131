"""Newton's method for the small convex problems of gradient balancing: K positive unknowns, in fp64.

torchjd solves them with quadprog, cvxpy (ECOS, Clarabel) and scipy, which `mtl` does not require.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]  # value, gradient (K,), Hessian (K, K)
RIDGE = 1e-9  # added to a Gramian of size 1, which is singular if gradients are linearly dependent
BARRIERS = 10.0 ** -np.arange(1, 13)  # weights of the logarithmic barrier, in order
MOST_STEPS = 60


def minimise(objective: Objective, start: np.ndarray, simplex: bool = False) -> np.ndarray:
    """Minimum over x > 0, on the simplex with sum x = sum start if asked, by an interior-point method."""
    x = start
    for weight in BARRIERS:

        def with_barrier(x: np.ndarray, weight: float = weight) -> tuple[float, np.ndarray, np.ndarray]:
            value, gradient, hessian = objective(x)
            return value - weight * np.log(x).sum(), gradient - weight / x, hessian + np.diag(weight / x**2)

        x = newton(with_barrier, x, simplex)
    return x


def newton(objective: Objective, x: np.ndarray, simplex: bool = False) -> np.ndarray:
    """Damped Newton steps with x > 0, for a convex objective that is unbounded towards x = 0."""
    for _ in range(MOST_STEPS):
        value, gradient, hessian = objective(x)
        step = _solve(hessian, gradient, simplex)
        slope = float(gradient @ step)
        if not slope < -1e-16 * max(1.0, abs(value)):
            break
        shrinking = step < 0
        size = min(1.0, 0.99 * float(np.min(-x[shrinking] / step[shrinking]))) if shrinking.any() else 1.0
        while size > 1e-12 and objective(x + size * step)[0] > value + 1e-4 * size * slope:
            size /= 2
        if size <= 1e-12:  # the precision of fp64 is reached
            break
        x = x + size * step
    return x


def _solve(hessian: np.ndarray, gradient: np.ndarray, simplex: bool) -> np.ndarray:
    if not simplex:
        return np.linalg.solve(hessian, -gradient)
    towards = np.linalg.solve(hessian, np.stack((-gradient, np.ones_like(gradient)), axis=1))
    free, ones = towards.T
    return free - ones * (free.sum() / ones.sum())


def fair(gramian: np.ndarray, alpha: float) -> np.ndarray:
    """x > 0 with G x = x^(-1/alpha): the minimum of x'Gx / 2 - sum phi(x), phi' = x^(-1/alpha), which is convex.

    gramian (K, K) of size about 1; alpha > 0.
    """
    count, power = len(gramian), 1 / alpha
    gramian = gramian + RIDGE * np.eye(count)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        product, slope = gramian @ x, x**-power
        utility = np.log(x).sum() if power == 1 else (x ** (1 - power)).sum() / (1 - power)
        return 0.5 * x @ product - utility, product - slope, gramian + np.diag(power * slope / x)

    return newton(objective, np.ones(count))


def bounded_quadratic(gramian: np.ndarray, lowest: np.ndarray) -> np.ndarray:
    """min w'Gw over w >= lowest, by an active set (Lawson and Hanson 1974); gramian (K, K) of size about 1."""
    gramian = gramian + RIDGE * np.eye(len(gramian))
    offset = gramian @ lowest
    x, free = np.zeros(len(lowest)), np.zeros(len(lowest), dtype=bool)  # w - lowest; which entries are not fixed at 0
    for _ in range(MOST_STEPS):
        fall = np.where(free, -np.inf, -(gramian @ x + offset))
        if fall.max() <= 1e-12:
            break
        free[fall.argmax()] = True
        while free.any():
            target = np.zeros_like(x)
            target[free] = np.linalg.solve(gramian[np.ix_(free, free)], -offset[free])
            over = free & (target <= 0)
            if not over.any():
                x = target
                break
            x = x + (x[over] / (x[over] - target[over])).min() * (target - x)
            free &= x > 1e-14
            x = np.where(free, x, 0.0)
    return lowest + x
