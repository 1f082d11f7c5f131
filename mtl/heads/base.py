"""Base of heads: the part of the model that belongs to one task, with its loss and its decoder.

A task names its head in its spec (mtl/tasks), and `build` makes it. A new kind of head is a file beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from mtl.answers import Answer, Measurement, Word
from mtl.audio.features import FeatureSpec
from mtl.inputs.batch import Batch
from mtl.spec import TaskSpec

if TYPE_CHECKING:
    from mtl.config.model import ModelConfig
    from mtl.inputs.codec import Codec
    from mtl.inputs.tts import SpeechCode


@dataclass(frozen=True)
class Words:
    """Frames of each word of an audio batch: starts, ends (B, L), -1 where there is no such word.

    tags (B, L): targets of the words, where these are recognised ones; see mtl.models.asr_hypotheses.
    """

    starts: Tensor
    ends: Tensor
    tags: Tensor | None = None


@dataclass(frozen=True)
class States:
    """Inputs of a head: the trunk's hidden (B, T, D), lengths (B,); for slots in audio, the frames of words.

    spectrum (B, 2F): in audio, mean and deviation of each mel bin, which the front-end normalises away.
    context (B, C, D), context_lengths (B,): the trunk's states of the words of the previous turns, if any.
    style (B, D): embedding of speaker and emotion, for tasks of synthesis; hidden is then of phones.
    """

    hidden: Tensor
    lengths: Tensor
    words: Words | None = None
    spectrum: Tensor | None = None
    context: Tensor | None = None
    context_lengths: Tensor | None = None
    style: Tensor | None = None


@dataclass(frozen=True)
class Decoding:
    """Options of `Head.decode`; a head ignores what does not concern it.

    second (B, classes): logits of another view of the same rows, which are added to the head's own. search: beam search
    instead of the likeliest unit at every step.
    """

    second: Tensor | None = None
    search: bool = False


PLAIN = Decoding()


@dataclass(frozen=True)
class Reading:
    """What a head needs beside its output to answer for one row.

    words: recognised words with their times; () without a recogniser. tokens: the words of the sentence, which are the
    recognised ones in audio. embedding (D,): of the row, from an open-set task.
    """

    codec: Codec
    hop_ms: float
    words: tuple[Word, ...]
    tokens: tuple[str, ...]
    embedding: Any = None


class Head(nn.Module):
    """Base of every head. `loss` is a sum over `count` items, so that means over ranks, accumulation steps and missing
    labels are exact: mean = sum of sums / sum of counts."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec, self.name, self.groups = spec, spec.name, spec.groups

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        """The head of a model of this shape with these vocabularies.

        Raises:
            ValueError: the training rows have no label for its vocabulary.
        """
        raise NotImplementedError

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        """Labelled items in a batch, a scalar known before the forward pass; lengths (B,) behind the front-end."""
        raise NotImplementedError

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and the count it sums over, two scalars."""
        raise NotImplementedError

    def decode(self, states: States, options: Decoding = PLAIN) -> list[Any]:
        """Output of each row: what `answer` reads."""
        raise NotImplementedError

    def answer(self, output: Any, reading: Reading) -> Answer:
        """One row's output as an answer."""
        raise NotImplementedError

    def measure(self, states: States, batch: Batch, codec: Codec, spec: FeatureSpec) -> list[Measurement | None]:
        """Compares what the head synthesises from the labels of recordings with these recordings, row by row."""
        raise NotImplementedError


def drawn(lengths: Tensor, segment: int) -> Tensor:
    """(R,) lengths of at least `segment` frames -> (R, segment): the frames of a random segment of each.

    On the CPU, whatever the device: the same segments for the same seed.
    """
    spare = lengths - segment
    first = (torch.rand(len(lengths)).to(lengths.device) * (spare + 1)).long().minimum(spare)
    return first[:, None] + torch.arange(segment, device=lengths.device)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and the number of labels that are not IGNORE; logits (..., C), labels (...)."""
    loss = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
    return loss, (labels >= 0).sum()


def classes_of(spec: TaskSpec, codec: Codec) -> int:
    """Number of classes, or of tags, that the training rows have.

    Raises:
        ValueError: none.
    """
    if not (labels := codec.labels.get(spec.name)):
        raise ValueError(f"task {spec.name!r} has no labels in the training split; leave it out of the recipe's tasks")
    return len(labels)


def speech_code_of(spec: TaskSpec, codec: Codec) -> SpeechCode:
    """Raises ValueError where no training recording has phones."""
    if codec.speech is None:
        raise ValueError(f"task {spec.name!r} needs training recordings with phones; see corpora.<name>.phonemes")
    return codec.speech


def confidences(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Best class and its probability, both (...), from logits (..., C)."""
    probability, label = torch.softmax(logits.float(), dim=-1).max(dim=-1)
    return label, probability
