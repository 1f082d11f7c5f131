"""A word n-gram language model: trained from transcripts, kept as ARPA text, as SRILM and KenLM read and write it.

    model = NGram.train(["turn on the light", "turn it off"], order=3)
    model.score(("turn", "on"), "the")         # natural logarithm of P(the | turn on)
    NGram.from_arpa(model.to_arpa())

Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998): a context that has gone on in many
different ways leaves more to the shorter context. Good on the small corpora that a recipe trains from.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
LN10 = math.log(10)
Gram = tuple[str, ...]


@dataclass(frozen=True)
class NGram:
    """Natural logarithms. log_prob: of each n-gram's last word given the others; backoff: of leaving a context."""

    order: int
    log_prob: Mapping[Gram, float]
    backoff: Mapping[Gram, float]

    @classmethod
    def train(cls, texts: Iterable[str], order: int = 3) -> NGram:
        """From normalised sentences. Raises ValueError when there are none."""
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
        words_known = {gram[0] for gram in counts if len(gram) == 1} | {UNKNOWN}
        prob: dict[Gram, float] = {}
        total, kinds = contexts[()]
        for word in words_known:
            prob[(word,)] = (counts[(word,)] + kinds / len(words_known)) / (total + kinds)
        for size in range(2, order + 1):
            for gram, count in counts.items():
                if len(gram) == size:
                    seen, kinds = contexts[gram[:-1]]
                    prob[gram] = (count + kinds * prob[gram[1:]]) / (seen + kinds)
        backoff = {gram: math.log(kinds / (seen + kinds)) for gram, (seen, kinds) in contexts.items() if gram}
        return cls(order, {gram: math.log(p) for gram, p in prob.items()}, backoff)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word that it knows."""
        return frozenset(gram[0] for gram in self.log_prob if len(gram) == 1) - {START, END, UNKNOWN}

    @property
    def start(self) -> Gram:
        """The context of a sentence's first word."""
        return (START,) * (self.order - 1)

    def score(self, context: Gram, word: str) -> float:
        """ln P(word | context); of the context the last order - 1 words count."""
        if (word,) not in self.log_prob:
            word = UNKNOWN
        context = context[max(0, len(context) - self.order + 1) :]
        cost = 0.0
        while True:
            found = self.log_prob.get((*context, word))
            if found is not None:
                return cost + found
            cost += self.backoff.get(context, 0.0)
            context = context[1:]

    def to_arpa(self) -> str:
        """ARPA text, base-10 logarithms; starts with the counts of each order."""
        grams: dict[int, list[Gram]] = defaultdict(list)
        # <s> is no continuation, but ARPA lists it for its back-off weight.
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
    def from_arpa(cls, text: str) -> NGram:
        """Reads ARPA text of any order. Raises ValueError naming the line that it cannot read."""
        prob: dict[Gram, float] = {}
        backoff: dict[Gram, float] = {}
        size = order = 0
        for number, line in enumerate(text.splitlines(), start=1):
            if line.startswith("\\") and line.endswith("-grams:"):
                size = int(line[1 : -len("-grams:")])
                order = max(order, size)
            elif line.strip() == "\\end\\":
                break
            elif size and line.strip():
                fields = line.split("\t") if "\t" in line else line.split(maxsplit=1)
                gram = tuple(fields[1].split()) if len(fields) > 1 else ()
                if len(gram) != size:
                    raise ValueError(
                        f"ARPA line {number}: expected a {size}-gram with its log probability, got {line!r}"
                    )
                prob[gram] = float(fields[0]) * LN10
                if len(fields) > 2:
                    backoff[gram] = float(fields[2]) * LN10
        if not order:
            raise ValueError("this is no ARPA text: it has no \\1-grams: section")
        return cls(order, prob, backoff)
