"""How far a voice is from the one it should be: mel-cepstral distortion, pitch, voicing, duration, over aligned frames.

    compared = compare(mel, true_mel, hertz, true_hertz)  # (T, F) and (U, F) log-mels, (T,) and (U,) Hz, 0 unvoiced
    compared.mcd                                               # dB

Two utterances of other lengths are aligned by dynamic time warping (Sakoe and Chiba 1978) of their cepstra: every frame
of either has at least one partner, steps are (1, 0), (0, 1) and (1, 1), each as dear as the distance it lands on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CEPSTRA = 13  # of the distortion, without the 0th, which is loudness
CENTS = 1200 / math.log(2)  # in a unit of ln Hz
DECIBELS = 10 * math.sqrt(2) / math.log(10)


@dataclass(frozen=True)
class Compared:
    """mcd: dB. pitch: root mean square, cents, over pairs of voiced frames, NaN where there is none. voicing: share of
    pairs of which one is voiced and the other is not. duration: how much longer it is, as a share of the true one."""

    mcd: float
    pitch: float
    voicing: float
    duration: float


def compare(mel: Tensor, true: Tensor, hertz: np.ndarray, true_hertz: np.ndarray) -> Compared:
    """mel (T, F) and hertz (T,) against true (U, F) and true_hertz (U,)."""
    ours, theirs = align(cepstra(mel), cepstra(true))
    here, there = hertz[ours], true_hertz[theirs]
    both = (here > 0) & (there > 0)
    off = CENTS * np.log(here[both] / there[both])
    return Compared(
        mcd=float(distortions(mel[torch.from_numpy(ours)], true[torch.from_numpy(theirs)]).mean()),
        pitch=float(np.sqrt(np.mean(np.square(off)))) if both.any() else math.nan,
        voicing=float(np.mean((here > 0) != (there > 0))),
        duration=len(mel) / len(true) - 1,
    )


def distortions(one: Tensor, other: Tensor) -> Tensor:
    """(T,) mel-cepstral distortion of aligned frames (T, F) and (T, F), dB (Kubichek 1993).

    10 / ln 10 * sqrt(2 * sum over k = 1 … 13 of (c_k - c'_k)^2), c the coefficients of the cosine series over the mel
    bins of the natural log amplitude, which is half the log power.
    """
    return DECIBELS * (cepstra(one) - cepstra(other)).square().sum(dim=-1).sqrt()


def cepstra(mel: Tensor) -> Tensor:
    """(T, 13) of log-mel power (T, F), without the 0th."""
    return (mel / 2) @ (cosines(mel, CEPSTRA + 1)[:, 1:] * (2 / mel.shape[-1]))


def cosines(mel: Tensor, orders: int) -> Tensor:
    """(F, orders): the cosine series over the bins of (T, F), from the constant on, each with amplitude one."""
    bins = mel.shape[-1]
    place = torch.arange(bins, dtype=mel.dtype, device=mel.device)
    order = torch.arange(orders, dtype=mel.dtype, device=mel.device)
    return torch.cos(math.pi * order * (place[:, None] + 0.5) / bins)


def align(one: Tensor, other: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frames of (T, C) and of (U, C) that belong together, two (N,), from the first pair to the last."""
    distance = torch.cdist(one[None].double(), other[None].double())[0].cpu().numpy()  # (T, U)
    total = _accumulated(distance)
    i, j = len(one) - 1, len(other) - 1
    path = [(i, j)]
    while i or j:
        steps = [(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        i, j = min(steps, key=lambda place: total[place])
        path.append((i, j))
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def _accumulated(distance: np.ndarray) -> np.ndarray:
    """(T, U) of the cheapest way to each pair, by anti-diagonals, of which no cell depends on another."""
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = distance[i, j] + before
    return total[1:, 1:]
