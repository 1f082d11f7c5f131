"""Slot substitution: slot values of a sentence replaced by others of the same kind (Louvan and Magnini 2020).

    values = SlotValues(examples, "slots", codec.labels["slots"])
    other = values.exchange(example, 0.3, generator)

"flights to boston" teaches one city; with substitution it teaches every city of the training rows. Only sentences of
text are changed, not recordings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mtl.inputs.batch import Example
from mtl.inputs.text import TextArrays
from mtl.spec import TEXT, task


class SlotValues:
    """Slot values of `examples` by kind, drawn in proportion to the square root of their counts.

    The kind of a slot follows the last dot of its name: fromloc.city_name and toloc.city_name share their values.

    tagger: task whose targets are the BIO tags. tags: names of the tags by number, as in Codec.labels.
    """

    def __init__(self, examples: Iterable[Example], tagger: str, tags: Sequence[str]) -> None:
        self._tagger = tagger
        numbers = {tag: number for number, tag in enumerate(tags)}
        self._slots = {number: tag[2:] for tag, number in numbers.items() if tag.startswith("B-")}
        self._inside = {begin: numbers.get(f"I-{slot}") for begin, slot in self._slots.items()}
        counts: dict[str, Counter[bytes]] = {}
        self._values: dict[str, list[TextArrays]] = {}
        for example in examples:
            for start, end, begin in self._spans(example.targets[self._tagger]):
                kind, value = self._kind(begin), _part(example, start, end)
                key = value.characters.tobytes()  # not the words: all unknown words have one number
                if key not in counts.setdefault(kind, Counter()):
                    self._values.setdefault(kind, []).append(value)
                counts[kind][key] += 1  # in the order of first occurrence, as the values
        roots = {kind: np.sqrt(list(of_values.values())) for kind, of_values in counts.items()}
        self._chances = {kind: root / root.sum() for kind, root in roots.items()}

    def exchange(self, example: Example, share: float, generator: np.random.Generator) -> Example:
        """The example with about `share` of its slots replaced; the same object if none is.

        A slot is not replaced if its kind is unknown, or if the new value has several words and training has no I- tag
        of the slot. A sentence with a translation is not changed, because the translation would no longer fit.
        """
        if any(task(name).answer == "translation" and len(units) for name, units in example.targets.items()):
            return example
        tagged = example.targets[self._tagger]
        parts: list[TextArrays] = []
        tags: list[np.ndarray] = []
        done = 0  # words of the example that are in the parts
        for start, end, begin in self._spans(tagged):
            values = self._values.get(self._kind(begin))
            if generator.random() >= share or values is None:
                continue
            value = values[generator.choice(len(values), p=self._chances[self._kind(begin)])]
            inside = self._inside[begin]
            if inside is None and len(value.words) > 1:
                continue
            parts += [_part(example, done, start), value]
            new_tags = np.asarray([begin] + [inside] * (len(value.words) - 1), dtype=np.int64)
            tags += [tagged[done:start], new_tags]
            done = end
        if not done:
            return example
        words, characters = zip(*parts, _part(example, done, None), strict=True)
        return replace(
            example,
            inputs={**example.inputs, TEXT: TextArrays(np.concatenate(words), np.concatenate(characters))},
            targets={**example.targets, self._tagger: np.concatenate([*tags, tagged[done:]])},
        )

    def _spans(self, tagged: np.ndarray) -> list[tuple[int, int, int]]:
        """First word, last word + 1 and B- tag of each slot; an I- without its B- begins no slot."""
        spans: list[tuple[int, int, int]] = []
        tags = tagged.tolist()
        for start, tag in enumerate(tags):
            if tag in self._slots:
                end = start + 1
                while end < len(tags) and tags[end] == self._inside[tag]:
                    end += 1
                spans.append((start, end, tag))
        return spans

    def _kind(self, begin: int) -> str:
        return self._slots[begin].rpartition(".")[2]


def _part(example: Example, start: int, end: int | None) -> TextArrays:
    words, characters = example.inputs[TEXT]
    return TextArrays(words[start:end], characters[start:end])
