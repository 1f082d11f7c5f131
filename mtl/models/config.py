"""What fixes a model's shape, and how its tasks share it; as JSON it lies beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mtl.config.setting import Selection
from mtl.config.sharing import MODES
from mtl.layers.decoder import DecoderConfig
from mtl.models.domains import DomainConfig
from mtl.spec import speaks
from mtl.tts.vocoder import VocoderConfig

# Settings of sharing that are stored whatever the mode, as in version 0.1.
VERSION_1_SHARING = (
    *("mode", "strength", "distance", "experts", "shared_experts", "expert_blocks", "bottleneck", "graph"),
)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a model's shape; JSON through `to_json`."""

    tasks: tuple[str, ...]
    bins: int = 80
    width: int = 144
    blocks: int = 6
    heads: int = 4
    kernel: int = 15
    expansion: int = 4
    hidden: int | None = None  # units of the encoder's feed-forward layers, in place of expansion x width
    subsampling: int = 4
    dropout: float = 0.1
    word_dropout: float = 0.05
    rare_words: float = 0.0  # how much more often a rare word is dropped: alpha of frontends.drop_shares
    crf: bool = False  # over the tags of slots
    lstm: int = 0  # layers that read a sentence before the encoder does
    sharing: Selection = field(default_factory=MODES.select)
    recognised: float = 0.0  # share of recordings that are trained on the words that the recogniser hears
    error_limit: float = 0.5  # word errors per true word beyond which a recording keeps its true words
    read: bool = False  # recordings train the text front-end too, by their words
    decoder: DecoderConfig = field(default_factory=DecoderConfig)  # of the task "translation"
    domains: DomainConfig = field(default_factory=DomainConfig)  # what it is told of a recording's domain
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)  # of the task "waveform"
    adversarial: float = 0.0  # weight of a judge of the log-mels that the task "mel" makes; 0: there is none
    consistency: float = 0.0  # weight of what the model hears in them itself; see mtl.models.consistency
    reversal: tuple[
        tuple[str, float], ...
    ] = ()  # tasks that what is shared is to forget; see mtl.layers.gradient_reversal

    @property
    def speaks(self) -> bool:
        return speaks(self.tasks)

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        own = vars(self.sharing.settings)
        for name, value in content.pop("sharing").items():
            if name in (*own, *VERSION_1_SHARING) or value != self.sharing.default(name):
                content["sharing" if name == MODES.key else name] = value
        if not self.domains.on:  # a model that is told nothing is written as it always was
            content.pop("domains")
        if "waveform" not in self.tasks:
            content.pop("vocoder")
        for name in ("adversarial", "consistency", "reversal"):
            if not content[name]:
                content.pop(name)
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelConfig:
        content = {name: tuples(value) for name, value in content.items()}
        own = {one.name for one in fields(cls)}
        sharing = {name: content.pop(name) for name in list(content) if name not in own}
        decoder = DecoderConfig(**content.get("decoder", {}))
        domains = DomainConfig(**content.get("domains", {}))
        vocoder = VocoderConfig.from_json(content.get("vocoder", {}))
        content["sharing"] = MODES.select(content.get("sharing"), **sharing)
        return cls(**{**content, "decoder": decoder, "domains": domains, "vocoder": vocoder})


def tuples(value: Any) -> Any:
    """A JSON value with tuples in place of lists."""
    return tuple(tuples(one) for one in value) if isinstance(value, list) else value
