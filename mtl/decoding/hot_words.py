"""Phrases that a listener expects: an automaton over characters that boosts them while they are being written.

    hot = HotWords(["anna karenina", "anna"], weight=0.5)
    state, gained = hot.step(hot.start, "a")      # the text's next character; a sentence starts behind a space

Aho-Corasick (1975) over all phrases at once, used as the context graph of shallow-fusion biasing (Zhao et al. 2019;
Le et al. 2021): every character of a phrase that has been begun is worth `weight`, and all of it is taken back where
the phrase is left unfinished. Phrases match whole words. A finished text has therefore gained weight x characters,
inner spaces counted, for each phrase at each place where it stands, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WEIGHT = 0.5  # natural logarithms per character, beside the recogniser's


class HotWordError(ValueError):
    """A hot word that cannot be listened for."""


class HotWords:
    """States are integers. What `held[state]` says is lent for unfinished phrases; `paid` gains are for good.

    phrases: as transcripts are written (mtl.text.normalization.normalise), each once. words: all of theirs.
    """

    def __init__(self, phrases: Iterable[str], weight: float = WEIGHT) -> None:
        """Raises HotWordError for a phrase without a letter or digit."""
        from mtl.text.normalization import (
            normalise,  # it brings torch, for which a command line that shows WEIGHT would wait
        )

        given = list(phrases)
        for phrase in given:
            if not normalise(phrase):
                raise HotWordError(f"the hot word {phrase!r} has no letter or digit that could be heard")
        self.phrases = tuple(dict.fromkeys(normalise(phrase) for phrase in given))
        self.words = frozenset(word for phrase in self.phrases for word in phrase.split())
        self.weight = weight
        self.held: list[float] = [0.0]
        self._paid: list[float] = [0.0]
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        for phrase in self.phrases:
            self._insert(phrase)
        self._link()
        self.start = self.step(0, " ")[0]

    def step(self, state: int, character: str) -> tuple[int, float]:
        """The next state, and what phrases that end here are worth; `held` of the states is not part of it."""
        while character not in self._next[state] and state:
            state = self._fail[state]
        state = self._next[state].get(character, 0)
        return state, self._paid[state]

    def finish(self, state: int) -> float:
        """What phrases are worth that end with the sentence in a state."""
        return self.step(state, " ")[1]

    def _insert(self, phrase: str) -> None:
        """A branch of the trie, from the space before a phrase to the one behind it."""
        state = 0
        for character in f" {phrase} ":
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self.held.append(0.0)
                self._paid.append(0.0)
            state = self._next[state][character]
        self._paid[state] = self.weight * len(phrase)

    def _link(self) -> None:
        """Failure links in breadth-first order, and with them what is paid and held in every state."""
        queue = deque((child, 0, 0.0) for child in self._next[0].values())
        while queue:
            state, depth, paid = queue.popleft()
            own = self._paid[state]
            paid = max(paid, own)
            self._paid[state] += self._paid[self._fail[state]]
            # A phrase that goes on from a shorter one is lent only what the shorter one was not paid. Behind a phrase
            # that none goes on from, only a shorter ending of the text can be a beginning.
            self.held[state] = self.weight * depth - paid if self._next[state] else self.held[self._fail[state]]
            for character, child in self._next[state].items():
                link = self._fail[state]
                while character not in self._next[link] and link:
                    link = self._fail[link]
                self._fail[child] = self._next[link].get(character, 0) if state else 0
                queue.append((child, depth + 1, paid))
