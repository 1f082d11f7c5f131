"""A word n-gram language model, trained from transcripts and stored as ARPA text, as in SRILM and KenLM.

    model = NGram.train(["turn on the light", "turn it off"], order=3)
    model.score(("turn", "on"), "the")         # natural logarithm of P(the | turn on)
    NGram.from_arpa(model.to_arpa())
    NGram.read("lm.arpa.gz")                   # output of KenLM's lmplz or SRILM's ngram-count

Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998), which suits small corpora: a context
with many different continuations gives more probability to the shorter context.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10)
NO_UNKNOWN = -100.0  # log10 P(<unk>) of a model without <unk>, as in KenLM
_GAP = re.compile(r"[ \t]+")
_COUNT = re.compile(r"ngram +(\d+) *= *(\d+)")
_SECTION = re.compile(r"\\(\d+)-grams:")
Gram = tuple[str, ...]


@dataclass(frozen=True)
class NGram:
    """Natural logarithms. log_prob: of the last word of each n-gram given the others; backoff: weight of a context."""

    order: int
    log_prob: Mapping[Gram, float]
    backoff: Mapping[Gram, float]

    @classmethod
    def train(cls, texts: Iterable[str], order: int = 3) -> NGram:
        """From normalised sentences. Raises ValueError if there are none."""
        counts: Counter[Gram] = Counter()
        for text in texts:
            words = [START] * (order - 1) + text.split() + [END]
            for end in range(order, len(words) + 1):
                for size in range(1, order + 1):
                    counts[tuple(words[end - size : end])] += 1
        if not counts:
            raise ValueError("a language model needs at least one sentence to learn from")
        contexts: dict[Gram, list[int]] = defaultdict(lambda: [0, 0])  # all continuations, different ones
        for gram, count in counts.items():
            contexts[gram[:-1]][0] += count
            contexts[gram[:-1]][1] += 1
        vocabulary = {gram[0] for gram in counts if len(gram) == 1} | {UNKNOWN}
        prob: dict[Gram, float] = {}
        total, kinds = contexts[()]
        for word in vocabulary:
            prob[(word,)] = (counts[(word,)] + kinds / len(vocabulary)) / (total + kinds)
        for size in range(2, order + 1):
            for gram, count in counts.items():
                if len(gram) == size:
                    seen, kinds = contexts[gram[:-1]]
                    prob[gram] = (count + kinds * prob[gram[1:]]) / (seen + kinds)
        backoff = {gram: math.log(kinds / (seen + kinds)) for gram, (seen, kinds) in contexts.items() if gram}
        return cls(order, {gram: math.log(p) for gram, p in prob.items()}, backoff)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All words, without the special ones."""
        return frozenset(gram[0] for gram in self.log_prob if len(gram) == 1) - {START, END, UNKNOWN}

    @cached_property
    def best_by_prefix(self) -> Mapping[str, float]:
        """The highest unigram score among the words with each prefix."""
        best: dict[str, float] = {}
        for word in self.vocabulary:
            score = self.log_prob[(word,)]
            for end in range(len(word) + 1):
                if score > best.get(word[:end], -math.inf):
                    best[word[:end]] = score
        return best

    @classmethod
    def silent(cls) -> NGram:
        """A model without a vocabulary, which gives every word the same score."""
        return cls(1, {(UNKNOWN,): 0.0}, {})

    @property
    def start(self) -> Gram:
        """The context of a sentence's first word."""
        return (START,) * (self.order - 1)

    def score(self, context: Gram, word: str) -> float:
        """ln P(word | context), from the last order - 1 words of the context."""
        if (word,) not in self.log_prob:
            word = UNKNOWN
        context = context[max(0, len(context) - self.order + 1) :]
        cost = 0.0
        while True:
            log_prob = self.log_prob.get((*context, word))
            if log_prob is not None:
                return cost + log_prob
            cost += self.backoff.get(context, 0.0)
            context = context[1:]

    def to_arpa(self) -> str:
        """ARPA text, with base-10 logarithms."""
        grams: dict[int, list[Gram]] = defaultdict(list)
        # <s> has no probability, but ARPA lists it for its back-off weight.
        for gram in sorted(set(self.log_prob) | set(self.backoff)):
            grams[len(gram)].append(gram)
        lines = ["\\data\\", *(f"ngram {size}={len(grams[size])}" for size in sorted(grams))]
        for size in sorted(grams):
            lines += ["", f"\\{size}-grams:"]
            for gram in grams[size]:
                prob = self.log_prob[gram] / LN10 if gram in self.log_prob else -99.0
                weight = f"\t{self.backoff[gram] / LN10:.6f}" if gram in self.backoff else ""
                lines.append(f"{prob:.6f}\t{' '.join(gram)}{weight}")
        return "\n".join([*lines, "", "\\end\\", ""])

    @classmethod
    def read(cls, path: Path | str) -> NGram:
        """An ARPA file, gzipped or not. Raises OSError, or ValueError naming the file and the line."""
        content = Path(path).read_bytes()
        try:
            return cls.from_arpa((gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8"))
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_arpa(cls, text: str) -> NGram:
        """Reads ARPA text of any order, separated by tabs or spaces; back-off weights of 0 may be absent.

        Raises:
            ValueError: a line cannot be read, or the number of n-grams differs from that in the header.
        """
        prob: dict[Gram, float] = {}
        backoff: dict[Gram, float] = {}
        stated: dict[int, int] = {}
        counts: Counter[int] = Counter()
        size, ended = 0, False
        for number, line in enumerate(text.split("\n"), start=1):  # a word may contain what splitlines splits at
            line = line.strip(" \t\r")
            if not line or ended:
                continue
            if section := _SECTION.fullmatch(line):
                size = int(section[1])
            elif line == "\\end\\":
                ended = True
            elif size:
                gram, log_prob, weight = _entry(line, size, number)
                prob[gram] = log_prob * LN10
                if weight is not None:
                    backoff[gram] = weight * LN10
                counts[size] += 1
            elif count := _COUNT.fullmatch(line):
                stated[int(count[1])] = int(count[2])
        if not counts[1]:
            raise ValueError("this is no ARPA text: it has no \\1-grams: section with words in it")
        if not ended or any(counts[order] != stated.get(order, 0) for order in {*counts, *stated}):
            sizes = ", ".join(
                f"{counts[order]:,} {order}-grams of {stated.get(order, 0):,}" for order in sorted(counts)
            )
            end = "" if ended else " and no \\end\\"
            raise ValueError(f"the ARPA text was cut off or edited: it has {sizes} that its head promises{end}")
        prob.setdefault((UNKNOWN,), NO_UNKNOWN * LN10)
        return cls(max(counts), prob, backoff)


def _entry(line: str, size: int, number: int) -> tuple[Gram, float, float | None]:
    """An n-gram with the base-10 logarithms of its probability and of its back-off weight, if any."""
    fields = _GAP.split(line)
    try:
        if len(fields) not in (size + 1, size + 2):
            raise ValueError
        weight = float(fields[-1]) if len(fields) == size + 2 else None
        return tuple(fields[1 : size + 1]), float(fields[0]), weight
    except ValueError:
        raise ValueError(
            f"ARPA line {number}: expected a log probability, {size} words and a back-off weight or none, got {line!r}"
        ) from None
