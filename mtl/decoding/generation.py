"""Greedy and beam search with an attention decoder.

greedy(decoder, hidden, lengths, longest=100)                                  # one Generated a row
beam_search(decoder, hidden, lengths, width=4, penalty=0.6, longest=100)

A sequence has at most `longest` units; after them only the end may follow, with its own probability. A beam of width 1
is greedy search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl.layers.decoder import BOS_EOS, Decoder


@dataclass(frozen=True)
class Generated:
    """units: without the end. log_prob: natural logarithm, of the units and the end."""

    units: tuple[int, ...]
    log_prob: float

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the units and the end."""
        return math.exp(self.log_prob / (len(self.units) + 1))

    def score(self, penalty: float) -> float:
        """Log probability with length normalisation."""
        return self.log_prob / length_penalty(len(self.units) + 1, penalty)


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha (Wu et al. 2016, equation 14); |Y| counts the end."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def greedy(decoder: Decoder, hidden: Tensor, lengths: Tensor, longest: int) -> list[Generated]:
    """The most probable unit at every step: hidden (B, T, D), lengths (B,)."""
    state = decoder.begin(hidden, lengths)
    units = torch.full_like(lengths, BOS_EOS)
    total = torch.zeros(len(lengths), device=hidden.device)
    alive = torch.ones_like(units, dtype=torch.bool)
    steps = []
    for position in range(longest + 1):
        log_probs, state = decoder.step(units, state)
        if position == longest:
            log_probs[:, BOS_EOS + 1 :] = -torch.inf
        best, units = log_probs.max(dim=-1)
        total += torch.where(alive, best, 0.0)
        alive &= units != BOS_EOS
        units = units.masked_fill(~alive, BOS_EOS)
        steps.append(units)
        if not alive.any():
            break
    rows = torch.stack(steps, dim=1).tolist()
    return [
        Generated(tuple(row[: row.index(BOS_EOS)]), log_prob)
        for row, log_prob in zip(rows, total.tolist(), strict=True)
    ]


@torch.no_grad()
def beam_search(
    decoder: Decoder, hidden: Tensor, lengths: Tensor, width: int, penalty: float, longest: int
) -> list[Generated]:
    """The best finished hypothesis of each row by `Generated.score`: hidden (B, T, D), lengths (B,).

    A hypothesis is finished when its end is among the `width` best continuations of its row. A row is finished when
    `width` hypotheses are, or when no open one can exceed the best: log probabilities only fall, and are divided by at
    most the penalty of the longest sequence.
    """
    rows = len(lengths)
    repeated = torch.arange(rows, device=hidden.device).repeat_interleave(width)
    state = decoder.begin(hidden, lengths).select(repeated)
    units = torch.full_like(repeated, BOS_EOS)
    written = units.new_zeros(rows, width, 0)
    scores = torch.full((rows, width), -torch.inf, device=hidden.device)
    scores[:, 0] = 0.0
    finished: list[list[Generated]] = [[] for _ in range(rows)]
    most = length_penalty(longest + 1, penalty)
    for position in range(longest + 1):
        log_probs, state = decoder.step(units, state)
        if position == longest:
            log_probs[:, BOS_EOS + 1 :] = -torch.inf
        total = scores[..., None] + log_probs.view(rows, width, -1)  # (B, K, V)
        # Each hypothesis has one end, so 2 x width candidates include `width` that continue.
        best, index = total.flatten(1).topk(2 * width, dim=-1)
        beams, units = index // total.shape[-1], index % total.shape[-1]  # (B, 2K)
        ends = units == BOS_EOS
        _finish(finished, written, beams[:, :width], ends[:, :width], best[:, :width])
        scores, chosen = best.masked_fill(ends, -torch.inf).topk(width, dim=-1)
        beams, units = beams.gather(1, chosen), units.gather(1, chosen)
        possible = (scores.amax(dim=1) / most).tolist()
        if all(_done(row, score, width, penalty) for row, score in zip(finished, possible, strict=True)):
            break
        written = torch.cat((written.gather(1, beams[..., None].expand(-1, -1, position)), units[..., None]), dim=2)
        first = torch.arange(0, rows * width, width, device=hidden.device)[:, None]
        state, units = state.select_past((first + beams).flatten()), units.flatten()
    empty = Generated((), -math.inf)  # of a row whose scores are not finite
    return [max(row, key=lambda hypothesis: hypothesis.score(penalty), default=empty) for row in finished]


def _finish(finished: list[list[Generated]], written: Tensor, beams: Tensor, ends: Tensor, best: Tensor) -> None:
    """Adds the hypotheses that end, at most K a row: written (B, K, L); beams, ends, best (B, K)."""
    for row, candidate in (ends & best.isfinite()).nonzero().tolist():
        if len(finished[row]) < beams.shape[1]:
            units = written[row, beams[row, candidate]].tolist()
            finished[row].append(Generated(tuple(units), float(best[row, candidate])))


def _done(finished: list[Generated], possible: float, width: int, penalty: float) -> bool:
    return len(finished) >= width or any(hypothesis.score(penalty) >= possible for hypothesis in finished)
