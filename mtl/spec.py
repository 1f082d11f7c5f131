"""Specs of tasks: their labels, inputs, answers and needs. Imports neither torch nor numpy.

    spec = task("intent")
    spec.label, spec.groups, spec.answer       # "intent", ("audio", "text"), "label"
    [spec.name for spec in tasks() if spec.answer == "label"]

The tasks that ship are listed in mtl/tasks/__init__.py. `register` adds another one. A module that does so at its top
level is a plug-in: name it in MOTET_PLUGINS (several with commas), and every process of a night imports it.

    MOTET_PLUGINS=accent_task motet nightly mine.yaml       # accent_task.py lies on PYTHONPATH
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

# Input groups: what a task reads of an utterance.
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
    compared: whether two rows of one recording must agree on it. Otherwise the label depends on more than the
        recording, for example on the dialogue around it.
    hashed_if_null: whether a null enters the hash of a row. True only for columns of the first version of the table;
        a null in any later column leaves the hash as it was before the column existed.
    tidied: whether text is brought to Unicode NFC with single spaces.
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
    answer: kind of answer (mtl.answers.KINDS), which decides how it is stored, served and shown, and by default how
        it is scored.
    head: class of the head (mtl.heads.base.Head), as "<module>:<class>" so that nothing imports torch early, or itself.
    scorer: what gives the task's metrics and their counts (mtl.metrics.metric.Scorer), as `head`; None for that of the
        kind of answer.
    unit: of a numeric answer and its error, as it is shown.
    tolerance: by how much a gate lets the error of a numeric answer be worse, in its unit, where the recipe gives none.
    columns: columns that the task adds to the utterance table.
    needs: tasks that must be trained beside this one for answers from audio.
    frame: tasks whose answers are also scored together with this one's: right only where all of them are.
    context: whether the task attends to the previous turns of the dialogue.
    spectral: whether the long-term spectrum of the recording is part of the input.
    balanced: whether labels are so unequally frequent that the mean recall over labels is reported as well.
    makes_frames: whether it generates log-mel frames, so that the features of training must not be masked.
    conveys: tasks whose labels should be recognised in the sound that it makes: by judge models in its metrics, and by
        the model itself in the consistency loss.
    open_set: whether labels of the test rows need not occur in training, as of speakers. Answers are then scored by
        enrolment and verification, not by the label.
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
        """Whether only recordings can train the task; a sentence of text alone cannot."""
        return TEXT not in self.groups


def resolve(reference: str | Any) -> Any:
    """What "<module>:<name>" refers to; anything but a string is returned as it is."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


PLUGINS = "MOTET_PLUGINS"  # environment variable


class PluginError(RuntimeError):
    """A plug-in that cannot be imported."""


_REGISTRY: dict[str, TaskSpec] = {}


def register(spec: TaskSpec) -> TaskSpec:
    """Makes a task known by its name, and returns the spec.

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
    """Forgets a task that was added at run time."""
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
    """The first of the named tasks with this kind of answer; None where there is none."""
    return next((name for name in names if task(name).answer == answer), None)


def reading_phones() -> tuple[str, ...]:
    """Names of the tasks that are trained on measured phones: their durations, pitch and energy."""
    return tuple(spec.name for spec in tasks() if spec.label == DURATIONS)


def with_context(names: Iterable[str]) -> list[str]:
    """Those of the named tasks that attend to the previous turns of a dialogue."""
    return [name for name in names if task(name).context]


def speaks(names: Iterable[str]) -> bool:
    """Whether a model of the named tasks can synthesise a text: it has all tasks of synthesis."""
    return set(with_answer("speech")) <= set(names)


def first_open_set(names: Iterable[str]) -> str | None:
    """The first of the named tasks whose test labels need not occur in training, as of speakers; None without one."""
    return next((name for name in names if task(name).open_set), None)


def makes_frames(names: Iterable[str]) -> bool:
    """Whether one of the named tasks generates log-mel frames."""
    return any(task(name).makes_frames for name in names)


def makes_sound(names: Iterable[str]) -> bool:
    """Whether one of the named tasks makes sound of log-mels, as a vocoder does."""
    return any(SOUND in task(name).groups for name in names)


def label_columns() -> tuple[Column, ...]:
    """Columns of the utterance table that tasks declare, each once."""
    return tuple({column.name: column for spec in tasks() for column in spec.columns}.values())


DURATIONS = "durations"  # derived by the prosody stage: frames of each phone
WAVE_PART = "wave_part"  # derived by the waveforms stage: where the samples lie


def _load() -> None:
    """Imports the tasks that ship and the plug-ins, which register themselves.

    Raises:
        PluginError: a module that MOTET_PLUGINS names cannot be imported.
    """
    import mtl.tasks  # noqa: F401  (they import this file)

    for name in filter(None, (part.strip() for part in os.environ.get(PLUGINS, "").split(","))):
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise PluginError(
                    f"{PLUGINS} names {name!r}, which cannot be imported: {error}; see PYTHONPATH"
                ) from error
