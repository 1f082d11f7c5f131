"""What a task is: a loss, a decoder and the input groups that it listens to.

To add a task: write a Task in a file beside this one, name it in `mtl.tasks.build_tasks`, add its column to the
utterance table and its name to the recipe's TASK_KINDS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtl.batch import Batch

GROUPS = ("audio", "text")
PHONES = "phones"  # of a recording: what is said in it, as the tasks that speak are given it
SOUND = "sound"  # of a recording: its log-mel as it is, as a vocoder is given it


@dataclass(frozen=True)
class Words:
    """Where each word of an audio batch lies: starts, ends (B, L) in frames, -1 where there is no such word.

    tags (B, L): what these words are to be tagged, where they need not be the true ones; see mtl.recognised.
    """

    starts: Tensor
    ends: Tensor
    tags: Tensor | None = None


@dataclass(frozen=True)
class States:
    """What one task is given: the trunk's hidden (B, T, D), lengths (B,); for slots in audio, the words' places too.

    spectrum (B, 2F): in audio, mean and deviation of each mel bin, which the front-end takes out of the states.
    context (B, C, D), context_lengths (B,): the trunk's states of the words of the turns before, where there are any.
    manner (B, D): who speaks and with which emotion, for tasks that speak; hidden is then of phones.
    """

    hidden: Tensor
    lengths: Tensor
    words: Words | None = None
    spectrum: Tensor | None = None
    context: Tensor | None = None
    context_lengths: Tensor | None = None
    manner: Tensor | None = None


class Task(nn.Module):
    """Base of every task. `loss` sums, `count` says over how many items, so that means over ranks, accumulation
    steps and missing labels are exact: mean = sum of sums / sum of counts."""

    groups: ClassVar[tuple[str, ...]] = GROUPS

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def count(self, batch: Batch, lengths: Tensor) -> Tensor:
        """Labelled items in a batch, a scalar known before the forward pass; lengths (B,) behind the front-end."""
        raise NotImplementedError

    def loss(self, states: States, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and the count it sums over, two scalars."""
        raise NotImplementedError

    def decode(self, states: States) -> list[Any]:
        """One prediction per row."""
        raise NotImplementedError


def drawn(lengths: Tensor, segment: int) -> Tensor:
    """(R,) lengths of at least `segment` frames -> (R, segment): the frames of a segment of each, drawn anew each time.

    On the CPU, whatever the device: the same segments for the same seed.
    """
    spare = lengths - segment
    first = (torch.rand(len(lengths)).to(lengths.device) * (spare + 1)).long().minimum(spare)
    return first[:, None] + torch.arange(segment, device=lengths.device)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed cross entropy and the number of labels that are not IGNORE; logits (..., C), labels (...)."""
    loss = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
    return loss, (labels >= 0).sum()


def confidences(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Best class and its probability, both (...), from logits (..., C)."""
    probability, label = torch.softmax(logits.float(), dim=-1).max(dim=-1)
    return label, probability
