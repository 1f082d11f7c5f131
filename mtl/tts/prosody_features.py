"""Prosody of a recording: mean pitch, energy and voicing of each phone.

features = prosody_features(logmel, hertz, durations)       # pitch (P,) ln Hz, energy (P,) ln power, voiced (P,)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ProsodyFeatures:
    """pitch (P,): mean ln Hz over a phone's voiced frames, interpolated across phones without any (Łańcucki 2021),
    NaN if no frame is voiced. energy (P,): mean ln power. voiced (P,): share of voiced frames, NaN without frames."""

    pitch: np.ndarray
    energy: np.ndarray
    voiced: np.ndarray


def prosody_features(logmel: np.ndarray, hertz: np.ndarray, durations: np.ndarray) -> ProsodyFeatures:
    """logmel (T, F), hertz (T,) 0 where unvoiced, durations (P,) whole frames that sum to T."""
    voiced = hertz > 0
    pitch = over_phones(np.log(np.where(voiced, hertz, 1.0)), durations, voiced)
    peak = logmel.max(axis=1)
    power = peak + np.log(np.exp(logmel - peak[:, None]).mean(axis=1))
    return ProsodyFeatures(bridged(pitch), bridged(over_phones(power, durations)), over_phones(voiced, durations))


def over_phones(values: np.ndarray, durations: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Mean (P,) of values (T,) over the `known` frames of each phone; NaN for a phone without any."""
    known = np.ones(len(values), dtype=bool) if known is None else known
    phone = np.repeat(np.arange(len(durations)), durations)
    counts = np.bincount(phone[known], minlength=len(durations))
    sums = np.bincount(phone[known], weights=values[known], minlength=len(durations))
    return np.divide(sums, counts, out=np.full(len(durations), np.nan), where=counts > 0).astype(np.float32)


def bridged(values: np.ndarray) -> np.ndarray:
    """Replaces NaN in values (P,) by linear interpolation, at the ends by the nearest value; all NaN stays NaN."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return values
    return np.interp(np.arange(len(values)), known, values[known]).astype(np.float32)
