"""From a decoder to sequences: greedy, and beam search with length normalisation.

greedy(decoder, hidden, lengths, longest=100)                                  # one Generated a row
beam_search(decoder, hidden, lengths, width=4, penalty=0.6, longest=100)

A sequence has at most `longest` units: where the next would be one more, the end is all that may follow, at its own
probability. So both search the same sequences, and a beam of width 1 is greedy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl.layers.decoder import BOS_EOS, Decoder


@dataclass(frozen=True)
class Generated:
    """units: without the end. log_prob: natural, of the units and the end."""

    units: tuple[int, ...]
    log_prob: float

    @property
    def confidence(self) -> float:
        """Geometric mean of the probabilities of the units and the end."""
        return math.exp(self.log_prob / (len(self.units) + 1))

    def score(self, penalty: float) -> float:
        """What hypotheses of unlike length are ranked by."""
        return self.log_prob / length_penalty(len(self.units) + 1, penalty)


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^alpha / (5 + 1)^alpha (Wu et al. 2016, equation 14); |Y| counts the end."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def greedy(decoder: Decoder, hidden: Tensor, lengths: Tensor, longest: int) -> list[Generated]:
    """The likeliest unit at every step: hidden (B, T, D), lengths (B,)."""
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
    return [Generated(_until_end(row), log_prob) for row, log_prob in zip(rows, total.tolist(), strict=True)]


@torch.no_grad()
def beam_search(
    decoder: Decoder, hidden: Tensor, lengths: Tensor, width: int, penalty: float, longest: int
) -> list[Generated]:
    """The best finished hypothesis of each row by `Generated.score`: hidden (B, T, D), lengths (B,).

    A hypothesis is finished when its end is among the `width` best continuations of its row; a row when `width`
    hypotheses are, or when none that is open can still beat the best: a score only falls, and is divided by no more
    than the penalty of the longest sequence.
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
        # One end a hypothesis: among twice as many candidates there are `width` that go on.
        best, index = total.flatten(1).topk(2 * width, dim=-1)
        beams, units = index // total.shape[-1], index % total.shape[-1]  # (B, 2K)
        ends = units == BOS_EOS
        _finish(finished, written, beams[:, :width], ends[:, :width], best[:, :width])
        scores, kept = best.masked_fill(ends, -torch.inf).topk(width, dim=-1)
        beams, units = beams.gather(1, kept), units.gather(1, kept)
        possible = (scores.amax(dim=1) / most).tolist()
        if all(_done(row, score, width, penalty) for row, score in zip(finished, possible, strict=True)):
            break
        written = torch.cat((written.gather(1, beams[..., None].expand(-1, -1, position)), units[..., None]), dim=2)
        first = torch.arange(0, rows * width, width, device=hidden.device)[:, None]
        state, units = state.select_past((first + beams).flatten()), units.flatten()
    nothing = Generated((), -math.inf)  # of a row whose scores are not finite
    return [max(row, key=lambda found: found.score(penalty), default=nothing) for row in finished]


def _finish(finished: list[list[Generated]], written: Tensor, beams: Tensor, ends: Tensor, best: Tensor) -> None:
    """Adds the hypotheses that end: written (B, K, L); beams, ends, best (B, K). A row takes no more than K."""
    for row, place in (ends & best.isfinite()).nonzero().tolist():
        if len(finished[row]) < beams.shape[1]:
            units = written[row, beams[row, place]].tolist()
            finished[row].append(Generated(tuple(units), float(best[row, place])))


def _done(finished: list[Generated], possible: float, width: int, penalty: float) -> bool:
    if len(finished) >= width:
        return True
    return bool(finished) and max(found.score(penalty) for found in finished) >= possible


def _until_end(units: list[int]) -> tuple[int, ...]:
    return tuple(units[: units.index(BOS_EOS)])
