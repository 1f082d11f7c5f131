"""Greedy CTC decoding: the best path, with the frames and confidence of each unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl.answers import Alternative
from mtl.text.units import BLANK


@dataclass(frozen=True)
class Path:
    """Decoded text of an utterance: units (U,), first frame and one past the last of each (U, 2), confidences (U,).

    alternatives: the n best texts, this one first, if the search computes them.
    """

    units: np.ndarray
    frames: np.ndarray
    confidence: np.ndarray
    alternatives: tuple[Alternative, ...] = ()


@torch.no_grad()
def best_path(log_probs: Tensor, lengths: Tensor) -> list[Path]:
    """(B, T, V) with lengths (B,) -> one Path per row; a unit's confidence is its mean probability over its frames."""
    scores, units = log_probs.float().max(dim=-1)
    batch_units, batch_probs = units.cpu().numpy(), scores.exp().cpu().numpy()
    return [
        _collapse(row[:length], probs[:length])
        for row, probs, length in zip(batch_units, batch_probs, lengths.tolist(), strict=True)
    ]


def _collapse(units: np.ndarray, probs: np.ndarray) -> Path:
    starts = np.flatnonzero(np.diff(units, prepend=-1))  # first frame of each run of one unit
    ends = np.append(starts[1:], len(units))
    is_unit = units[starts] != BLANK
    starts, ends = starts[is_unit], ends[is_unit]
    totals = np.append(0.0, np.cumsum(probs, dtype=np.float64))
    confidence = (totals[ends] - totals[starts]) / np.maximum(ends - starts, 1)
    return Path(units=units[starts], frames=np.stack((starts, ends), axis=1), confidence=confidence)
