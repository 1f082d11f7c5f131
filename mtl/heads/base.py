"""Base of heads: the output layers of one task, with its loss and its decoding.

A task names its head in its spec (mtl/tasks), and `build` creates it. To add a kind of head, add a file to this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from mtl.answers import Answer, Measurement, Word
from mtl.audio.features import FeatureSpec
from mtl.config.model import ModelConfig
from mtl.inputs.batch import Batch
from mtl.inputs.codec import Codec
from mtl.inputs.tts import SpeechCode
from mtl.spec import TaskSpec


@dataclass(frozen=True)
class Words:
    """Frames of each word of an audio batch: starts, ends (B, L), -1 for padding.

    tags (B, L): targets of recognised words; see mtl.models.asr_hypotheses.
    """

    starts: Tensor
    ends: Tensor
    tags: Tensor | None = None


@dataclass(frozen=True)
class States:
    """Inputs of a head: hidden (B, T, D) of the trunk, lengths (B,); for slots in audio, the frames of words.

    spectrum (B, 2F): of audio, mean and deviation of each mel bin, which the front-end normalises.
    context (B, C, D), context_lengths (B,): states of the words of the previous turns, if any.
    style (B, D): embedding of speaker and emotion, for tasks of synthesis, whose hidden states are of phones.
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
    """Options of `Head.decode`; a head ignores those that do not apply to it.

    second (B, classes): logits of the same rows from another input, which are added. search: beam search instead of
    greedy search.
    """

    second: Tensor | None = None
    search: bool = False


PLAIN = Decoding()


@dataclass(frozen=True)
class Reading:
    """What a head needs beside its output to answer for one row.

    words: recognised words with times; () without a recogniser. tokens: words of the sentence, recognised ones in
    audio. embedding (D,): of the row, for an open-set task.
    """

    codec: Codec
    hop_ms: float
    words: tuple[Word, ...]
    tokens: tuple[str, ...]
    embedding: Any = None


class Head(nn.Module):
    """Base of every head. `loss` is a sum over `count` items, so that means over ranks and accumulation are exact."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.spec, self.name, self.groups = spec, spec.name, spec.groups

    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        """Creates the head for a model. Raises ValueError if the training rows have no label for its vocabulary."""
        raise NotImplementedError

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        """Number of labelled items in a batch, before the forward pass; lengths (B,) after the front-end."""
        raise NotImplementedError

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and its count, two scalars."""
        raise NotImplementedError

    def decode(self, states: States, options: Decoding = PLAIN) -> list[Any]:
        """Output of each row, which `answer` reads."""
        raise NotImplementedError

    def answer(self, output: Any, reading: Reading) -> Answer:
        """One row's output as an answer."""
        raise NotImplementedError

    def measure(self, states: States, batch: Batch, codec: Codec, spec: FeatureSpec) -> list[Measurement | None]:
        """Distances of each recording from its synthesis from its own labels."""
        raise NotImplementedError


def drawn(lengths: Tensor, segment: int) -> Tensor:
    """(R,) lengths of at least `segment` frames -> (R, segment): the frames of a random segment of each.

    Drawn on the CPU, so that a seed gives the same segments on every device.
    """
    spare = lengths - segment
    first = (torch.rand(len(lengths)).to(lengths.device) * (spare + 1)).long().minimum(spare)
    return first[:, None] + torch.arange(segment, device=lengths.device)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and the number of labels that are not IGNORE; logits (..., C), labels (...)."""
    loss = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
    return loss, (labels >= 0).sum()


def classes_of(spec: TaskSpec, codec: Codec) -> int:
    """Number of classes or tags of the training rows. Raises ValueError if there is none."""
    if not (labels := codec.labels.get(spec.name)):
        raise ValueError(f"task {spec.name!r} has no labels in the training split; leave it out of the recipe's tasks")
    return len(labels)


def speech_code_of(spec: TaskSpec, codec: Codec) -> SpeechCode:
    """Raises ValueError if no training recording has phones."""
    if codec.speech is None:
        raise ValueError(f"task {spec.name!r} needs training recordings with phones; see corpora.<name>.phonemes")
    return codec.speech


def confidences(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Best class and its probability, both (...), from logits (..., C)."""
    probability, label = torch.softmax(logits.float(), dim=-1).max(dim=-1)
    return label, probability
