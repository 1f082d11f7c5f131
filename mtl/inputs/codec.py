"""Vocabularies: text, labels and domains as numbers.

    codec = Codec.build(rows, tasks=("transcript", "intent", "slots"))
    example = codec.encode({"text": "turn on the light", "intent": "light_on"})

A codec is stored as JSON, so that a packaged model needs no pickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mtl import spec
from mtl.groups import groups
from mtl.inputs.batch import Example
from mtl.inputs.group import InputGroup, input_group
from mtl.inputs.targets import ENCODINGS, Encoding, is_numeric
from mtl.inputs.tts import Scale, SpeechCode
from mtl.spec import TEXT, TaskSpec, with_context
from mtl.text.units import Units, units_from, units_from_json
from mtl.text.words import tokens_of

PADDING, UNKNOWN = 0, 1  # of words and characters; known ones begin at 2
TURN = "|"  # first word of each turn of a context; normalised text does not contain it
CONTEXT_WORDS = 64  # of the previous turns, the latest
MAX_WORD_CHARACTERS = 20


@dataclass(frozen=True)
class Codec:
    """Every vocabulary of a model.

    units, targets: of transcripts and of translations; targets is None without such a task.
    words, characters: of the text front-end, without padding and unknown.
    counts: of each word in the training rows; () if unknown.
    labels: class names of each classification task, BIO tags of each task that tags words.
    scales: mean and deviation of the labels of each numeric task.
    context: number of words that are read of the previous turns, the latest; 0 if no task reads them.
    speech: vocabularies and scales of synthesis; None without.
    domains: of the training recordings, by the column `domain_by` (see mtl.models.domains).
    """

    units: Units
    words: tuple[str, ...]
    characters: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    context: int = 0
    targets: Units | None = None
    domains: tuple[str, ...] = ()
    domain_by: str = "corpus"
    counts: tuple[int, ...] = ()
    speech: SpeechCode | None = None
    scales: Mapping[str, Scale] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        rows: Iterable[Mapping[str, Any]],
        tasks: Sequence[str],
        kind: str = "characters",
        pieces: int = 256,
        context: int = CONTEXT_WORDS,
        target_kind: str = "sentencepiece",
        target_pieces: int = 500,
        domain_by: str | None = None,
    ) -> Codec:
        """Vocabularies of training rows.

        domain_by: the column that names a recording's domain, if the model is conditioned on it.
        """
        context = context if with_context(tasks) else 0
        specs = [spec.task(name) for name in tasks]
        texts: list[str] = []
        translations: list[str] = []
        words: Counter[str] = Counter()
        labels: dict[str, set[str]] = {one.name: set() for one in specs if one.answer == "label"}
        tags: dict[str, set[str]] = {one.name: set() for one in specs if one.answer == "tags"}
        numbers: dict[str, list[float]] = {one.name: [] for one in specs if is_numeric(one)}
        domains: set[str] = set()
        for row in rows:
            if domain_by and row.get("audio") is not None and row.get(domain_by):
                domains.add(row[domain_by])
            if row.get("text"):
                texts.append(row["text"])
            words.update(tokens_of(row))
            if context:
                words.update(context_of(row))
            for one in specs:
                if (label := row.get(one.label)) is None:
                    continue
                if one.name in labels:
                    labels[one.name].add(label)
                elif one.name in tags:
                    tags[one.name].update(label)
                elif one.name in numbers:
                    numbers[one.name].append(label)
                elif one.answer == "translation" and label:
                    translations.append(label)
        names = {task: tuple(sorted(known)) for task, known in labels.items()}
        names |= {task: ("O", *sorted(known - {"O"})) for task, known in tags.items()}
        known_words = tuple(sorted(words))
        return cls(
            units=units_from(kind, texts, pieces),
            words=known_words,
            characters=tuple(sorted(set("".join(known_words)))),
            labels=names,
            context=context,
            targets=units_from(target_kind, translations, target_pieces) if translations else None,
            domains=tuple(sorted(domains)),
            domain_by=domain_by or "corpus",
            counts=tuple(words[word] for word in known_words),
            scales={task: scale_of(values) for task, values in numbers.items() if values},
        )

    @cached_property
    def _word_ids(self) -> dict[str, int]:
        return {word: position + 2 for position, word in enumerate(self.words)}

    @cached_property
    def _character_ids(self) -> dict[str, int]:
        return {character: position + 2 for position, character in enumerate(self.characters)}

    @cached_property
    def label_ids(self) -> dict[str, dict[str, int]]:
        """Number of each class, or tag, by task."""
        return {task: {name: position for position, name in enumerate(names)} for task, names in self.labels.items()}

    @property
    def open_set_labels(self) -> frozenset[str]:
        """Labels of training of the open-set tasks, such as the known speakers."""
        return frozenset(label for task, names in self.labels.items() if spec.task(task).open_set for label in names)

    @cached_property
    def _encodings(self) -> list[tuple[TaskSpec, Encoding]]:
        """Tasks that rows are encoded for."""
        known = [(one, ENCODINGS[one.answer]) for one in spec.tasks() if one.answer in ENCODINGS]
        return [(one, encoding) for one, encoding in known if encoding.applies(one, self)]

    @cached_property
    def _groups(self) -> dict[str, InputGroup]:
        return {one.name: input_group(one.name) for one in groups()}

    @cached_property
    def _domain_ids(self) -> dict[str, int]:
        return {name: position + 1 for position, name in enumerate(self.domains)}

    def domain(self, name: str | None) -> int:
        """Number of a domain; 0 for an unknown one."""
        return self._domain_ids.get(name or "", 0)

    def encode(self, row: Mapping[str, Any]) -> Example:
        """Encodes one row of the utterance table. An unknown label counts as not labelled."""
        arrays = {name: one.encode(row, self) for name, one in self._groups.items()}
        turns = context_of(row)[-self.context :] if self.context else None
        return Example(
            id=row.get("id") or "",
            inputs={name: array for name, array in arrays.items() if array is not None},
            targets={one.name: encoding.encode(one, row, self) for one, encoding in self._encodings},
            domain=self.domain(row.get(self.domain_by)),
            context=None if turns is None else self._groups[TEXT].encode({"tokens": turns}, self),
        )

    def number(self, tokens: Sequence[str]) -> np.ndarray:
        """Numbers of words, (L,)."""
        return np.asarray([self._word_ids.get(token, UNKNOWN) for token in tokens], dtype=np.int64)

    def spell(self, tokens: Sequence[str]) -> np.ndarray:
        """Characters of each word, (L, MAX_WORD_CHARACTERS), padded or truncated."""
        spelled = np.zeros((len(tokens), MAX_WORD_CHARACTERS), dtype=np.int64)
        for position, token in enumerate(tokens):
            ids = [self._character_ids.get(character, UNKNOWN) for character in token[:MAX_WORD_CHARACTERS]]
            spelled[position, : len(ids)] = ids
        return spelled

    def to_json(self) -> dict[str, Any]:
        return {
            "units": self.units.to_json(),
            "words": list(self.words),
            **({"counts": list(self.counts)} if self.counts else {}),
            "characters": list(self.characters),
            "labels": {task: list(names) for task, names in self.labels.items()},
            **({"context": self.context} if self.context else {}),
            **({"scales": {task: asdict(scale) for task, scale in self.scales.items()}} if self.scales else {}),
            "targets": self.targets.to_json() if self.targets else None,
            **({"speech": self.speech.to_json()} if self.speech is not None else {}),
            **({"domains": {"by": self.domain_by, "names": list(self.domains)}} if self.domains else {}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Codec:
        domains = content.get("domains", {"by": "corpus", "names": ()})
        return cls(
            units=units_from_json(content["units"]),
            words=tuple(content["words"]),
            characters=tuple(content["characters"]),
            labels={task: tuple(names) for task, names in content["labels"].items()},
            context=content.get("context", 0),
            targets=units_from_json(content["targets"]) if content.get("targets") else None,
            domains=tuple(domains["names"]),
            domain_by=domains["by"],
            counts=tuple(content.get("counts", ())),
            speech=SpeechCode.from_json(content["speech"]) if content.get("speech") else None,
            scales={task: Scale(**scale) for task, scale in content.get("scales", {}).items()},
        )


def context_of(row: Mapping[str, Any]) -> list[str]:
    """Words of the previous turns, oldest first, each turn preceded by TURN."""
    return [word for turn in row.get("context") or () for word in (TURN, *turn.split())]


def scale_of(values: Sequence[float]) -> Scale:
    """Mean and standard deviation of labels; a deviation of 0 becomes 1."""
    return Scale(float(np.mean(values)), float(np.std(values)) or 1.0)
