"""How a recording says its phones: the mean pitch, power and voicing of each, from frames.

said = phrasing(logmel, hertz, durations)       # said.pitch (P,) ln Hz, said.energy (P,) ln power, said.voiced (P,)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ProsodyFeatures:
    """pitch (P,): mean ln Hz over a phone's voiced frames, in a straight line across phones without any (Łańcucki
    2021), NaN where no frame at all has a voice. energy (P,): mean ln power. voiced (P,): share of voiced frames, NaN
    of a phone without frames."""

    pitch: np.ndarray
    energy: np.ndarray
    voiced: np.ndarray


def prosody_features(logmel: np.ndarray, hertz: np.ndarray, durations: np.ndarray) -> ProsodyFeatures:
    """logmel (T, F), hertz (T,) 0 where unvoiced, durations (P,) whole frames that sum to T."""
    voiced = hertz > 0
    heights = over_phones(np.log(np.where(voiced, hertz, 1.0)), durations, voiced)
    peak = logmel.max(axis=1)
    power = peak + np.log(np.exp(logmel - peak[:, None]).mean(axis=1))
    return ProsodyFeatures(bridged(heights), bridged(over_phones(power, durations)), over_phones(voiced, durations))


def over_phones(values: np.ndarray, durations: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """(P,) mean of (T,) values over each phone's frames, of those frames that are `known`; NaN for a phone of none."""
    known = np.ones(len(values), dtype=bool) if known is None else known
    phone = np.repeat(np.arange(len(durations)), durations)
    counts = np.bincount(phone[known], minlength=len(durations))
    sums = np.bincount(phone[known], weights=values[known], minlength=len(durations))
    return np.divide(sums, counts, out=np.full(len(durations), np.nan), where=counts > 0).astype(np.float32)


def bridged(values: np.ndarray) -> np.ndarray:
    """(P,) with a straight line across what is NaN, and the nearest value beyond the ends; all NaN stays so."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return values
    return np.interp(np.arange(len(values)), known, values[known]).astype(np.float32)
