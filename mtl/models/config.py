"""What fixes a model's shape, and how its tasks share it; as JSON it lies beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mtl.layers.decoder import DecoderConfig
from mtl.models.domains import DomainConfig
from mtl.spec import makes_sound, speaks
from mtl.tts.vocoder import VocoderConfig


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
    sharing: str = "hard"
    strength: float = 1e-3  # lambda of the soft penalty
    distance: str = "l2"
    experts: int = 4  # of mmoe
    shared_experts: int = 1  # of ple, beside one for each task
    expert_blocks: int = 1  # the last blocks, which are experts in mmoe and ple
    bottleneck: int = 32  # units of an adapter, or of what makes an attention mask
    graph: tuple[tuple[str, str], ...] | None = None  # pairs of tasks; None: mtl.sharing.graph.DEFAULT_GRAPH
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
        if not self.domains.on:  # a model that is told nothing is written as it always was
            content.pop("domains")
        if not makes_sound(self.tasks):
            content.pop("vocoder")
        for name in ("adversarial", "consistency", "reversal"):
            if not content[name]:
                content.pop(name)
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelConfig:
        graph = content.get("graph")
        pairs = None if graph is None else tuple((one, other) for one, other in graph)
        decoder = DecoderConfig(**content.get("decoder", {}))
        domains = DomainConfig(**content.get("domains", {}))
        vocoder = VocoderConfig.from_json(content.get("vocoder", {}))
        turned = tuple((task, strength) for task, strength in content.get("reversal", ()))
        nested = {"graph": pairs, "decoder": decoder, "domains": domains, "vocoder": vocoder, "reversal": turned}
        return cls(**{**content, "tasks": tuple(content["tasks"]), **nested})
