"""Training targets: the label of a row as numbers, and the numbers of several rows as a padded tensor.

    encoding = ENCODINGS[task("intent").answer]
    encoding.encode(spec, row, codec)       # a class, IGNORE where the row is not labelled
    encoding.collate([...])                 # Target: values (B,)

There is an encoding for each kind of answer that is trained on labels of the utterance table. Tasks that are trained on
inputs (phones with prosody, waveforms) have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mtl.spec import AnswerKind, TaskSpec
from mtl.text.words import tokens_of

if TYPE_CHECKING:
    from mtl.inputs.codec import Codec

IGNORE = -100  # the label that torch's cross_entropy leaves out


@dataclass(frozen=True)
class Target:
    """Targets of one task in a batch.

    values: a class or a number of each row (B,), or a padded sequence of each (B, U).
    lengths (B,): of sequences padded with 0; 0 where a row is not labelled. None if missing labels are marked in the
        values: with IGNORE, or NaN among numbers.
    """

    values: Tensor
    lengths: Tensor | None = None

    def labelled(self) -> Tensor:
        """(B,) bool: rows with a label."""
        if self.lengths is not None:
            return self.lengths > 0
        known = ~self.values.isnan() if self.values.is_floating_point() else self.values != IGNORE
        return known if known.ndim == 1 else known.any(dim=1)

    def select(self, rows: Tensor) -> Target:
        """Selects rows (N,); the padding stays."""
        return Target(self.values[rows], None if self.lengths is None else self.lengths[rows])

    def only(self, rows: Tensor) -> Target:
        """Keeps the labels of rows (B,) bool; all others become not labelled."""
        if self.lengths is not None:
            return Target(self.values, self.lengths * rows)
        unknown = torch.nan if self.values.is_floating_point() else IGNORE
        mask = ~rows if self.values.ndim == 1 else ~rows[:, None]
        return Target(self.values.masked_fill(mask, unknown))

    def to(self, device: torch.device | str) -> Target:
        lengths = None if self.lengths is None else self.lengths.to(device, non_blocking=True)
        return Target(self.values.to(device, non_blocking=True), lengths)


class Encoding(Protocol):
    """How the labels of one kind of answer become numbers."""

    def applies(self, spec: TaskSpec, codec: Codec) -> bool:
        """Whether the codec has the vocabulary of the task."""

    def encode(self, spec: TaskSpec, row: Mapping[str, Any], codec: Codec) -> np.ndarray:
        """The row's label as an array; see `collate`."""

    def collate(self, labels: Sequence[np.ndarray]) -> Target: ...


class _Units:
    """Text as units (U,) of the recogniser or of translations; empty if the row has no text."""

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def applies(self, spec: TaskSpec, codec: Codec) -> bool:
        return getattr(codec, self.attribute) is not None

    def encode(self, spec: TaskSpec, row: Mapping[str, Any], codec: Codec) -> np.ndarray:
        text = row.get(spec.label)
        return np.asarray(getattr(codec, self.attribute).encode(text) if text else (), dtype=np.int64)

    def collate(self, labels: Sequence[np.ndarray]) -> Target:
        return Target(*pad(labels, 0))


class _Tags:
    """Tags of the words (L,), IGNORE where missing or unknown."""

    def applies(self, spec: TaskSpec, codec: Codec) -> bool:
        return spec.name in codec.labels

    def encode(self, spec: TaskSpec, row: Mapping[str, Any], codec: Codec) -> np.ndarray:
        numbers, tags = codec.label_ids[spec.name], row.get(spec.label)
        if not tags:
            return np.full(len(tokens_of(row)), IGNORE)
        return np.asarray([numbers.get(tag, IGNORE) for tag in tags], dtype=np.int64)

    def collate(self, labels: Sequence[np.ndarray]) -> Target:
        return Target(pad(labels, IGNORE)[0])


class _Class:
    """Number of a label, (), IGNORE if missing or unknown."""

    def applies(self, spec: TaskSpec, codec: Codec) -> bool:
        return spec.name in codec.labels

    def encode(self, spec: TaskSpec, row: Mapping[str, Any], codec: Codec) -> np.ndarray:
        return np.asarray(codec.label_ids[spec.name].get(row.get(spec.label) or "", IGNORE))

    def collate(self, labels: Sequence[np.ndarray]) -> Target:
        return Target(torch.tensor([int(label) for label in labels], dtype=torch.int64))


class _Number:
    """A number, (), NaN if missing, of tasks with a numeric column (`is_numeric`)."""

    def applies(self, spec: TaskSpec, codec: Codec) -> bool:
        return spec.name in codec.scales

    def encode(self, spec: TaskSpec, row: Mapping[str, Any], codec: Codec) -> np.ndarray:
        value = row.get(spec.label)
        return np.asarray(np.nan if value is None else value, dtype=np.float32)

    def collate(self, labels: Sequence[np.ndarray]) -> Target:
        return Target(torch.tensor([float(label) for label in labels], dtype=torch.float32))


ENCODINGS: dict[AnswerKind, Encoding] = {
    "text": _Units("units"),
    "translation": _Units("targets"),
    "tags": _Tags(),
    "label": _Class(),
    "number": _Number(),
}


def is_numeric(spec: TaskSpec) -> bool:
    """Whether the label is a numeric column of the task, not a number measured from phones."""
    return any(column.name == spec.label and column.kind == "number" for column in spec.columns)


def pad(arrays: Sequence[np.ndarray], value: int) -> tuple[Tensor, Tensor]:
    """Arrays (L, ...) as one (B, L, ...), padded with `value`, and their lengths (B,)."""
    lengths = [len(array) for array in arrays]
    padded = np.full((len(arrays), max(1, *lengths), *arrays[0].shape[1:]), value, dtype=np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
