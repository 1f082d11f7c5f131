"""Sections about data: corpora, quality limits, text, batches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.recipe.base import CORPUS_KINDS, Section
from pipelines.recipe.variables import expand


class Fractions(Section):
    """Shares of speakers or sentences in each split, for a corpus without splits of its own."""

    train: float = Field(0.8, ge=0, le=1, description="Share of the training split.")
    valid: float = Field(0.1, ge=0, le=1, description="Share of the validation split.")
    test: float = Field(0.1, ge=0, le=1, description="Share of the test split.")

    @model_validator(mode="after")
    def _sums_to_one(self) -> Fractions:
        if abs(self.train + self.valid + self.test - 1) > 1e-6:
            raise ValueError(f"train + valid + test is {self.train + self.valid + self.test:g}, expected 1")
        return self


class Corpus(Section):
    """A source of utterances."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name in tables and metrics.")
    kind: Literal[CORPUS_KINDS] = Field(description="Layout of the corpus.")  # type: ignore[valid-type]
    source: str | None = Field(
        None, description="folder, archive, http(s) URL, s3:// prefix, with $NAME for variables; none for espeak"
    )
    checksum: str | None = Field(None, description="sha256 of an archive or download, hex")
    split_by: Literal["release", "speaker", "sentence"] = Field(
        "release", description="the release's own splits where it has them, else (or instead) by speaker or sentence"
    )
    fractions: Fractions = Field(Fractions(), description="Shares of the splits, where split_by applies.")
    language: str | None = Field(None, description="BCP 47 tag for rows that carry none")
    phonemes: str | None = Field(
        None,
        description="for synthesis: eSpeak's voice whose phonemes are made of the texts (gmw/en-us), or characters",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="settings of this corpus kind")

    def location(self) -> str | None:
        """The source with its variables expanded. It may contain secrets, so it is never stored.

        Raises:
            RecipeError: a variable that is not set.
        """
        return None if self.source is None else expand(self.source)


class Quality(Section):
    """Limits of recordings. Each rejected recording becomes a row of the quarantine table."""

    min_seconds: float = Field(0.2, gt=0, description="Shortest recording, in seconds.")
    max_seconds: float = Field(35.0, gt=0, description="Longest recording, in seconds.")
    max_quarantined: float = Field(0.05, ge=0, le=1, description="share of a corpus above which its ingest fails")


class Text(Section):
    """Units of transcripts, and the context of dialogue tasks."""

    units: Literal["characters", "sentencepiece"] = Field("characters", description="Units of the CTC recogniser.")
    pieces: int = Field(256, ge=32, description="size of the SentencePiece model")
    context: int = Field(
        64, ge=0, description="words of the turns before that dialogue tasks read, the latest; 0: none"
    )


class Loader(Section):
    """Batches, sampling of corpora and augmentation."""

    batch_seconds: float = Field(60.0, gt=0, description="audio in a micro-batch, padding counted")
    batch_tokens: int = Field(600, gt=0, description="words in a text micro-batch, padding counted")
    temperature: float = Field(1.0, ge=1, description="1: corpora in proportion to size; higher: more even")
    speed: tuple[float, float] = Field((1.0, 1.0), description="range of speed perturbation")
    time_masks: int = Field(0, ge=0, description="SpecAugment")
    time_mask_fraction: float = Field(0.05, ge=0, le=1, description="longest time mask, as a share of the utterance")
    freq_masks: int = Field(0, ge=0, description="SpecAugment")
    freq_mask_bins: int = Field(20, ge=0, description="Widest frequency mask, in mel bins.")
    substitute: float = Field(
        0.0, ge=0, lt=1, description="share of the slots of a sentence of text whose value is exchanged for another"
    )
