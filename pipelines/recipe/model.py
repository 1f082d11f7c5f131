"""Sections about the model: its size, how tasks share it, how their losses weigh, what it is told, how it answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.recipe.address import Operational
from pipelines.recipe.base import Section


class Model(Section):
    width: int = Field(144, ge=8)
    blocks: int = Field(6, ge=0, description="of the encoder; 0, beside lstm, where there is text alone")
    heads: int = Field(4, ge=1)
    kernel: int = Field(15, ge=1, description="frames of the convolution in each block, odd")
    expansion: int = Field(4, ge=1, description="feed-forward width over model width")
    hidden: int | None = Field(
        None, ge=1, description="units of the feed-forward layers, in place of expansion x width"
    )
    subsampling: Literal[2, 3, 4, 6, 8] = 4
    dropout: float = Field(0.1, ge=0, lt=1)
    word_dropout: float = Field(0.05, ge=0, lt=1, description="share of words read as unknown in training")
    rare_words: float = Field(
        0.0,
        ge=0,
        description="a word that training has n times is read as unknown with rare_words / (rare_words + n), if more",
    )
    crf: bool = Field(False, description="slots: a sentence's tags are chosen together, by a chain CRF")
    lstm: int = Field(
        0, ge=0, description="layers of a bidirectional LSTM that reads a sentence of text before the encoder does"
    )

    @model_validator(mode="after")
    def _fits(self) -> Model:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even, expected odd")
        return self


class Task(Section):
    weight: float = Field(1.0, gt=0)
    corpora: tuple[str, ...] | None = Field(None, description="corpora whose labels train this task; all if left out")
    labels: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of its training labels that are kept, by hash; a larger share holds a smaller",
    )
    reversal: float = Field(
        0.0,
        ge=0,
        description="its gradient goes into what tasks share with the other sign, times this, so that it is forgotten "
        "there; of tasks with one label an utterance",
    )


class Decoding(Section):
    """How the shipped model writes down what it hears; validation during training takes the best path."""

    beam: int = Field(16, ge=1, description="texts kept in the search; 1: the best path, without a language model")
    order: int = Field(3, ge=1, le=5, description="of the word n-gram model, made from the training transcripts")
    weight: float = Field(0.5, ge=0, description="of the language model beside the recogniser")
    bonus: float = Field(1.0, description="for each word")
    unknown: float = Field(-6.0, le=0, description="for a word that training never saw")
    spelling: float = Field(-1.0, le=0, description="for each letter of such a word")
    arpa: Annotated[str | None, Operational] = Field(
        None, description="file of a word n-gram model (ARPA, gzipped or not) instead of one from the transcripts"
    )
    arpa_checksum: str | None = Field(None, description="sha256 of that file, hex; filled in when a recipe is loaded")
    reread: bool = Field(
        False, description="intent and the like from the recognised words too; needs sentences of text in training"
    )


class Understanding(Section):
    """On which words the heads that read words are trained; see mtl.models.asr_hypotheses."""

    recognised: float = Field(
        0.0, ge=0, le=1, description="share of recordings trained on the words that the recogniser hears; 0: true words"
    )
    error_limit: float = Field(
        0.5, gt=0, lt=1, description="word errors per true word beyond which a recording keeps its true words"
    )
    read: bool = Field(False, description="the text front-end is trained on the recordings' words too")


class Domains(Section):
    """Conditions that recordings come from, and what the model is told of them; see mtl.models.domains.

    Figures by domain and the probe of their channels are there whatever it is told.
    """

    by: Literal["corpus", "domain"] = Field("corpus", description="a recording's domain: its corpus, or its label")
    conditioning: bool = Field(False, description="an embedding of the domain scales and shifts the trunk's input")
    adapters: bool = Field(False, description="each domain has small layers of its own before and behind the trunk")
    bottleneck: int = Field(32, ge=1, description="units of such a layer")
    rank: int = Field(8, ge=1, description="size of the embedding")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="share of training recordings whose domain is withheld: trains the unknown domain"
    )

    @property
    def on(self) -> bool:
        return self.conditioning or self.adapters


class Synthesis(Section):
    """What the task `mel` learns from beside the recordings' own frames."""

    adversarial: float = Field(
        0.0, ge=0, description="weight of a discriminator of patches of log-mel, and of its features' distance; 0: none"
    )
    consistency: float = Field(
        0.0,
        ge=0,
        description="weight of what the model's own tasks emotion and speaker, held meanwhile, hear in its log-mels",
    )


class Vocoder(Section):
    """Of the task `waveform`: log-mels to sound, after Vocos; see mtl.tts.vocoder."""

    width: int = Field(192, ge=8)
    blocks: int = Field(6, ge=1)
    expansion: int = Field(3, ge=1, description="width of a block's inner layer over that of the vocoder")
    segment: int = Field(50, ge=16, description="frames of each recording that a step trains on")
    adversarial: float = Field(1.0, ge=0, description="weight of the discriminators' losses; 0: there are none")
    channels: int = Field(8, ge=1, description="of the discriminators' layers")


class Translation(Section):
    """The decoder of the task `translation`; the shipped model searches, validation takes the likeliest unit."""

    units: Literal["sentencepiece", "characters"] = "sentencepiece"
    pieces: int = Field(500, ge=32, description="size of the SentencePiece model, made from the training translations")
    blocks: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    expansion: int = Field(4, ge=1, description="feed-forward width over model width")
    dropout: float = Field(0.1, ge=0, lt=1)
    smoothing: float = Field(0.1, ge=0, lt=1, description="of labels: share of a unit's probability spread over all")
    beam: int = Field(4, ge=1, le=100, description="hypotheses kept in the search; 1: greedy")
    length_penalty: float = Field(0.6, ge=0, description="alpha of Wu et al. 2016; 0 prefers short translations")
    longest: int = Field(128, ge=1, le=4096, description="units of a translation, at most")
