"""Augmentation of log-mel features in the loader: SpecAugment and speed perturbation.

    faster = speed(features, 1.1, spec)                    # (T, F) -> (T / 1.1, F)
    spec_augment(batch, lengths, generator, time_masks=2, freq_masks=2)   # in place

Both work on features, so stored parts serve every epoch. Callers seed the generator with (seed, pass, batch), so that a
resumed run sees the same augmentation as an uninterrupted one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mtl.audio.features import mel_scale
from mtl.config.features import FeatureSpec


def speed(features: np.ndarray | Tensor, factor: float, spec: FeatureSpec) -> Tensor:
    """(T, F) log-mel as if the recording were played `factor` times as fast: (round(T / factor), F) float32.

    Time is interpolated linearly; frequencies are multiplied by the factor, so the mel axis is warped (Ko et al. 2015
    do the same to the waveform). For slower speech the highest bins repeat the last one that has a source.

    Raises:
        ValueError: the factor is not positive.
    """
    if factor <= 0:
        raise ValueError(f"a speed factor of {factor} was given, expected more than 0")
    # The copy to float32 also avoids torch's warning of read-only memory maps.
    frames = torch.from_numpy(features.astype(np.float32)) if isinstance(features, np.ndarray) else features.float()
    if factor == 1:
        return frames
    warped = frames @ _warp(factor, spec.bins, spec.low_hz, spec.high_hz)
    return stretch(warped, perturbed_length(len(frames), factor))


def perturbed_length(frames: int, factor: float) -> int:
    """Number of frames that `speed` returns."""
    return max(1, round(frames / factor))


def spec_augment(
    features: Tensor,
    lengths: Tensor,
    generator: np.random.Generator,
    time_masks: int = 0,
    time_mask_fraction: float = 0.05,
    freq_masks: int = 0,
    freq_mask_bins: int = 20,
) -> Tensor:
    """Masks spans of time and bands of frequency of (B, T, F), in place (Park et al. 2019, without time warping).

    Each utterance has its own masks: widths uniform in 0..limit, positions uniform, filled with the mean of the
    utterance (the paper's zero, for features that are not normalised yet). Padding stays as it is.
    """
    bins = features.shape[2]
    for utterance, length in zip(features, lengths.tolist(), strict=True):
        if not length:
            continue
        mean = utterance[:length].float().mean().item()
        for _ in range(freq_masks):
            first, last = _mask(generator, bins, min(freq_mask_bins, bins))
            utterance[:length, first:last] = mean
        for _ in range(time_masks):
            first, last = _mask(generator, length, int(length * time_mask_fraction))
            utterance[first:last] = mean
    return features


def _mask(generator: np.random.Generator, size: int, limit: int) -> tuple[int, int]:
    width = int(generator.integers(0, limit + 1))
    first = int(generator.integers(0, size - width + 1))
    return first, first + width


def stretch(frames: Tensor, length: int) -> Tensor:
    """(T, F) -> (length, F) by linear interpolation in time; the first and last frames stay the same."""
    if length == len(frames):
        return frames
    positions = torch.linspace(0, len(frames) - 1, length, dtype=torch.float64)
    before = positions.long().clamp(max=max(0, len(frames) - 2))
    after = (before + 1).clamp(max=len(frames) - 1)
    return torch.lerp(frames[before], frames[after], (positions - before).float()[:, None])


@lru_cache(maxsize=256)
def _warp(factor: float, bins: int, low_hz: float, high_hz: float) -> Tensor:
    """(F, F): column b interpolates the source bins around the frequency that is moved to bin b."""
    centres = np.linspace(mel_scale(low_hz), mel_scale(high_hz), bins + 2)[1:-1]
    hertz = 700.0 * np.expm1(centres / 1127.0)
    sources = np.clip(np.interp(mel_scale(hertz / factor), centres, np.arange(bins)), 0, bins - 1)
    before = np.minimum(sources.astype(int), bins - 2)
    matrix = np.zeros((bins, bins), dtype=np.float32)
    columns = np.arange(bins)
    matrix[before, columns] = 1 - (sources - before)
    matrix[before + 1, columns] += sources - before
    return torch.from_numpy(matrix)
