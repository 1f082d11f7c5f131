"""From CTC's frame scores to text: the best path, with the frames and confidence of each unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl.answers import Alternative
from mtl.text.units import BLANK


@dataclass(frozen=True)
class Path:
    """One utterance's text: units (U,), their first and one-past-last frames (U, 2), confidences (U,).

    alternatives: the n best texts, the first of them this one, where the search was asked for them.
    """

    units: np.ndarray
    frames: np.ndarray
    confidence: np.ndarray
    alternatives: tuple[Alternative, ...] = ()


@torch.no_grad()
def best_path(log_probs: Tensor, lengths: Tensor) -> list[Path]:
    """Greedy CTC decoding, (B, T, V) with lengths (B,) -> one Path per row.

    A unit's confidence is the mean probability over its frames.
    """
    scores, units = log_probs.float().max(dim=-1)
    batch_units, batch_probs = units.cpu().numpy(), scores.exp().cpu().numpy()
    return [
        _collapse(row[:length], probs[:length])
        for row, probs, length in zip(batch_units, batch_probs, lengths.tolist(), strict=True)
    ]


def _collapse(units: np.ndarray, probs: np.ndarray) -> Path:
    starts = np.flatnonzero(np.diff(units, prepend=-1))  # where a run of one unit begins
    ends = np.append(starts[1:], len(units))
    kept = units[starts] != BLANK
    starts, ends = starts[kept], ends[kept]
    totals = np.append(0.0, np.cumsum(probs, dtype=np.float64))
    confidence = (totals[ends] - totals[starts]) / np.maximum(ends - starts, 1)
    return Path(units=units[starts], frames=np.stack((starts, ends), axis=1), confidence=confidence)
