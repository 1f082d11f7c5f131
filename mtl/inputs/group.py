"""Base classes of input groups, which turn rows into arrays, arrays into padded tensors, and tensors into states.

    class PictureGroup(InputGroup):
        def encode(self, row, codec): ...        # arrays of one row, kept in memory between epochs
        def collate(self, arrays): ...           # Inputs: tensors of a batch
        def modules(self, config, codec): ...    # {"picture": front-end}

A new group is a file with such a class, and `mtl.groups.register_group`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from mtl.groups import GroupSpec, group
from mtl.spec import resolve

if TYPE_CHECKING:
    from mtl.inputs.batch import Batch
    from mtl.inputs.codec import Codec


@dataclass(frozen=True)
class Inputs:
    """Inputs of one group in a batch. A subclass adds its tensors; the first dimension of each is the batch.

    lengths (B,): items of each row before the front-end.
    """

    lengths: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{name: x.to(device, non_blocking=True) for name, x in self.tensors().items()})

    def select(self, rows: Tensor) -> Self:
        """Selects rows (N,); the padding stays."""
        return replace(self, **{name: x[rows] for name, x in self.tensors().items()})


class FrontendStates(NamedTuple):
    """Output of a front-end: hidden (B, T, D), lengths (B,).

    spectrum (B, 2F): of recordings, mean and deviation of each mel bin. style (B, D): of phones, speaker and emotion.
    """

    hidden: Tensor
    lengths: Tensor
    spectrum: Tensor | None = None
    style: Tensor | None = None


class InputGroup:
    """How a model reads the inputs of one group; stateless."""

    def __init__(self, spec: GroupSpec) -> None:
        self.spec, self.name = spec, spec.name

    def encode(self, row: Mapping[str, Any], codec: Codec) -> Any:
        """Arrays of one row of the utterance table; None without an input of this group."""
        return None

    def collate(self, arrays: Sequence[Any]) -> Inputs | None:
        """Pads the arrays of a batch; None for a row without inputs. A group beside another one may return None."""
        raise NotImplementedError

    def modules(self, config: Any, codec: Codec) -> dict[str, nn.Module]:
        """Modules by their name in the model, also their prefix in the weights; the front-end has the group's name.

        config: a mtl.config.model.ModelConfig.
        """
        return {}

    def states(self, model: Any, batch: Batch) -> FrontendStates:
        """States of a batch before the trunk of the SpeechModel.

        By default the front-end is called with the fields of the inputs, and returns the fields of FrontendStates.
        """
        return FrontendStates(*model.front_end(self.name)(**batch.inputs[self.name].tensors()))

    def lengths(self, model: Any, inputs: Inputs) -> Tensor:
        """(B,) states of each row behind the front-end."""
        return inputs.lengths


def input_group(name: str) -> InputGroup:
    """The group with this name. Raises KeyError."""
    spec = group(name)
    implementation: InputGroup = resolve(spec.implementation)(spec)
    return implementation


def pad_frames(arrays: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays (T, ...) as one (B, T, ...) of the same type, padded with 0, and their lengths (B,)."""
    # Only the tail of each row is zeroed; the rest is written once, by the copy.
    lengths = [len(array) for array in arrays]
    padded = np.empty((len(arrays), max(lengths), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0
    return torch.from_numpy(padded), torch.tensor(lengths, dtype=torch.int64)
