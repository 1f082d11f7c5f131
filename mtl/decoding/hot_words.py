"""Hot words: an automaton over characters that boosts phrases in the beam search.

    hot = HotWords(["anna karenina", "anna"], weight=0.5)
    state, gained = hot.step(hot.start, "a")      # the text's next character; a sentence starts after a space

An Aho-Corasick automaton (1975) of all phrases is the context graph of shallow-fusion biasing (Zhao et al. 2019; Le et
al. 2021). Each character of a started phrase adds `weight`; the sum is subtracted again if the phrase is not
completed. Phrases match whole words. The score of a finished text includes weight x characters (with inner spaces) for
each occurrence of a phrase.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WEIGHT = 0.5  # natural logarithm, per character


class HotWordError(ValueError):
    """A hot word without a letter or digit."""


class HotWords:
    """States are integers. pending: score of an unfinished phrase by state, subtracted if it stays unfinished.

    phrases: normalised (mtl.text.normalization.normalise), each once. words: those of all phrases.
    """

    def __init__(self, phrases: Iterable[str], weight: float = WEIGHT) -> None:
        """Raises HotWordError for a phrase without a letter or digit."""
        from mtl.text.normalization import normalise  # imports torch, which would slow down the command line

        normalised = {phrase: normalise(phrase) for phrase in phrases}
        for phrase, text in normalised.items():
            if not text:
                raise HotWordError(f"the hot word {phrase!r} has no letter or digit")
        self.phrases = tuple(dict.fromkeys(normalised.values()))
        self.words = frozenset(word for phrase in self.phrases for word in phrase.split())
        self.weight = weight
        self.pending: list[float] = [0.0]
        self._completed: list[float] = [0.0]
        self._next: list[dict[str, int]] = [{}]
        self._fail: list[int] = [0]
        for phrase in self.phrases:
            self._insert(phrase)
        self._link()
        self.start = self.step(0, " ")[0]

    def step(self, state: int, character: str) -> tuple[int, float]:
        """The next state, and the score of the phrases that end here, without `pending`."""
        while character not in self._next[state] and state:
            state = self._fail[state]
        state = self._next[state].get(character, 0)
        return state, self._completed[state]

    def finish(self, state: int) -> float:
        """Score of the phrases that end with the sentence in this state."""
        return self.step(state, " ")[1]

    def _insert(self, phrase: str) -> None:
        """Adds a phrase to the trie, from the space before it to the one after it."""
        state = 0
        for character in f" {phrase} ":
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self.pending.append(0.0)
                self._completed.append(0.0)
            state = self._next[state][character]
        self._completed[state] = self.weight * len(phrase)

    def _link(self) -> None:
        """Sets the failure links, completed and pending scores of every state, in breadth-first order."""
        queue = deque((child, 0, 0.0) for child in self._next[0].values())
        while queue:
            state, depth, completed = queue.popleft()
            completed = max(completed, self._completed[state])
            self._completed[state] += self._completed[self._fail[state]]
            # Pending is what no shorter phrase has completed. After a phrase that no other continues, only a shorter
            # suffix of the text can start a phrase.
            self.pending[state] = (
                self.weight * depth - completed if self._next[state] else self.pending[self._fail[state]]
            )
            for character, child in self._next[state].items():
                link = self._fail[state]
                while character not in self._next[link] and link:
                    link = self._fail[link]
                self._fail[child] = self._next[link].get(character, 0) if state else 0
                queue.append((child, depth + 1, completed))
