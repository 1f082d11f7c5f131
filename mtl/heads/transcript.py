"""Recognition: characters or pieces, by CTC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor

from mtl.batch import Batch
from mtl.heads.ctc import CTC
from mtl.spec import TaskSpec

if TYPE_CHECKING:
    from mtl.config import ModelConfig
    from mtl.text import Codec


class Transcript(CTC):
    @classmethod
    def build(cls, spec: TaskSpec, config: ModelConfig, codec: Codec) -> Self:
        return cls(spec, config.width, len(codec.units))

    @staticmethod
    def targets(batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.units, batch.unit_lengths * batch.mask("transcript")
