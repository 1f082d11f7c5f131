"""Forced alignment: the Viterbi path of a transcript in the CTC lattice (Graves et al. 2006), and spans of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtl.text.units import BLANK

IMPOSSIBLE = -1e30


@torch.no_grad()
def viterbi(log_probs: Tensor, lengths: Tensor, units: Tensor, unit_lengths: Tensor) -> np.ndarray:
    """First and last frame of each unit on the best path.

    Args:
        log_probs: (B, T, V); lengths: (B,) frames; units: (B, U); unit_lengths: (B,).
    Returns:
        (B, U, 2) int: first frame and one past the last; -1 for padding and for rows without a path (no units, or
        more units and repeats than frames).
    """
    log_probs, lengths = log_probs.detach().float().cpu(), lengths.cpu()
    units, unit_lengths = units.cpu(), unit_lengths.cpu()
    batch, frames, _ = log_probs.shape
    states = 2 * units.shape[1] + 1
    labels = torch.full((batch, states), BLANK)
    labels[:, 1::2] = units
    emitted = log_probs.gather(2, labels[:, None, :].expand(batch, frames, states))
    emissions = emitted.transpose(0, 1).contiguous().numpy()  # (T, B, S)
    barred = np.full((batch, states), IMPOSSIBLE, dtype=np.float32)  # skips a state …
    barred[:, 3::2] = np.where(units[:, 1:] != units[:, :-1], 0.0, IMPOSSIBLE)  # … only between different units

    # numpy: torch needs three times as long for each of these thousands of small operations.
    padded = np.full((batch, states + 2), IMPOSSIBLE, dtype=np.float32)  # two unreachable states first
    score = padded[:, 2:]
    score[:, :2] = emissions[0, :, :2]
    back = np.zeros((frames, batch, states), dtype=np.uint8)
    alive = np.arange(frames)[:, None, None] < lengths.numpy()[:, None]  # (T, B, 1)
    for frame in range(1, frames):
        step, skip = padded[:, 1:-1], padded[:, :-2] + barred
        best = np.maximum(score, step)
        np.greater(step, score, out=back[frame], casting="unsafe")
        back[frame][skip > best] = 2
        best = np.maximum(best, skip) + emissions[frame]
        np.copyto(score, best, where=alive[frame])
    back *= alive
    return _trace(back, score, lengths.numpy(), unit_lengths.numpy(), units.shape[1])


def _trace(back: np.ndarray, score: np.ndarray, lengths: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    batch = len(counts)
    rows = np.arange(batch)
    last_blank, last_unit = 2 * counts, np.maximum(2 * counts - 1, 0)
    state = np.where(score[rows, last_unit] > score[rows, last_blank], last_unit, last_blank)
    possible = (counts > 0) & (score[rows, state] > IMPOSSIBLE / 2)
    spans = np.full((batch, width, 2), -1, dtype=np.int64)
    for frame in range(back.shape[0] - 1, -1, -1):
        on_unit = rows[(frame < lengths) & possible & (state % 2 == 1)]
        unit = state[on_unit] // 2
        spans[on_unit, unit, 0] = frame
        spans[on_unit, unit, 1] = np.maximum(spans[on_unit, unit, 1], frame + 1)
        state = state - back[frame][rows, state]
    return spans


def word_spans(pieces: Sequence[str], frames: np.ndarray) -> list[tuple[str, int, int]]:
    """Words with their first frame and one past their last, from the text of each unit and its frames (U, 2).

    A space (a unit of its own, or the start of a SentencePiece) ends the word before it.
    """
    words: list[tuple[str, int, int]] = []
    text, start, end = "", -1, -1
    for piece, (first, last) in zip(pieces, frames.tolist(), strict=True):
        if piece.startswith(" ") and text:
            words.append((text, start, end))
            text = ""
        if letters := piece.strip(" "):
            start = start if text else first
            text, end = text + letters, last
    if text:
        words.append((text, start, end))
    return words
