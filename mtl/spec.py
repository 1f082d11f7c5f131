"""Specs of tasks: their labels, inputs, answers and needs. Imports neither torch nor numpy.

    spec = task("intent")
    spec.label, spec.groups, spec.answer       # "intent", ("audio", "text"), "label"
    [spec.name for spec in tasks() if spec.answer == "label"]

mtl/tasks/__init__.py lists the tasks of Motet; `register` adds another one. A module that does so when it is imported
is a plug-in: every process imports the modules that MOTET_PLUGINS names, separated by commas.

    MOTET_PLUGINS=accent_task motet nightly mine.yaml       # accent_task.py is on PYTHONPATH
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["string", "number", "file"]
AnswerKind = Literal["text", "label", "tags", "translation", "phones", "number", "speech", "sound"]

# Input groups: inputs that a task can read.
AUDIO = "audio"  # log-mel features of the recording, through the audio front-end and the trunk
TEXT = "text"  # words of the sentence, through the text front-end and the trunk
PHONES = "phones"  # phones of the sentence with speaker and emotion, through the phone front-end and the trunk
SOUND = "sound"  # log-mel features as they are, without front-end and trunk


@dataclass(frozen=True)
class Column:
    """A column of the utterance table that holds a label.

    kind: string, number (a 64-bit float), or file: content of a small file as base64, of which a manifest gives the
        path; for inputs (mtl/groups.py), not for labels.
    aliases: further names that a manifest may use, in order of preference.
    compared: whether two rows of one recording must have the same value; False if it depends on more than the
        recording, for example on the dialogue.
    hashed_if_null: whether a null is part of the hash of a row: only for columns of the first version of the table, so
        that later columns do not change hashes.
    tidied: whether text is converted to Unicode NFC with single spaces.
    """

    name: str
    kind: Kind = "string"
    aliases: tuple[str, ...] = ()
    compared: bool = True
    hashed_if_null: bool = False
    tidied: bool = False


@dataclass(frozen=True)
class TaskSpec:
    """Description of a task.

    name: the key in a recipe's `tasks`, in metrics ("<name>/<metric>") and in the served signature.
    label: the column of the utterance table, or of what is derived from recordings, that has a value in every row
        that trains the task.
    groups: input groups that the task can answer from.
    answer: kind of answer (mtl.answers.KINDS), which determines how it is stored, served, shown and, by default,
        scored.
    head: class of the head (mtl.heads.base.Head), as "<module>:<class>" so that nothing imports torch early, or itself.
    scorer: class of the metrics (mtl.metrics.metric.Scorer), like `head`; None for that of the kind of answer.
    unit: of a numeric answer and its error.
    tolerance: by how much the error of a numeric answer may be worse in a gate by default, in its unit.
    columns: columns that the task adds to the utterance table.
    needs: tasks that must be trained beside this one for answers from audio.
    frame: tasks whose answers are also scored jointly with this one's: correct only if all are.
    context: whether the task attends to the previous turns of the dialogue.
    spectral: whether the long-term spectrum of the recording is part of the input.
    balanced: whether the mean recall over labels is reported too, for labels of unequal frequency.
    makes_frames: whether it generates log-mel frames, so that training features must not be masked.
    conveys: tasks whose labels should be recognised in the generated sound, by judge models in its metrics and by the
        model itself in the consistency loss.
    open_set: whether labels of test rows may be missing in training, like speakers. Answers are then scored by
        enrolment and verification.
    """

    name: str
    label: str
    groups: tuple[str, ...]
    answer: AnswerKind
    head: str | Any
    scorer: str | Any = None
    unit: str = ""
    tolerance: float = 0.5
    columns: tuple[Column, ...] = ()
    needs: tuple[str, ...] = ()
    frame: tuple[str, ...] = ()
    context: bool = False
    spectral: bool = False
    balanced: bool = False
    open_set: bool = False
    makes_frames: bool = False
    conveys: tuple[str, ...] = ()

    @property
    def from_recordings(self) -> bool:
        """Whether sentences of text cannot train the task."""
        return TEXT not in self.groups


def resolve(reference: str | Any) -> Any:
    """The object that "<module>:<name>" refers to; other objects are returned unchanged."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


PLUGINS = "MOTET_PLUGINS"  # environment variable


class PluginError(RuntimeError):
    """A plug-in that cannot be imported."""


_REGISTRY: dict[str, TaskSpec] = {}


def register(spec: TaskSpec) -> TaskSpec:
    """Adds a task to the registry and returns it.

    Raises:
        ValueError: another task has the name, or another kind of column.
    """
    if _REGISTRY.get(spec.name, spec) != spec:
        raise ValueError(f"two tasks are named {spec.name!r}; names must differ")
    known = {column.name: column for column in label_columns()}
    for column in spec.columns:
        if known.get(column.name, column) != column:
            raise ValueError(f"task {spec.name!r}: column {column.name!r} is declared differently by another task")
    _REGISTRY[spec.name] = spec
    return spec


def unregister(name: str) -> None:
    """Removes a task that was added at run time."""
    _REGISTRY.pop(name, None)


def task(name: str) -> TaskSpec:
    """Raises KeyError with the known names."""
    _load()
    if name not in _REGISTRY:
        raise KeyError(f"no task is named {name!r}; there are {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def tasks() -> tuple[TaskSpec, ...]:
    """All known tasks, in the order in which they were registered."""
    _load()
    return tuple(_REGISTRY.values())


def with_answer(*answers: AnswerKind) -> tuple[str, ...]:
    """Names of the tasks with one of these kinds of answer."""
    return tuple(spec.name for spec in tasks() if spec.answer in answers)


def first_with_answer(names: Iterable[str], answer: AnswerKind) -> str | None:
    """The first of the named tasks with this kind of answer, if any."""
    return next((name for name in names if task(name).answer == answer), None)


def reading_phones() -> tuple[str, ...]:
    """Names of the tasks that are trained on durations, pitch and energy of phones."""
    return tuple(spec.name for spec in tasks() if spec.label == DURATIONS)


def with_context(names: Iterable[str]) -> list[str]:
    """The named tasks that attend to the previous turns of a dialogue."""
    return [name for name in names if task(name).context]


def speaks(names: Iterable[str]) -> bool:
    """Whether the named tasks include all tasks of synthesis, so that a model of them can synthesise a text."""
    return set(with_answer("speech")) <= set(names)


def first_open_set(names: Iterable[str]) -> str | None:
    """The first open-set task of the named tasks, if any."""
    return next((name for name in names if task(name).open_set), None)


def makes_frames(names: Iterable[str]) -> bool:
    """Whether one of the named tasks generates log-mel frames."""
    return any(task(name).makes_frames for name in names)


def makes_sound(names: Iterable[str]) -> bool:
    """Whether one of the named tasks is a vocoder."""
    return any(SOUND in task(name).groups for name in names)


def label_columns() -> tuple[Column, ...]:
    """Columns of the utterance table that tasks declare, each once."""
    return tuple({column.name: column for spec in tasks() for column in spec.columns}.values())


DURATIONS = "durations"  # derived by the prosody stage: frames of each phone
WAVE_PART = "wave_part"  # derived by the waveforms stage: location of the samples


def _load() -> None:
    """Imports the tasks of Motet and the plug-ins, which register themselves. Raises PluginError."""
    import mtl.tasks  # noqa: F401  (they import this file)

    for name in filter(None, (part.strip() for part in os.environ.get(PLUGINS, "").split(","))):
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise PluginError(
                    f"{PLUGINS} names {name!r}, which cannot be imported: {error}; see PYTHONPATH"
                ) from error
