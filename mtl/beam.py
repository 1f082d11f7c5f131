"""CTC prefix beam search with a word language model (Hannun et al. 2014).

    decode = Beam(units, model, BeamConfig())
    path = decode(log_probs)[0]

The search adds up all the frame paths of a text, and at each finished word adds weight x ln P(word | words before) +
bonus. A word that the language model does not know may be written, at a price.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mtl.align import viterbi
from mtl.decode import Path
from mtl.ngram import END, Gram, NGram
from mtl.text import BLANK, Characters, SentencePieces

NEVER = -math.inf


@dataclass(frozen=True)
class BeamConfig:
    width: int = 16  # texts kept after each frame
    weight: float = 0.5  # of the language model's logarithm beside the recogniser's
    bonus: float = 1.0  # for each word: the language model alone would favour few of them
    unknown: float = -6.0  # for leaving the known vocabulary, once a word
    candidates: float = -7.0  # log probability below which a unit is not tried in a frame


class Beam:
    """Decodes (B, T, V) log-probabilities to one Path a row."""

    def __init__(self, units: Characters | SentencePieces, model: NGram, config: BeamConfig) -> None:
        self.model, self.config = model, config
        self.pieces = ["", *units.pieces(range(1, len(units)))]
        self.prefixes = {word[:end] for word in model.vocabulary for end in range(len(word) + 1)}

    @torch.no_grad()
    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[Path]:
        scores = log_probs.float().cpu()
        found = [self.search(row[:length].numpy()) for row, length in zip(scores, lengths.tolist(), strict=True)]
        return _place(scores, lengths.cpu(), found)

    def search(self, log_probs: np.ndarray) -> list[int]:
        """Units of the best text for one utterance, (T, V)."""
        beam: dict[_Text, tuple[float, float]] = {_Text.empty(self.model): (0.0, NEVER)}
        for frame in log_probs:
            beam = self._advance(beam, frame)
        return max(beam, key=lambda text: _add(*beam[text]) + text.score + self._close(text)).units()

    def _advance(self, beam: dict[_Text, tuple[float, float]], frame: np.ndarray) -> dict[_Text, tuple[float, float]]:
        """One frame further. A text's two scores are of its paths that end in a blank, and of those that do not."""
        units = [int(unit) for unit in np.flatnonzero(frame > self.config.candidates) if unit != BLANK]
        scores = frame.tolist()
        grown: dict[_Text, tuple[float, float]] = {}
        for text, (blank, unit_last) in beam.items():
            whole = _add(blank, unit_last)
            old = grown.get(text, (NEVER, NEVER))
            again = unit_last + scores[text.unit] if text.unit else NEVER
            grown[text] = (_add(old[0], whole + scores[BLANK]), _add(old[1], again))
            for unit in units:
                longer = text.longer.get(unit)
                if longer is None:
                    longer = text.longer[unit] = self._extend(text, unit)
                # A unit that repeats needs a blank between.
                reached = (blank if unit == text.unit else whole) + scores[unit]
                old = grown.get(longer, (NEVER, NEVER))
                grown[longer] = (old[0], _add(old[1], reached))
        if len(grown) <= self.config.width:
            return grown
        kept = sorted(grown, key=lambda text: -(_add(*grown[text]) + text.score))[: self.config.width]
        return {text: grown[text] for text in kept}

    def _extend(self, text: _Text, unit: int) -> _Text:
        piece = self.pieces[unit]
        score, word, context = text.score, text.word, text.context
        if piece.startswith(" "):
            gained, context = self._finish(text)
            score, word, piece = score + gained, "", piece[1:]
        longer = word + piece
        if longer not in self.prefixes and word in self.prefixes:
            score += self.config.unknown
        return _Text(unit, text, longer, context, score)

    def _finish(self, text: _Text) -> tuple[float, Gram]:
        """What the word that a text ends in adds, and the context after it."""
        if not text.word:
            return 0.0, text.context
        gained = self.config.weight * self.model.score(text.context, text.word) + self.config.bonus
        if text.word in self.prefixes and text.word not in self.model.vocabulary:
            gained += self.config.unknown  # a known word's beginning is no known word
        return gained, (*text.context, text.word)[-max(1, self.model.order - 1) :]

    def _close(self, text: _Text) -> float:
        """What the last word and the end of the sentence add."""
        gained, context = self._finish(text)
        return gained + self.config.weight * self.model.score(context, END)


class _Text:
    """A text in the beam: its last unit, what came before, the unfinished word and its score apart from the frames."""

    __slots__ = ("before", "context", "longer", "score", "unit", "word")

    def __init__(self, unit: int, before: _Text | None, word: str, context: Gram, score: float) -> None:
        self.unit, self.before, self.word, self.context, self.score = unit, before, word, context, score
        self.longer: dict[int, _Text] = {}

    @classmethod
    def empty(cls, model: NGram) -> _Text:
        return cls(0, None, "", model.start, 0.0)

    def units(self) -> list[int]:
        found, text = [], self
        while text.before is not None:
            found.append(text.unit)
            text = text.before
        return found[::-1]


def _add(one: float, other: float) -> float:
    """ln(e^one + e^other)."""
    if one < other:
        one, other = other, one
    return one if other == NEVER else one + math.log1p(math.exp(other - one))


def _place(log_probs: Tensor, lengths: Tensor, texts: list[list[int]]) -> list[Path]:
    """Frames and confidences of each text's units, from their Viterbi path."""
    units = torch.zeros(len(texts), max(1, *(len(text) for text in texts)), dtype=torch.int64)
    for row, text in zip(units, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.int64)
    frames = viterbi(log_probs, lengths, units, torch.tensor([len(text) for text in texts]))
    probs = log_probs.exp().numpy()
    paths = []
    for row, text in enumerate(texts):
        spans = frames[row, : len(text)]
        sure = [float(probs[row, start:end, unit].mean()) for unit, (start, end) in zip(text, spans, strict=True)]
        paths.append(Path(np.array(text, dtype=np.int64), spans, np.array(sure)))
    return paths
