"""CTC prefix beam search with a word language model (Hannun et al. 2014), hot words, and the n best texts.

    decode = Beam(units, model, BeamConfig())
    path = decode(log_probs, lengths)[0]

The search sums the probabilities of all frame paths of a text. Each finished word adds weight x ln P(word | context) +
bonus; an out-of-vocabulary (OOV) word adds a penalty for the word and one for each letter. The score of an unfinished
word is estimated by that of the best word with the same prefix (lookahead, Ortmanns et al. 1996), so that texts do not
gain by leaving words unfinished. The estimate and pending scores of hot words affect only the pruning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

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
TINY = 1e-100  # probabilities are rescaled below this value


@dataclass(frozen=True)
class Hypothesis:
    """A text at the end of a search. score: natural logarithm, of recogniser, language model and hot words."""

    words: tuple[str, ...]
    units: tuple[int, ...]
    score: float


class Beam:
    """Decodes log-probabilities (B, T, V) to one Path a row; model: None to use the recogniser alone."""

    def __init__(
        self,
        units: Characters | SentencePieces,
        model: NGram | None,
        config: BeamConfig,
        hot: HotWords = NO_HOT_WORDS,
        n_best: int = 1,
    ) -> None:
        """hot: boosted phrases, whose words get no OOV penalty. n_best: alternatives of a path, if more than 1."""
        silent = replace(config, weight=0.0, bonus=0.0, unknown=0.0, spelling=0.0, look_ahead=False)
        self.model, self.config = (model, config) if model is not None else (NGram.silent(), silent)
        self.hot, self.n_best = hot, n_best
        self.pieces = ["", *units.pieces(range(1, len(units)))]
        self.known = self.model.vocabulary | hot.words
        self.floor = self.model.score((), UNKNOWN)
        self.lookahead: Mapping[str, float] = self.model.best_by_prefix
        if oov := hot.words - self.model.vocabulary:
            prefixes = {word[:end] for word in oov for end in range(len(word) + 1)}
            scores = {prefix: max(self.floor, self.lookahead.get(prefix, self.floor)) for prefix in prefixes}
            self.lookahead = {**self.lookahead, **scores}

    @torch.no_grad()
    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[Path]:
        return decode_rows([self] * len(log_probs), log_probs, lengths)

    def search(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The texts in the beam at the end of one utterance (T, V), best first."""
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
        """The beam after one more frame.

        A text has two probabilities: of its paths that end in a blank, and of those that end in a unit. They are not
        logarithms, because sums of them are faster; `search` rescales them.
        """
        tried = [(int(unit), float(frame[unit])) for unit in np.flatnonzero(frame > threshold) if unit != BLANK]
        probs = frame.tolist()
        grown = list(beam)
        before = [(text, text.blank, text.unit_last) for text in beam]
        for text, blank, unit_last in before:
            text.blank, text.unit_last = (blank + unit_last) * probs[BLANK], unit_last * probs[text.unit]
            text.frame = number
        for text, blank, unit_last in before:
            for unit, prob in tried:
                # A repeated unit needs a blank between.
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
                text.rank = math.log(text.blank + text.unit_last) + text.score + text.lookahead
            grown.sort(key=attrgetter("rank"), reverse=True)
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
        lookahead = self.hot.pending[hot]
        if piece:
            is_oov = longer not in self.lookahead
            if is_oov:
                first = word in self.lookahead
                score += (config.unknown if first else 0.0) + config.spelling * len(longer if first else piece)
            if config.look_ahead:
                lookahead += config.weight * (self.floor if is_oov else self.lookahead[longer]) + config.bonus
        return _Text(unit, text, longer, context, score, lookahead, hot)

    def _finish(self, text: _Text) -> tuple[float, Gram]:
        """Score of the last word of a text, and the context after it."""
        word = text.word
        if not word:
            return 0.0, text.context
        gained = self.config.weight * self.model.score(text.context, word) + self.config.bonus
        if word in self.lookahead and word not in self.known:
            gained += self.config.unknown + self.config.spelling * len(
                word
            )  # not yet charged: a prefix of a known word
        return gained, (*text.context, word)[-max(1, self.model.order - 1) :]

    def _ranked(self, beam: list[_Text], scale: float) -> list[Hypothesis]:
        """Each text once, best first; probabilities of different units for the same text are added."""
        hypotheses: dict[tuple[str, ...], Hypothesis] = {}
        for text in beam:
            gained, context = self._finish(text)
            gained += self.config.weight * self.model.score(context, END)
            if text.word:
                gained += self.hot.finish(text.hot)
            score = math.log(text.blank + text.unit_last) + scale + text.score + gained
            units = text.units()
            words = tuple("".join(self.pieces[unit] for unit in units).split())
            if other := hypotheses.get(words):
                units = units if score > other.score else other.units
                score = float(np.logaddexp(score, other.score))
            hypotheses[words] = Hypothesis(words, units, score)
        return sorted(hypotheses.values(), key=lambda text: -text.score)


def decode_rows(beams: Sequence[Beam], log_probs: Tensor, lengths: Tensor) -> list[Path]:
    """Decodes log-probabilities (B, T, V) to one Path a row, each row with its own search."""
    scores = log_probs.float().cpu()
    rows = zip(beams, scores, lengths.tolist(), strict=True)
    n_best = [beam.search(row[:length].numpy()) for beam, row, length in rows]
    paths = _align(scores, lengths.cpu(), [list(texts[0].units) for texts in n_best])
    return [
        replace(path, alternatives=alternatives(texts)[: beam.n_best]) if beam.n_best > 1 else path
        for beam, path, texts in zip(beams, paths, n_best, strict=True)
    ]


def alternatives(texts: Sequence[Hypothesis]) -> tuple[Alternative, ...]:
    """Each text with its share of their total probability."""
    scores = np.array([text.score for text in texts])
    shares = np.exp(scores - np.logaddexp.reduce(scores))
    return tuple(
        Alternative(" ".join(text.words), float(share), text.score) for text, share in zip(texts, shares, strict=True)
    )


@dataclass(slots=True, eq=False)
class _Text:
    """A text in the beam: its last unit, the text before that unit, the unfinished word, the score without the frames.

    lookahead: estimate that only ranks the text, of the unfinished word and hot words. hot: state of their automaton.
    """

    unit: int
    before: _Text | None
    word: str
    context: Gram
    score: float
    lookahead: float
    hot: int
    longer: dict[int, _Text] = field(default_factory=dict)
    blank: float = 0.0
    unit_last: float = 0.0
    rank: float = 0.0
    frame: int = -1

    def units(self) -> tuple[int, ...]:
        units, text = [], self
        while text.before is not None:
            units.append(text.unit)
            text = text.before
        return tuple(reversed(units))


def _align(log_probs: Tensor, lengths: Tensor, texts: list[list[int]]) -> list[Path]:
    """Frames and confidences of the units of each text, from their Viterbi path."""
    units = torch.zeros(len(texts), max(1, *(len(text) for text in texts)), dtype=torch.int64)
    for row, text in zip(units, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.int64)
    frames = viterbi(log_probs, lengths, units, torch.tensor([len(text) for text in texts]))
    probs = log_probs.exp().numpy()
    paths = []
    for row, text in enumerate(texts):
        spans = frames[row, : len(text)]
        confidence = [float(probs[row, start:end, unit].mean()) for unit, (start, end) in zip(text, spans, strict=True)]
        paths.append(Path(np.array(text, dtype=np.int64), spans, np.array(confidence)))
    return paths
