"""The tasks of a model, by name: one file per kind of task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mtl.decoder import DecoderConfig
from mtl.generator import VocoderConfig
from mtl.tasks.base import States, Task, Words
from mtl.tasks.classification import Classification
from mtl.tasks.dialogue import DialogueTask
from mtl.tasks.mel import Mel
from mtl.tasks.phones import Phones
from mtl.tasks.prosody import Foretold, Prosody
from mtl.tasks.regression import Regression
from mtl.tasks.slots import Slots
from mtl.tasks.transcript import Transcript
from mtl.tasks.translation import Translation
from mtl.tasks.waveform import Waveform
from mtl.text import CLASSIFICATION, DIALOGUE, PHRASED, REGRESSION, Codec

__all__ = [
    "Classification",
    "DialogueTask",
    "Foretold",
    "Mel",
    "Phones",
    "Prosody",
    "Regression",
    "Slots",
    "States",
    "Task",
    "Transcript",
    "Translation",
    "Waveform",
    "Words",
    "build_tasks",
]


def build_tasks(
    names: Sequence[str],
    codec: Codec,
    width: int,
    bins: int,
    dropout: float,
    decoder: DecoderConfig = DecoderConfig(),
    crf: bool = False,
    read: bool = False,
    vocoder: VocoderConfig = VocoderConfig(),
    adversarial: float = 0.0,
) -> nn.ModuleDict:
    """The heads that a model needs, in the order given; crf, read: of slots; adversarial: of mel.

    Raises ValueError for a task of no known kind or no labels.
    """
    heads: dict[str, Task] = {}
    for name in names:
        if name == "transcript":
            heads[name] = Transcript(name, width, len(codec.units))
        elif name == "waveform":
            heads[name] = Waveform(name, vocoder)
        elif name not in (*CLASSIFICATION, *PHRASED, "slots", "translation"):
            raise ValueError(
                f"task {name!r} is of no known kind; expected transcript, translation, slots, waveform, "
                f"{', '.join((*PHRASED, *CLASSIFICATION))}"
            )
        elif name in PHRASED:
            heads[name] = _phrased(name, codec, width, bins, dropout, adversarial)
        elif name == "translation" and codec.targets is not None:
            heads[name] = Translation(name, width, len(codec.targets), decoder)
        elif not codec.labels.get(name):
            raise ValueError(f"task {name!r} has no labels in the training split; leave it out of the recipe's tasks")
        elif name == "slots":
            heads[name] = Slots(name, width, len(codec.labels[name]), dropout, crf, read)
        elif name in DIALOGUE:
            heads[name] = DialogueTask(name, width, bins, len(codec.labels[name]), dropout)
        else:
            heads[name] = Classification(name, width, bins, len(codec.labels[name]), dropout)
    return nn.ModuleDict(heads)


def _phrased(name: str, codec: Codec, width: int, bins: int, dropout: float, adversarial: float) -> Task:
    if codec.speech is None:
        raise ValueError(f"task {name!r} needs training recordings with phones; see corpora.<name>.phonemes")
    if name in REGRESSION:
        return Regression(name, width, bins, codec.speech, dropout)
    if name == "phones":
        return Phones(name, width, len(codec.speech.phones) + 2)
    if name == "prosody":
        return Prosody(name, width, dropout)
    return Mel(name, width, bins, codec.speech, dropout, adversarial)
