"""Answers of a model: one class for each kind of answer that a task's spec can name.

    prediction.answers["intent"]                # Label(value="light_on", confidence=0.93)
    prediction.text, prediction.labels, …       # the same answers, by kind
    Prediction.from_json(prediction.to_json())  # without embeddings and measurements
    KINDS[task("intent").answer].columns("intent")      # columns of the packaged model

A class determines how its answers are stored, served and shown; mtl/metrics scores them. Imports neither torch nor
numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self, TypeVar

from mtl.spec import AnswerKind, TaskSpec, tasks
from mtl.text.words import bio_values, tokens_of

ColumnType = Literal["string", "double", "json"]  # of the packaged model's table; json is a string of JSON
SLOT_SEPARATOR = " · "


class Answer:
    """Base of all answers. column: type of the column in the packaged model, if there is a single one."""

    column: ClassVar[ColumnType | None] = None

    @classmethod
    def columns(cls, name: str) -> dict[str, ColumnType]:
        """Columns in which the packaged model serves answers of the task `name`."""
        return {name: cls.column} if cls.column else {}

    def cells(self, name: str) -> dict[str, Any]:
        """Values of `columns` as plain data; columns without a value may be missing."""
        return {}

    def to_json(self, name: str) -> dict[str, Any]:
        """Entries of the prediction's JSON object."""
        return self.cells(name)

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> Self | None:
        """The answer of a task in the JSON object of a prediction, if any."""
        return cls(**content[name]) if name in content else None

    @classmethod
    def reference(cls, spec: TaskSpec, row: Mapping[str, Any]) -> str | None:
        """The label of a row in the format of `str(answer)`; None if the row is not labelled."""
        return None

    def lines(self, name: str) -> list[tuple[str, str, float | None]]:
        """(heading, answer, confidence) of each line in the table of `motet predict`."""
        return [(name, str(self), getattr(self, "confidence", None))]


