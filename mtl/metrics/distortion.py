"""Distances between two sounds: mel-cepstral distortion, log-spectral distance, pitch, voicing and duration.

    distances = compare(mel, true_mel, hertz, true_hertz)  # (T, F) and (U, F) log-mels, (T,) and (U,) Hz, 0 unvoiced
    distances.mcd                                          # dB

Utterances of different lengths are aligned by dynamic time warping (Sakoe and Chiba 1978) of their cepstra, with steps
(1, 0), (0, 1) and (1, 1), each of which costs the distance at its end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CEPSTRA = 13  # of the distortion, without the 0th, which is the level
CENTS = 1200 / math.log(2)  # per unit of ln Hz
SEMITONES = 12 / math.log(2)  # per unit of ln Hz
DECIBELS = 10 * math.sqrt(2) / math.log(10)
WINDOW, HOP = 1024, 256  # samples of the spectral distance
DYNAMICS = 60.0  # dB: lower limit of a bin, relative to the loudest of a recording


@dataclass(frozen=True)
class Compared:
    """mcd: dB. pitch: root mean square error, cents, over pairs of voiced frames, NaN without one. voicing: share of
    pairs with one voiced frame. duration: difference, as a share of the true duration."""

    mcd: float
    pitch: float
    voicing: float
    duration: float


def compare(mel: np.ndarray, true: np.ndarray, hertz: np.ndarray, true_hertz: np.ndarray) -> Compared:
    """mel (T, F) and hertz (T,) against true (U, F) and true_hertz (U,)."""
    ours, theirs = align(cepstra(mel), cepstra(true))
    here, there = hertz[ours], true_hertz[theirs]
    both = (here > 0) & (there > 0)
    off = CENTS * np.log(here[both] / there[both])
    return Compared(
        mcd=float(distortions(mel[ours], true[theirs]).mean()),
        pitch=float(np.sqrt(np.mean(np.square(off)))) if both.any() else math.nan,
        voicing=float(np.mean((here > 0) != (there > 0))),
        duration=len(mel) / len(true) - 1,
    )


def distortions(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(T,) mel-cepstral distortion of aligned frames (T, F) and (T, F), dB (Kubichek 1993).

    10 / ln 10 * sqrt(2 * sum over k = 1 … 13 of (c_k - c'_k)^2), c the coefficients of the cosine series over the mel
    bins of the natural log amplitude, which is half the log power.
    """
    return DECIBELS * np.sqrt(np.square(cepstra(one) - cepstra(other)).sum(axis=-1))


def cepstra(mel: np.ndarray) -> np.ndarray:
    """(T, 13) of log-mel power (T, F), without the 0th."""
    bins = mel.shape[-1]
    basis = cosines(bins, CEPSTRA + 1)[:, 1:] * (2 / bins)
    return (mel / 2) @ basis.astype(mel.dtype)


def cosines(bins: int, orders: int) -> np.ndarray:
    """(F, orders): the cosine series over F bins, starting with the constant, with amplitude one."""
    position, order = np.arange(bins)[:, None], np.arange(orders)
    return np.cos(math.pi * order * (position + 0.5) / bins)


def align(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Aligned frames of (T, C) and (U, C), two (N,)."""
    difference = one[:, None].astype(np.float64) - other[None].astype(np.float64)
    total = _accumulated(np.sqrt(np.square(difference).sum(axis=-1)))
    i, j = len(one) - 1, len(other) - 1
    path = [(i, j)]
    while i or j:
        steps = [(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        i, j = min(steps, key=lambda pair: total[pair])
        path.append((i, j))
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def _accumulated(distance: np.ndarray) -> np.ndarray:
    """(T, U) cost of the cheapest path to each pair, computed by anti-diagonals."""
    rows, columns = distance.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = distance[i, j] + before
    return total[1:, 1:]


def spectral_distances(wave: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(N,), (N,) -> (T,): log-spectral distance of each window, dB (Gray and Markel 1976), independent of phase.

    Root mean square over bins of the difference of 10 log10 of the power, limited to DYNAMICS below the loudest bin of
    the true signal.
    """
    samples = min(len(wave), len(true))
    reference = _decibels(true[:samples])
    floor = reference.max() - DYNAMICS
    difference = np.maximum(_decibels(wave[:samples]), floor) - np.maximum(reference, floor)
    return np.sqrt(np.square(difference).mean(axis=0))


def spectral_distance(wave: np.ndarray, true: np.ndarray) -> float:
    """Mean of `spectral_distances` of two sounds (N,)."""
    return float(spectral_distances(wave, true).mean())


def clamped_decibels(true: np.ndarray) -> np.ndarray:
    """(N,) -> (bins, T): the spectrum of a recording as `spectral_distances` compares it."""
    spectrum = _decibels(true)
    return np.maximum(spectrum, spectrum.max() - DYNAMICS)


def _decibels(wave: np.ndarray) -> np.ndarray:
    """(N,) -> (bins, T)."""
    padded = np.pad(wave.astype(np.float64), (0, max(0, WINDOW - len(wave))))
    window = 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(WINDOW) / WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * window, axis=-1).T
    return 10 * np.log10(np.square(np.abs(spectrum)) + 1e-12)
