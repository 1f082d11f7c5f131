"""Slot values exchanged for others of their kind, so that a sentence of text teaches more than its own words.

    values = SlotValues(examples, "slots", codec.labels["slots"])
    other = values.exchange(example, 0.3, generator)

"flights to boston" teaches one city; exchanged, it teaches every city that training names anywhere (slot
substitution, Louvan and Magnini 2020). A recording cannot be changed so: whoever calls this gives it sentences of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl.inputs.batch import Example
from mtl.spec import task


@dataclass(frozen=True)
class Value:
    """Words (L,) and their characters (L, C), as in an Example."""

    words: np.ndarray
    characters: np.ndarray


class SlotValues:
    """The values of each kind of slot that `examples` hold, each as often drawn as the root of how often it is there.

    A kind is what follows a name's last dot: fromloc.city_name and toloc.city_name have their values in common.

    tagger: the task whose targets are the BIO tags. tags: their names by number, as in Codec.labels.
    """

    def __init__(self, examples: Iterable[Example], tagger: str, tags: Sequence[str]) -> None:
        self._tagger = tagger
        numbers = {tag: number for number, tag in enumerate(tags)}
        self._slots = {number: tag[2:] for tag, number in numbers.items() if tag.startswith("B-")}
        self._inside = {begin: numbers.get(f"I-{slot}") for begin, slot in self._slots.items()}
        counts: dict[str, Counter[bytes]] = {}
        self._values: dict[str, list[Value]] = {}
        for example in examples:
            for start, end, begin in self._spans(example.targets[self._tagger]):
                kind = self._kind(begin)
                value = Value(example.words[start:end], example.characters[start:end])
                key = value.characters.tobytes()  # not the words: those beyond the vocabulary have one number
                if key not in counts.setdefault(kind, Counter()):
                    self._values.setdefault(kind, []).append(value)
                counts[kind][key] += 1  # in the order in which they first come, as the values are
        self._chances = {kind: _shares(list(found.values())) for kind, found in counts.items()}

    def exchange(self, example: Example, share: float, generator: np.random.Generator) -> Example:
        """The example with about `share` of its slots given another value; itself if none is.

        Kinds that these values do not know stay as they are, and so does a slot of which training has no
        second word where the value drawn has two. A translated sentence stays: it would no longer be translated.
        """
        if any(task(name).answer == "translation" and len(units) for name, units in example.targets.items()):
            return example
        tagged = example.targets[self._tagger]
        words: list[np.ndarray] = []
        characters: list[np.ndarray] = []
        tags: list[np.ndarray] = []
        done = 0  # words of the example that the pieces account for
        for start, end, begin in self._spans(example.targets[self._tagger]):
            values = self._values.get(self._kind(begin))
            if generator.random() >= share or values is None:
                continue
            value = values[generator.choice(len(values), p=self._chances[self._kind(begin)])]
            inside = self._inside[begin]
            if inside is None and len(value.words) > 1:
                continue
            words += [example.words[done:start], value.words]
            characters += [example.characters[done:start], value.characters]
            tags += [tagged[done:start], _tags(begin, inside, len(value.words))]
            done = end
        if not done:
            return example
        return replace(
            example,
            words=np.concatenate([*words, example.words[done:]]),
            characters=np.concatenate([*characters, example.characters[done:]]),
            targets={**example.targets, self._tagger: np.concatenate([*tags, tagged[done:]])},
        )

    def _spans(self, tagged: np.ndarray) -> list[tuple[int, int, int]]:
        """First word, last word + 1 and B- tag of each slot. A tag I- without its B- begins none, nor does IGNORE."""
        found: list[tuple[int, int, int]] = []
        tags = tagged.tolist()
        for start, tag in enumerate(tags):
            if tag in self._slots:
                end = start + 1
                while end < len(tags) and tags[end] == self._inside[tag]:
                    end += 1
                found.append((start, end, tag))
        return found

    def _kind(self, begin: int) -> str:
        return self._slots[begin].rpartition(".")[2]


def _tags(begin: int, inside: int | None, length: int) -> np.ndarray:
    return np.asarray([begin] + [inside] * (length - 1), dtype=np.int64)


def _shares(counts: Sequence[int]) -> np.ndarray:
    roots = np.sqrt(counts)
    shares: np.ndarray = roots / roots.sum()
    return shares
