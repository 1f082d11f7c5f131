"""CTC prefix beam search with a word language model (Hannun et al. 2014), hot words, and the n best texts.

    decode = Beam(units, model, BeamConfig())
    path = decode(log_probs, lengths)[0]

The search adds up all the frame paths of a text. At each finished word it adds weight x ln P(word | words before) +
bonus; a word that the language model does not know may be written, at a price for the word and one for each letter.
While a word is unfinished, the best that it can still become stands in for its score (look-ahead, Ortmanns et al.
1996): else texts that never end a word would look cheap. That and what hot words have lent only steer the pruning;
a finished text's score does not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mtl.answers import Alternative
from mtl.config.decoding import BeamConfig
from mtl.decoding.alignment import viterbi
from mtl.decoding.greedy import Path
from mtl.decoding.hot_words import HotWords
from mtl.decoding.ngram import END, UNKNOWN, Gram, NGram
from mtl.text.units import BLANK, Characters, SentencePieces

NO_HOT_WORDS = HotWords(())
TINY = 1e-100  # probabilities are scaled up again before they come near the smallest double


@dataclass(frozen=True)
class Hypothesis:
    """One of the texts that a search ends with. score: of its frames, language model and hot words together, ln."""

    words: tuple[str, ...]
    units: tuple[int, ...]
    score: float


class Beam:
    """Decodes (B, T, V) log-probabilities to one Path a row; without a language model, by the sound alone."""

    def __init__(
        self,
        units: Characters | SentencePieces,
        model: NGram | None,
        config: BeamConfig,
        hot: HotWords = NO_HOT_WORDS,
        n_best: int = 1,
    ) -> None:
        """hot: boosted; their words are not charged as unknown. n_best: alternatives that a path carries, from 2 on."""
        silent = replace(config, weight=0.0, bonus=0.0, unknown=0.0, spelling=0.0, lookahead=False)
        self.model, self.config = (model, config) if model is not None else (NGram.silent(), silent)
        self.hot, self.n_best = hot, n_best
        self.pieces = ["", *units.pieces(range(1, len(units)))]
        self.known = self.model.vocabulary | hot.words
        self.floor = self.model.score((), UNKNOWN)
        self.ahead: Mapping[str, float] = self.model.best_by_prefix
        if strange := hot.words - self.model.vocabulary:
            self.ahead = self._with(strange)

    def _with(self, words: Iterable[str]) -> dict[str, float]:
        """The look-ahead of a vocabulary with new words in it, which the language model takes for unknown ones."""
        ahead = dict(self.model.best_by_prefix)
        for word in words:
            for end in range(len(word) + 1):
                ahead[word[:end]] = max(self.floor, ahead.get(word[:end], self.floor))
        return ahead

    @torch.no_grad()
    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[Path]:
        return decode_rows([self] * len(log_probs), log_probs, lengths)

    def search(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """All texts held at the end of one utterance, (T, V), the best first; each text once."""
        beam = [_Text(0, None, "", self.model.start, 0.0, 0.0, self.hot.start)]
        beam[0].blank = 1.0
        scale, width = 0.0, max(self.config.width, self.n_best)
        threshold = math.exp(self.config.candidates)
        for number, frame in enumerate(np.exp(log_probs.astype(np.float64))):
            beam = self._advance(beam, frame, threshold, width, number)
            best = max(text.blank + text.unit_last for text in beam)
            if best < TINY:
                scale += math.log(best)
                for text in beam:
                    text.blank, text.unit_last = text.blank / best, text.unit_last / best
        return self._ranked(beam, scale)

    def _advance(self, beam: list[_Text], frame: np.ndarray, threshold: float, width: int, number: int) -> list[_Text]:
        """One frame further. A text has two probabilities: of its paths that end in a blank, and of those that do not.

        All are of one frame and not logarithms: sums are then sums, and `search` keeps them away from zero.
        """
        tried = [(int(unit), float(frame[unit])) for unit in np.flatnonzero(frame > threshold) if unit != BLANK]
        probs = frame.tolist()
        nothing = probs[BLANK]
        grown = list(beam)
        before = [(text, text.blank, text.unit_last) for text in beam]
        for text, blank, unit_last in before:
            text.blank, text.unit_last = (blank + unit_last) * nothing, unit_last * probs[text.unit]
            text.frame = number
        for text, blank, unit_last in before:
            for unit, prob in tried:
                # A unit that repeats needs a blank between.
                reached = (blank if unit == text.unit else blank + unit_last) * prob
                if not reached:
                    continue
                longer = text.longer.get(unit)
                if longer is None:
                    longer = text.longer[unit] = self._extend(text, unit)
                if longer.frame == number:
                    longer.unit_last += reached
                else:
                    longer.blank, longer.unit_last, longer.frame = 0.0, reached, number
                    grown.append(longer)
        grown = [text for text in grown if text.blank + text.unit_last > 0]
        if len(grown) > width:
            for text in grown:
                text.rank = math.log(text.blank + text.unit_last) + text.score + text.hope
            grown.sort(key=_rank, reverse=True)
            del grown[width:]
        return grown

    def _extend(self, text: _Text, unit: int) -> _Text:
        piece = self.pieces[unit]
        score, word, context, hot = text.score, text.word, text.context, text.hot
        if piece.startswith(" "):
            if word:
                gained, context = self._finish(text)
                hot, paid = self.hot.step(hot, " ")
                score += gained + paid
            word, piece = "", piece[1:]
        config = self.config
        for letter in piece:
            hot, paid = self.hot.step(hot, letter)
            score += paid
        longer = word + piece
        hope = self.hot.held[hot]
        if piece:
            strange = longer not in self.ahead
            if strange:
                first = word in self.ahead
                score += (config.unknown if first else 0.0) + config.spelling * len(longer if first else piece)
            if config.lookahead:
                hope += config.weight * (self.floor if strange else self.ahead[longer]) + config.bonus
        return _Text(unit, text, longer, context, score, hope, hot)

    def _finish(self, text: _Text) -> tuple[float, Gram]:
        """What the word that a text ends in adds, and the context after it."""
        word = text.word
        if not word:
            return 0.0, text.context
        gained = self.config.weight * self.model.score(text.context, word) + self.config.bonus
        if word in self.ahead and word not in self.known:
            gained += self.config.unknown + self.config.spelling * len(word)  # a known word's beginning is none
        return gained, (*text.context, word)[-max(1, self.model.order - 1) :]

    def _ranked(self, beam: list[_Text], scale: float) -> list[Hypothesis]:
        """Each text once, though several strings of units may spell it: their probabilities are added up."""
        found: dict[tuple[str, ...], Hypothesis] = {}
        for text in beam:
            gained, context = self._finish(text)
            gained += self.config.weight * self.model.score(context, END)
            if text.word:
                gained += self.hot.finish(text.hot)
            score = math.log(text.blank + text.unit_last) + scale + text.score + gained
            units = text.units()
            words = tuple("".join(self.pieces[unit] for unit in units).split())
            other = found.get(words)
            if other is not None:
                units = units if score > other.score else other.units
                score = float(np.logaddexp(score, other.score))
            found[words] = Hypothesis(words, units, score)
        return sorted(found.values(), key=lambda text: -text.score)


def decode_rows(beams: Sequence[Beam], log_probs: Tensor, lengths: Tensor) -> list[Path]:
    """(B, T, V) log-probabilities to one Path a row, each row by a search of its own."""
    scores = log_probs.float().cpu()
    rows = zip(beams, scores, lengths.tolist(), strict=True)
    found = [beam.search(row[:length].numpy()) for beam, row, length in rows]
    paths = _place(scores, lengths.cpu(), [list(texts[0].units) for texts in found])
    return [
        replace(path, alternatives=alternatives(texts)[: beam.n_best]) if beam.n_best > 1 else path
        for beam, path, texts in zip(beams, paths, found, strict=True)
    ]


def alternatives(texts: Sequence[Hypothesis]) -> tuple[Alternative, ...]:
    """Every text with its share of all of their probability."""
    scores = np.array([text.score for text in texts])
    shares = np.exp(scores - np.logaddexp.reduce(scores))
    return tuple(
        Alternative(" ".join(text.words), float(share), text.score) for text, share in zip(texts, shares, strict=True)
    )


class _Text:
    """A text in the beam: its last unit, what came before, the unfinished word, and its score apart from the frames.

    hope: what is only lent, to rank it by: look-ahead and unfinished hot words. hot: state of their automaton.
    """

    __slots__ = (
        *("before", "blank", "context", "frame", "hope", "hot", "longer", "rank"),
        *("score", "unit", "unit_last", "word"),
    )

    def __init__(
        self, unit: int, before: _Text | None, word: str, context: Gram, score: float, hope: float, hot: int
    ) -> None:
        self.unit, self.before, self.word, self.context = unit, before, word, context
        self.score, self.hope, self.hot = score, hope, hot
        self.longer: dict[int, _Text] = {}
        self.blank = self.unit_last = self.rank = 0.0
        self.frame = -1

    def units(self) -> tuple[int, ...]:
        found, text = [], self
        while text.before is not None:
            found.append(text.unit)
            text = text.before
        return tuple(reversed(found))


def _rank(text: _Text) -> float:
    return text.rank


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
