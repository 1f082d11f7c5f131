"""How the counts of a metric, summed over rows, become its value: error rates, F1, means, BLEU and chrF.

    ratio(np.array([3, 20]))                     # 15.0: 3 errors in 20 words
    f1(counts.sum(axis=0))                       # counts (N, 3): matched, predicted, actual

Each takes counts (..., C) and gives (...), nan where there is nothing to divide by. BLEU (Papineni et al. 2002) and
chrF (Popović 2015) are sacrebleu's, with its defaults.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mtl.metrics.verification import detection_cost, equal_error_rate

CHRF_BETA = 2  # recall counts so much more than precision: chrF2, as usual


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
    """100 x mean over labels of right / rows of that label, from right rows and rows of each label (..., 2C)."""
    right, rows = np.split(counts, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100.0 * np.where(rows > 0, right / rows, 0.0).sum(axis=-1) / (rows > 0).sum(axis=-1)


def eer(counts: np.ndarray) -> np.ndarray:
    targets, others = np.split(counts, 2, axis=-1)
    return 100.0 * equal_error_rate(targets, others)


def min_dcf(counts: np.ndarray) -> np.ndarray:
    targets, others = np.split(counts, 2, axis=-1)
    return 100.0 * detection_cost(targets, others)


def bleu(counts: np.ndarray) -> np.ndarray:
    """Corpus BLEU from counts (..., 10): words of the answer and of the reference, n-grams that match, n-grams.

    sacrebleu's smoothing "exp": the k-th order without a match counts as 2^-k matches, unless no order has any.
    """
    length, wanted, matched, total = counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:]
    missed = np.cumsum(matched == 0, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(matched == 0, 0.5**missed, matched) / total
        brevity = np.exp(np.minimum(0.0, 1 - wanted / length))
        value = 100 * brevity * np.exp(np.log(precision).mean(axis=-1))
    none = (total == 0).any(axis=-1) | (matched == 0).all(axis=-1)
    return np.where(wanted > 0, np.where(none, 0.0, value), np.nan)


def chrf(counts: np.ndarray) -> np.ndarray:
    """chrF2 from counts (..., 18): for each order of character n-grams those of the answer, the reference and both."""
    answer, wanted, both = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    there = (answer > 0) & (wanted > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        orders = there.sum(axis=-1)
        precision = np.where(there, both / answer, 0.0).sum(axis=-1) / orders
        recall = np.where(there, both / wanted, 0.0).sum(axis=-1) / orders
        value = 100 * (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)
    none = (orders == 0) | (both == 0).all(axis=-1)
    return np.where(wanted.sum(axis=-1) > 0, np.where(none, 0.0, value), np.nan)


def translation_counts(reference: str, hypothesis: str) -> dict[str, tuple[float, ...]]:
    """What BLEU and chrF are summed from, of one sentence; sacrebleu's own bootstrap takes it from the same place."""
    return {
        name: tuple(metric._extract_corpus_statistics([hypothesis], [[reference]])[0])
        for name, metric in _translation_metrics().items()
    }


@cache
def _translation_metrics() -> dict[str, Any]:
    from sacrebleu.metrics import BLEU, CHRF  # it takes as long to import as all the rest of this file

    return {"bleu": BLEU(force=True), "chrf": CHRF(beta=CHRF_BETA)}
