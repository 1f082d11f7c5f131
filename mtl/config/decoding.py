"""Settings of decoders: the beam search over CTC outputs, and the attention decoder of translations."""

from __future__ import annotations

from dataclasses import dataclass

from mtl.config.setting import setting


@dataclass(frozen=True)
class LanguageModelWeights:
    """Scores that the search adds to those of the recogniser, as natural logarithms."""

    weight: float = setting(0.5, "Weight of the language model's log probability.", ge=0)
    bonus: float = setting(1.0, "Added for each word: a language model alone favours few words.")
    unknown: float = setting(-6.0, "Added for each word that is not in the language model's vocabulary.", le=0)
    spelling: float = setting(-1.0, "Added for each letter of such a word.", le=0)


@dataclass(frozen=True)
class BeamConfig(LanguageModelWeights):
    """Settings of mtl.decoding.beam_search.Beam.

    width: texts in the beam after each frame. candidates: minimum log probability of a unit in a frame.
    """

    width: int = 16
    candidates: float = -7.0
    look_ahead: bool = True


@dataclass(frozen=True)
class DecoderConfig:
    """Shape, training and search of an attention decoder."""

    blocks: int = setting(2, "Transformer blocks of the decoder.", ge=1)
    heads: int = setting(4, "Attention heads; 2 x heads must divide model.width.", ge=1)
    expansion: int = setting(4, "Width of the feed-forward layers, as a multiple of model.width.", ge=1)
    dropout: float = setting(0.1, "Dropout probability.", ge=0, lt=1)
    smoothing: float = setting(
        0.1, "Label smoothing: share of a target's probability that is spread over all units.", ge=0, lt=1
    )
    beam: int = setting(4, "Hypotheses kept in the beam search; 1: greedy search.", ge=1, le=100)
    length_penalty: float = setting(
        0.6, "Exponent alpha of the length normalisation of Wu et al. 2016; 0 prefers short translations.", ge=0
    )
    longest: int = setting(128, "Maximum length of a translation, in units.", ge=1, le=4096)
