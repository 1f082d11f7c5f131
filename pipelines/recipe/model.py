"""Sections about the model and its answers: settings of mtl (mtl/config), and those that only a recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from mtl.config.decoding import DecoderConfig, LanguageModelWeights
from mtl.config.model import DomainConfig
from mtl.config.setting import setting
from pipelines.recipe.base import Section


class Task(Section):
    """A task that the model is trained for."""

    weight: float = Field(1.0, gt=0, description="Factor of the task's loss.")
    corpora: tuple[str, ...] | None = Field(None, description="Corpora whose labels train the task; null: all.")
    labels: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the training labels that are kept, chosen by hash; a larger share contains a smaller.",
    )
    reversal: float = Field(
        0.0,
        ge=0,
        description="Strength of the gradient reversal between the task and the shared parameters, which then forget "
        "it; for tasks with one label per utterance. 0: none.",
    )


@dataclass(frozen=True)
class Decoding(LanguageModelWeights):
    """Search of the packaged model for transcripts; validation during training uses greedy decoding."""

    beam: int = setting(16, "Texts kept in the beam search; 1: greedy decoding without a language model.", ge=1)
    order: int = setting(3, "Order of the word n-gram model that is trained on the transcripts.", ge=1, le=5)
    arpa: str | None = setting(
        None,
        "File of a word n-gram model (ARPA, gzipped or not) to use instead of one trained on the transcripts.",
        operational=True,
    )
    arpa_checksum: str | None = setting(None, "SHA-256 of that file, hex; filled in when a recipe is loaded.")
    reread: bool = setting(
        False,
        "Predict intent and other labels of a recording from its recognised words too; needs text in training.",
    )


@dataclass(frozen=True)
class Domains(DomainConfig):
    """Domains of recordings: scores are reported for each, and the model may be conditioned on them."""

    by: Literal["corpus", "domain"] = setting("corpus", "Domain of a recording: its corpus, or its label `domain`.")


@dataclass(frozen=True)
class Translation(DecoderConfig):
    """The decoder of the task `translation`; validation during training uses greedy search."""

    units: Literal["sentencepiece", "characters"] = setting("sentencepiece", "Units that translations are spelled in.")
    pieces: int = setting(500, "Vocabulary size of the SentencePiece model, trained on the translations.", ge=32)
