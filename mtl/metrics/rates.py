"""Error rates, F1 and means from summed counts (..., C) -> (...), NaN for a zero denominator.

ratio(np.array([3, 20]))                     # 15.0: 3 errors in 20 words
f1(counts.sum(axis=0))                       # counts (N, 3): matched, predicted, actual
"""

from __future__ import annotations

import numpy as np


def ratio(counts: np.ndarray) -> np.ndarray:
    """100 x first / second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * counts[..., 0] / counts[..., 1]


def mean(counts: np.ndarray) -> np.ndarray:
    """first / second."""
    return ratio(counts) / 100


def root_mean(counts: np.ndarray) -> np.ndarray:
    """The root of first / second."""
    return np.sqrt(mean(counts))


def f1(counts: np.ndarray) -> np.ndarray:
    """100 x 2 matched / (predicted + actual): the micro F1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def balanced(counts: np.ndarray) -> np.ndarray:
    """100 x mean recall over labels, from correct rows and rows of each label (..., 2C)."""
    correct, rows = np.split(counts, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * np.where(rows > 0, correct / rows, 0.0).sum(axis=-1) / (rows > 0).sum(axis=-1)
