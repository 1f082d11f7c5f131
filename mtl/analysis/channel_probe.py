"""Channel probe: how well a classifier separates two domains by the recording channel, without the words.

    x = torch.stack([channel_statistics(logmel) for logmel in recordings])
    separability(x, labels, speakers).low                    # 0.94: the channels differ
    separability(word_presence(texts), labels, speakers)     # for comparison: by the words alone

Scores by domain are comparable only if the domains have similar channels. A logistic regression on statistics of the
channel predicts the domain of held-out speakers. The score is balanced accuracy (chance: one half); its interval
resamples speakers (Efron and Tibshirani 1993).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mtl.metrics.bootstrap import bootstrap_interval

QUIET = 0.1  # share of a recording's frames, the quietest, taken as noise
MIN_QUIET = 4  # frames
LOUD = 0.95  # quantile over time, of each bin
AUDIBLE = 9.2  # nats of power, 40 dB below the loudest bin: limit of the band
FOLDS = 5
MIN_SPEAKERS = 3  # of each domain; fewer do not generalise
RIDGE = 3.0  # penalty of the regression, which has as many features as recordings
WORDS = 300  # the most frequent ones


@dataclass(frozen=True)
class Separability:
    """Balanced accuracy of classifying two domains, 0 to 1, with its 95 % interval; number of rows and speakers."""

    accuracy: float
    low: float
    high: float
    rows: int
    speakers: int


def channel_statistics(logmel: Tensor) -> Tensor:
    """Features of the channel of a recording (T, F), log-mel in nats: (2F + 3,).

    Mean and standard deviation of each bin over the quietest frames (the long-term spectrum without speech), the noise
    floor, the level of speech above it, and the bandwidth (share of bins that speech reaches).
    """
    frames = logmel.double()
    quietest = frames.mean(dim=1).argsort(stable=True)[: max(MIN_QUIET, round(QUIET * len(frames)))]
    quiet, loud = frames[quietest], frames.quantile(LOUD, dim=0)
    floor = quiet.mean(dim=0)
    scalars = torch.stack([floor.mean(), (loud - floor).mean(), (loud > loud.max() - AUDIBLE).double().mean()])
    return torch.cat([floor, quiet.std(dim=0, correction=0), scalars])


def word_presence(texts: Sequence[str]) -> Tensor:
    """(N, W): whether each of the most frequent words occurs in a text."""
    sentences = [set(text.split()) for text in texts]
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
    return torch.tensor([[float(word in sentence) for word in words] for sentence in sentences], dtype=torch.float64)


def separability(x: Tensor, labels: Sequence[bool], speakers: Sequence[str], seed: int = 0) -> Separability | None:
    """How well features (N, D) separate two classes on held-out speakers; None with too few speakers of a class."""
    y = torch.tensor(labels, dtype=torch.float64)
    by_class = [{name for name, label in zip(speakers, labels, strict=True) if label is side} for side in (False, True)]
    if min(map(len, by_class)) < MIN_SPEAKERS:
        return None
    names = sorted(set(speakers))
    number = {name: position for position, name in enumerate(names)}
    who = torch.tensor([number[name] for name in speakers])
    folds = _folds(names, by_class)[who]
    correct = torch.zeros(len(y), dtype=torch.float64)
    for fold in folds.unique().tolist():
        test = folds == fold
        correct[test] = (_predictions(x[~test], y[~test], x[test]) == y[test].bool()).double()
    accuracy, low, high = _accuracy(correct, y.bool(), who, len(names), seed)
    return Separability(accuracy, low, high, len(y), len(names))


def _folds(names: Sequence[str], by_class: Sequence[set[str]]) -> Tensor:
    """(S,) fold of each speaker: assigned in the order of a hash, each class evenly."""

    def order(name: str) -> tuple[bool, bool, bytes]:
        return name in by_class[0], name in by_class[1], hashlib.blake2b(name.encode(), digest_size=8).digest()

    fold = {name: position % FOLDS for position, name in enumerate(sorted(names, key=order))}
    return torch.tensor([fold[name] for name in names])


def _predictions(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """(M,) bool predictions for `test` (M, D) of a regression fitted to x (N, D), y (N,)."""
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 1e-6, deviation, torch.inf)  # a constant feature is ignored
    weights = logistic((x - mean) / scale, y)
    return F.pad((test - mean) / scale, (0, 1), value=1.0) @ weights > 0


def logistic(x: Tensor, y: Tensor, ridge: float = RIDGE) -> Tensor:
    """Weights (D + 1,), the intercept last, of a ridge logistic regression with equally weighted classes.

    Newton's method; a step that overshoots is halved. The intercept is not shrunk.
    """
    x = F.pad(x, (0, 1), value=1.0)
    share = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y).mean())  # (N,)
    shrink = torch.full((x.shape[1],), ridge, dtype=x.dtype)
    shrink[-1] = 1e-9

    def loss(w: Tensor) -> Tensor:
        return (share * F.binary_cross_entropy_with_logits(x @ w, y, reduction="none")).sum() + 0.5 * shrink @ w**2

    w = x.new_zeros(x.shape[1])
    for _ in range(50):
        p = (x @ w).sigmoid()
        gradient = x.T @ (share * (p - y)) + shrink * w
        step = torch.linalg.solve((x * (share * p * (1 - p))[:, None]).T @ x + shrink.diag(), gradient)
        while loss(w - step) > loss(w) and step.abs().max() > 1e-8:
            step = step / 2
        w = w - step
        if step.abs().max() < 1e-6:
            break
    return w


def _accuracy(correct: Tensor, y: Tensor, who: Tensor, speakers: int, seed: int) -> tuple[float, float, float]:
    """Balanced accuracy with its 95 % interval over resampled speakers; correct, y, who (N,)."""
    counts = correct.new_zeros(speakers, 4)  # correct answers of each class, then rows of each class
    for side in (0, 1):
        rows = y == bool(side)
        counts[:, side].index_add_(0, who[rows], correct[rows])
        counts[:, 2 + side].index_add_(0, who[rows], torch.ones_like(correct[rows]))

    def balanced(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # no speaker of one class was drawn
            return np.asarray((sums[..., :2] / sums[..., 2:]).mean(axis=-1))

    table = counts.numpy()
    return float(balanced(table.sum(axis=0))), *bootstrap_interval(balanced, table, seed=seed)
