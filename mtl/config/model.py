"""Settings of the model: everything that fixes its shape. As JSON they are stored beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from mtl.config.decoding import DecoderConfig
from mtl.config.features import FeatureSpec
from mtl.config.setting import Selection, setting
from mtl.config.sharing import MODES
from mtl.spec import makes_sound, speaks


@dataclass(frozen=True)
class Model:
    """Front-ends and encoder."""

    width: int = setting(144, "Width of the states; a multiple of 2 x heads.", ge=8)
    blocks: int = setting(6, "Conformer blocks of the encoder; 0, with lstm, for recipes of text alone.", ge=0)
    heads: int = setting(4, "Attention heads of a block.", ge=1)
    kernel: int = setting(15, "Kernel of the convolution in each block, in frames; odd.", ge=1)
    expansion: int = setting(4, "Width of the feed-forward layers, as a multiple of width.", ge=1)
    hidden: int | None = setting(
        None, "Width of the feed-forward layers, in units, instead of expansion x width.", ge=1
    )
    subsampling: Literal[2, 3, 4, 6, 8] = setting(4, "Feature frames per frame of the encoder.")
    dropout: float = setting(0.1, "Dropout probability.", ge=0, lt=1)
    word_dropout: float = setting(0.05, "Share of words of text that are read as unknown in training.", ge=0, lt=1)
    rare_words: float = setting(
        0.0,
        "A word that occurs n times in training is read as unknown with probability rare_words / (rare_words + n), if "
        "that is more than word_dropout.",
        ge=0,
    )
    crf: bool = setting(False, "Decode the slot tags of a sentence jointly, with a linear-chain CRF.")
    lstm: int = setting(0, "Layers of a bidirectional LSTM in the text front-end.", ge=0)

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of 2 x heads {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even, expected odd")


@dataclass(frozen=True)
class Understanding:
    """Which words of a recording the tasks that read words are trained on; see mtl/models/asr_hypotheses.py."""

    recognised: float = setting(
        0.0, "Share of recordings trained on the recogniser's words instead of the transcript's.", ge=0, le=1
    )
    error_limit: float = setting(
        0.5, "Word error rate, as a fraction, above which a recording keeps the transcript's words.", gt=0, lt=1
    )
    read: bool = setting(False, "Train the text front-end on the words of recordings too.")


@dataclass(frozen=True)
class DomainConfig:
    """How the model is conditioned on the domain of a recording; see mtl/models/domains.py."""

    conditioning: bool = setting(False, "Scale and shift the encoder's input by an embedding of the domain (FiLM).")
    adapters: bool = setting(False, "Give each domain adapters of its own before and behind the encoder.")
    bottleneck: int = setting(32, "Hidden units of such an adapter.", ge=1)
    rank: int = setting(8, "Size of the domain embedding.", ge=1)
    dropout: float = setting(
        0.1, "Share of training recordings whose domain is withheld, which trains the unknown domain.", ge=0, lt=1
    )

    @property
    def on(self) -> bool:
        return self.conditioning or self.adapters


@dataclass(frozen=True)
class Synthesis:
    """Losses of the task `mel` beside the distance to the recordings' frames."""

    adversarial: float = setting(
        0.0, "Weight of an adversarial loss and of feature matching, on patches of the log-mel; 0: none.", ge=0
    )
    consistency: float = setting(
        0.0, "Weight of the losses of the model's own emotion and speaker tasks on its log-mels; 0: none.", ge=0
    )


@dataclass(frozen=True)
class Vocoder:
    """Shape and training of the vocoder, which the task `waveform` trains; see mtl/tts/vocoder.py."""

    width: int = setting(192, "Width of the states.", ge=8)
    blocks: int = setting(6, "ConvNeXt blocks.", ge=1)
    expansion: int = setting(3, "Width of a block's inner layer, as a multiple of width.", ge=1)
    segment: int = setting(50, "Frames of each recording that a step trains on.", ge=16)
    adversarial: float = setting(1.0, "Weight of the discriminators' losses; 0: no discriminators.", ge=0)
    channels: int = setting(8, "Channels of the discriminators' layers.", ge=1)


@dataclass(frozen=True)
class VocoderConfig(Vocoder):
    """features: of the log-mels that it turns into sound."""

    features: FeatureSpec = field(default_factory=FeatureSpec)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> VocoderConfig:
        return cls(**{**content, "features": FeatureSpec(**content.get("features", {}))})


# Settings of sharing that are stored whatever the mode, as in version 0.1.
VERSION_1_SHARING = (
    *("mode", "strength", "distance", "experts", "shared_experts", "expert_blocks", "bottleneck", "graph"),
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Synthesis, Understanding, Model):
    """Everything that fixes a model's shape; `to_json` writes it.

    bins: of the log-mel features. decoder: of translations. vocoder: of the task waveform. reversal: strength of the
    gradient reversal of tasks that the shared parameters should forget (see mtl/layers/gradient_reversal.py).
    """

    tasks: tuple[str, ...]
    bins: int = 80
    sharing: Selection = field(default_factory=MODES.select)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    domains: DomainConfig = field(default_factory=DomainConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    reversal: tuple[tuple[str, float], ...] = ()

    @property
    def speaks(self) -> bool:
        return speaks(self.tasks)

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        own = vars(self.sharing.settings)
        for name, value in content.pop("sharing").items():
            if name in (*own, *VERSION_1_SHARING) or value != self.sharing.default(name):
                content["sharing" if name == MODES.key else name] = value
        if not self.domains.on:  # left out where unused, as in version 0.1
            content.pop("domains")
        if not makes_sound(self.tasks):
            content.pop("vocoder")
        for name in ("adversarial", "consistency", "reversal"):
            if not content[name]:
                content.pop(name)
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelConfig:
        content = {name: tuples(value) for name, value in content.items()}
        known = {one.name for one in fields(cls)}
        sharing = {name: content.pop(name) for name in list(content) if name not in known}
        return cls(
            **{
                **content,
                "sharing": MODES.select(content.get("sharing"), **sharing),
                "decoder": DecoderConfig(**content.get("decoder", {})),
                "domains": DomainConfig(**content.get("domains", {})),
                "vocoder": VocoderConfig.from_json(content.get("vocoder", {})),
            }
        )


def tuples(value: Any) -> Any:
    """A JSON value with tuples in place of lists."""
    return tuple(tuples(one) for one in value) if isinstance(value, list) else value
