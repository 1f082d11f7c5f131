"""The input group "phones": phones of a recording with its speaker and emotion, for the tasks of synthesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mtl.inputs.group import FrontendStates, InputGroup
from mtl.inputs.tts import PADDING, TTSBatch, TTSExample, pad

if TYPE_CHECKING:
    from mtl.inputs.batch import Batch
    from mtl.inputs.codec import Codec


class PhoneGroup(InputGroup):
    """Inputs are a TTSBatch, in which a row without phones has length 0."""

    def encode(self, row: Mapping[str, Any], codec: Codec) -> TTSExample | None:
        return codec.speech.encode(row) if codec.speech is not None else None

    def collate(self, arrays: Sequence[TTSExample | None]) -> TTSBatch | None:
        return pad(arrays)

    def modules(self, config: Any, codec: Codec) -> dict[str, nn.Module]:
        if codec.speech is None:
            return {}
        return {
            self.name: PhoneFrontend(len(codec.speech.phones), config.width, config.dropout),
            # The name in stored weights.
            "manner": StyleEmbedding(len(codec.speech.speakers), len(codec.speech.emotions), config.width),
        }

    def states(self, model: Any, batch: Batch) -> FrontendStates:
        inputs = batch.inputs[self.name]
        assert isinstance(inputs, TTSBatch)
        style = model.manner(inputs.speakers, inputs.emotions)
        return FrontendStates(model.phones(inputs.phones), inputs.lengths, style=style)


class PhoneFrontend(nn.Module):
    """Embedding of phones: (B, P) -> (B, P, D)."""

    def __init__(self, phones: int, width: int, dropout: float) -> None:
        super().__init__()
        self.phone = nn.Embedding(phones + 2, width, padding_idx=PADDING)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, phones: Tensor) -> Tensor:
        return self.dropout(self.norm(self.phone(phones)))


class StyleEmbedding(nn.Module):
    """Embedding (B, D) of speaker and emotion; number 0 of either means unknown."""

    def __init__(self, speakers: int, emotions: int, width: int) -> None:
        super().__init__()
        self.speaker = nn.Embedding(speakers + 1, width)
        self.emotion = nn.Embedding(emotions + 1, width)

    def forward(self, speakers: Tensor, emotions: Tensor) -> Tensor:
        return self.speaker(speakers) + self.emotion(emotions)
