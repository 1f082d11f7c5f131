"""Units of text: single characters, or the pieces of a SentencePiece model."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BLANK = 0  # CTC's blank; units begin at 1


class Characters:
    """Single characters, including the space."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._ids = {symbol: position + 1 for position, symbol in enumerate(self.symbols)}

    @classmethod
    def build(cls, texts: Iterable[str]) -> Characters:
        return cls(sorted({character for text in texts for character in text} | {" "}))

    def __len__(self) -> int:
        """Number of units, the blank included."""
        return len(self.symbols) + 1

    def encode(self, text: str) -> list[int]:
        """Units of a normalised text; unknown characters are left out."""
        return [self._ids[character] for character in text if character in self._ids]

    def decode(self, units: Sequence[int]) -> str:
        return "".join(self.symbols[unit - 1] for unit in units)

    def pieces(self, units: Sequence[int]) -> list[str]:
        """Text of each unit, with a space at the boundary between two words."""
        return [self.symbols[unit - 1] for unit in units]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "characters", "symbols": list(self.symbols)}


class SentencePieces:
    """Pieces of a SentencePiece unigram model (Kudo and Richardson 2018), stored as its serialised proto."""

    def __init__(self, proto: bytes) -> None:
        import sentencepiece

        self.proto = proto
        self._model = sentencepiece.SentencePieceProcessor(model_proto=proto)

    @classmethod
    def build(cls, texts: Iterable[str], size: int) -> SentencePieces:
        """Trains on texts; SentencePiece reduces a size that is too large for them.

        Raises:
            ValueError: fewer pieces than the texts have characters.
        """
        import sentencepiece

        proto = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=proto,
                vocab_size=size,
                model_type="unigram",
                character_coverage=1.0,
                hard_vocab_limit=False,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"no SentencePiece model of {size} pieces can be made of the training texts ({error}); "
                "ask for more pieces, or for units: characters"
            ) from error
        return cls(proto.getvalue())

    def __len__(self) -> int:
        return self._model.get_piece_size() + 1

    def encode(self, text: str) -> list[int]:
        return [piece + 1 for piece in self._model.encode(text)]

    def decode(self, units: Sequence[int]) -> str:
        return self._model.decode([int(unit) - 1 for unit in units])

    def pieces(self, units: Sequence[int]) -> list[str]:
        return [self._model.id_to_piece(int(unit) - 1).replace("\u2581", " ") for unit in units]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "proto": base64.b64encode(self.proto).decode()}


Units = Characters | SentencePieces


def units_from(kind: str, texts: Sequence[str], pieces: int) -> Units:
    """A vocabulary of texts; kind: "characters" or "sentencepiece"."""
    return Characters.build(texts) if kind == "characters" else SentencePieces.build(texts, pieces)


def units_from_json(content: Mapping[str, Any]) -> Units:
    if content["kind"] == "characters":
        return Characters(content["symbols"])
    return SentencePieces(base64.b64decode(content["proto"]))