@dataclass(frozen=True)
class Word:
    """A recognised word; start and end in seconds, from the first frame of its first unit to the last of its last.

    confidence: probability of each unit by CTC alone (without the language model), averaged over the unit's frames
    and then over the word's units.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """One of the n best transcripts.

    confidence: share of the total probability of the texts in the final beam, by the score of the search (recogniser,
    language model, hot words); not calibrated. score: its natural logarithm.
    """

    text: str
    confidence: float
    score: float


@dataclass(frozen=True)
class Transcription(Answer):
    """Recognised words. alternatives: the n best transcripts, `text` first, if requested."""

    text: str
    words: tuple[Word, ...] = ()
    alternatives: tuple[Alternative, ...] = ()

    @classmethod
    def columns(cls, name: str) -> dict[str, ColumnType]:
        return {"text": "string", "words": "json", "n_best": "json"}

    def cells(self, name: str) -> dict[str, Any]:
        lists: dict[str, tuple[Any, ...]] = {"words": self.words, "n_best": self.alternatives}
        return {"text": self.text, **{key: [asdict(item) for item in items] for key, items in lists.items() if items}}

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> Self | None:
        if content.get("text") is None:
            return None
        words = tuple(Word(**word) for word in content.get("words", ()))
        return cls(content["text"], words, tuple(Alternative(**other) for other in content.get("n_best", ())))

    @classmethod
    def reference(cls, spec: TaskSpec, row: Mapping[str, Any]) -> str | None:
        return row.get(spec.label) or None

    def __str__(self) -> str:
        return self.text

    def lines(self, name: str) -> list[tuple[str, str, float | None]]:
        mean = sum(word.confidence for word in self.words) / len(self.words) if self.words else None
        others = [(f"  {number}", one.text, one.confidence) for number, one in enumerate(self.alternatives, start=1)]
        return [(heading, text or "(nothing)", share) for heading, text, share in [(name, self.text, mean), *others]]


@dataclass(frozen=True)
class Label(Answer):
    """A class and its probability, or a translation and the geometric mean of the probabilities of its units.

    embedding (D,): of the input of an open-set task, comparable by cosine.
    """

    value: str
    confidence: float
    embedding: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def columns(cls, name: str) -> dict[str, ColumnType]:
        return {name: "string", f"{name}_confidence": "double"}

    def cells(self, name: str) -> dict[str, Any]:
        return {name: self.value, f"{name}_confidence": self.confidence}

    def to_json(self, name: str) -> dict[str, Any]:
        return {name: {"value": self.value, "confidence": self.confidence}}

    @classmethod
    def reference(cls, spec: TaskSpec, row: Mapping[str, Any]) -> str | None:
        label = row.get(spec.label)
        return None if label is None else str(label)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Number(Answer):
    """A number in the unit of its task."""

    value: float
    unit: str = ""
    column = "double"

    def cells(self, name: str) -> dict[str, Any]:
        return {name: self.value}

    def to_json(self, name: str) -> dict[str, Any]:
        return {name: {"value": self.value, "unit": self.unit}}

    @classmethod
    def reference(cls, spec: TaskSpec, row: Mapping[str, Any]) -> str | None:
        value = row.get(spec.label)
        return str(cls(value, spec.unit)) if isinstance(value, int | float) else None

    def __str__(self) -> str:
        return f"{self.value:.1f} {self.unit}".strip()


@dataclass(frozen=True)
class Phones(Answer):
    """Recognised phones."""

    phones: tuple[str, ...]
    column = "string"

    def cells(self, name: str) -> dict[str, Any]:
        return {name: str(self)}

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> Self | None:
        return cls(tuple(content[name].split())) if name in content else None

    def __str__(self) -> str:
        return " ".join(self.phones)

    def lines(self, name: str) -> list[tuple[str, str, float | None]]:
        return super().lines(name) if self.phones else []


@dataclass(frozen=True)
class Tags(Answer):
    """(slot, value) pairs of a sentence. tags: BIO tags of its words; JSON does not hold them."""

    slots: tuple[tuple[str, str], ...]
    tags: tuple[str, ...] = ()
    column = "json"

    def cells(self, name: str) -> dict[str, Any]:
        return {name: [{"slot": slot, "value": value} for slot, value in self.slots]}

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> Self | None:
        return cls(tuple((item["slot"], item["value"]) for item in content[name])) if name in content else None

    @classmethod
    def reference(cls, spec: TaskSpec, row: Mapping[str, Any]) -> str | None:
        tags = row.get(spec.label)
        return None if tags is None else str(cls(tuple(bio_values(tokens_of(row), list(tags)))))

    def __str__(self) -> str:
        return SLOT_SEPARATOR.join(f"{slot} = {value}" for slot, value in self.slots) or "none"

    def lines(self, name: str) -> list[tuple[str, str, float | None]]:
        return [(name, str(self).replace(SLOT_SEPARATOR, ", "), None)]


@dataclass(frozen=True)
class Measurement(Answer):
    """Distances of a recording from its synthesis from its own labels. counts: by metric of the task."""

    counts: Mapping[str, tuple[float, ...]]


KINDS: dict[AnswerKind, type[Answer]] = {
    "text": Transcription,
    "label": Label,
    "translation": Label,
    "number": Number,
    "phones": Phones,
    "tags": Tags,
    "speech": Measurement,
    "sound": Measurement,
}
_ORDER = list(KINDS.values())  # of the entries in a prediction's JSON

A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Prediction:
    """Answers of a model to one input, by task."""

    answers: Mapping[str, Answer] = field(default_factory=dict)

    def of_kind(self, kind: type[A]) -> dict[str, A]:
        """Answers of one class, by task."""
        return {name: answer for name, answer in self.answers.items() if isinstance(answer, kind)}

    def first(self, kind: type[A]) -> A | None:
        return next(iter(self.of_kind(kind).values()), None)

    @property
    def text(self) -> str | None:
        """The transcript."""
        transcription = self.first(Transcription)
        return transcription.text if transcription else None

    @property
    def words(self) -> tuple[Word, ...]:
        """Recognised words with their times."""
        transcription = self.first(Transcription)
        return transcription.words if transcription else ()

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """The n best transcripts."""
        transcription = self.first(Transcription)
        return transcription.alternatives if transcription else ()

    @property
    def labels(self) -> dict[str, Label]:
        """Classes and translations, by task."""
        return self.of_kind(Label)

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers by task, in the units of the tasks' specs."""
        return {name: answer.value for name, answer in self.of_kind(Number).items()}

    @property
    def tags(self) -> tuple[str, ...] | None:
        """BIO tags of the words."""
        answer = self.first(Tags)
        return answer.tags if answer else None

    @property
    def slots(self) -> tuple[tuple[str, str], ...]:
        """(slot, value) pairs."""
        answer = self.first(Tags)
        return answer.slots if answer else ()

    @property
    def phones(self) -> tuple[str, ...] | None:
        """Recognised phones."""
        answer = self.first(Phones)
        return answer.phones if answer else None

    @property
    def voice(self) -> Any:
        """Embedding of the speaker (D,), comparable by cosine; None without such a task."""
        return next((label.embedding for label in self.labels.values() if label.embedding is not None), None)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {"text": None, "words": []}  # for a model without a transcript
        for name, answer in sorted(self.answers.items(), key=lambda item: _ORDER.index(type(item[1]))):
            content |= answer.to_json(name)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Prediction:
        """Answers of registered tasks; other entries are ignored."""
        answers = {spec.name: KINDS[spec.answer].from_json(spec.name, content) for spec in tasks()}
        return cls({name: answer for name, answer in answers.items() if answer is not None})
