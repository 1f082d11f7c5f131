"""Speaker adaptation: a small adapter of one user on top of a frozen model.

    personal = Personal.load("ana.safetensors")
    PersonalPredictor(predictor, personal).predict([waveform])
    with personal.on(model):                # on a model without a predictor; afterwards the model is the base again
        model.predict(batch)

Behind each Conformer block the states x of a recording become

    y = x + x * gamma + beta,   z = y + s * up(SiLU(down(LayerNorm(y))))

and the front-end normalises the recording with its own statistics pooled with those of the user's recordings
(mtl.inputs.audio.SpeakerStatistics), which count as s * STATISTICS_FRAMES frames.

gamma and beta are FiLM parameters (Perez et al. 2018): a low-rank map without bias of the speaker's embedding e,
U V (e - m) / |user - m|, where m is the mean embedding of the base's training speakers. For e = m, an unknown speaker,
both are exactly zero. The residual adapter (Houlsby et al. 2019) belongs to the user; s = <e - m, user - m> /
|user - m|^2, clamped to [0, 1], turns it off for other speakers. For the user's own embedding this is LHUC with a shift
(Swietojanski and Renals 2014) and a residual adapter. U and `up` are initialised with zeros, so that an untrained
adapter changes only the statistics.

The modules of the base stay as they are: forward hooks add the corrections inside `on`, for one adapter at a time. Text
inputs are not changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mtl.answers import Prediction
from mtl.decoding.hot_words import WEIGHT
from mtl.inference.predictor import Predictor
from mtl.inputs.audio import SpeakerStatistics
from mtl.inputs.batch import Batch
from mtl.layers.encoder import ConformerBlock
from mtl.models.joint import Recogniser, SpeechModel
from mtl.sharing.adapter import Adapter, Film

FORMAT = 2
LIMIT = 1_000_000  # bytes of an adapter file
STATISTICS_FRAMES = 400.0  # 4 s at 10 ms; from 200 to 800 made no difference on AN4
_KEY = "motet.personal"


class PersonalError(ValueError):
    """An adapter that cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class Shape:
    """Shapes of the tensors. voice: size of a speaker embedding. rank, bottleneck: 0 for no FiLM or no adapters."""

    width: int
    blocks: int
    voice: int
    rank: int = 4
    bottleneck: int = 16


@dataclass(frozen=True)
class About:
    """The user of an adapter, and its base: models:/<base>/<version>, whose folder has the address `digest`.

    hot_words: phrases that the base does not know or finds improbable. hot_weight: of each of their characters, nats.
    """

    speaker: str
    base: str
    version: int | None
    digest: str
    hot_words: tuple[str, ...] = ()
    hot_weight: float = WEIGHT
    utterances: int = 0
    steps: int = 0


class Personal(nn.Module):
    """The adapter of one user.

    voice, mean (E,): embedding of the user, and mean embedding of the base's training speakers. For a base without
        speaker embeddings E = 1, with 1 for the user and 0 for everybody else.
    statistics (2, F): mean and deviation of each mel bin of the user's recordings.
    """

    voice: Tensor
    mean: Tensor

    def __init__(self, shape: Shape, about: About, voice: Tensor, mean: Tensor, statistics: Tensor) -> None:
        super().__init__()
        self.shape, self.about = shape, about
        self.register_buffer("voice", voice.detach().float().clone())
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("usual", statistics.detach().float().clone())  # the name in stored adapters
        if not (self.voice - self.mean).norm() > 0:
            raise PersonalError("the user's voice is the mean voice itself; the two embeddings must differ")
        rank = max(1, shape.rank)
        self.down = nn.Parameter(nn.init.orthogonal_(torch.empty(rank, shape.voice)) * (shape.voice / rank) ** 0.5)
        self.films = nn.ModuleList(Film(shape.width, rank) for _ in range(shape.blocks if shape.rank else 0))
        self.adapters = nn.ModuleList(
            Adapter(shape.width, shape.bottleneck, dropout=0.0) for _ in range(shape.blocks if shape.bottleneck else 0)
        )

    @classmethod
    def beside(
        cls,
        model: SpeechModel,
        about: About,
        voice: Tensor,
        mean: Tensor,
        statistics: Tensor,
        rank: int = 4,
        bottleneck: int = 16,
    ) -> Personal:
        """An untrained adapter for a model."""
        shape = Shape(model.config.width, len(blocks_of(model)), len(voice), rank, bottleneck)
        return cls(shape, about, voice, mean, statistics)

    @property
    def statistics(self) -> Tensor:
        return self.get_buffer("usual")

    def condition(self, voice: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Input (R,) of the FiLM layers, and s, for a speaker embedding; by default the user's."""
        user = self.voice - self.mean
        other = user if voice is None else voice.to(user) - self.mean
        share = ((other @ user) / (user @ user)).clamp(0, 1)
        return self.down @ (other / user.norm()), share

    @contextmanager
    def on(self, model: SpeechModel, voice: Tensor | None = None) -> Iterator[None]:
        """Applies the adapter to a model within the block, for the user or for the speaker embedding `voice` (E,).

        Raises:
            PersonalError: the adapter was made for another number or width of blocks.
        """
        blocks = blocks_of(model)
        if (len(blocks), model.config.width) != (self.shape.blocks, self.shape.width):
            raise PersonalError(
                f"the adapter of {self.about.speaker!r} is for {self.shape.blocks} blocks of width {self.shape.width}, "
                f"the model has {len(blocks)} of width {model.config.width}"
            )
        if voice is not None and torch.equal(voice.to(self.mean), self.mean):
            yield  # an unknown speaker: exactly the base
            return
        is_audio, share = [False], float(self.condition(voice)[1])
        hooks = [
            model.audio.register_forward_pre_hook(lambda *_: is_audio.__setitem__(0, True)),
            model.text.register_forward_pre_hook(lambda *_: is_audio.__setitem__(0, False)),
            *(block.register_forward_hook(self._hook(n, is_audio, voice)) for n, block in enumerate(blocks)),
        ]
        model.audio.speaker = SpeakerStatistics(self.statistics[0], self.statistics[1], share * STATISTICS_FRAMES)
        try:
            yield
        finally:
            model.audio.speaker = None
            for hook in hooks:
                hook.remove()

    def _hook(self, number: int, is_audio: Sequence[bool], voice: Tensor | None) -> Any:
        def correct(_module: nn.Module, _inputs: Any, x: Tensor) -> Tensor:
            return self.correct(number, x, voice) if is_audio[0] else x

        return correct

    def correct(self, number: int, x: Tensor, voice: Tensor | None = None) -> Tensor:
        """Corrected states of block `number`, (B, T, D) -> same."""
        condition, share = self.condition(voice)
        if len(self.films):
            x = self.films[number](x, condition)
        if len(self.adapters):
            x = x + share * (self.adapters[number](x) - x)
        return x

    def to_bytes(self) -> bytes:
        """A safetensors file with shape and description as JSON in its header. Raises PersonalError beyond LIMIT."""
        header = {"format": FORMAT, "shape": asdict(self.shape), "about": asdict(self.about)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        content = save(tensors, metadata={_KEY: json.dumps(header, ensure_ascii=False)})
        if len(content) >= LIMIT:
            raise PersonalError(
                f"the adapter takes {len(content):,} bytes, expected less than {LIMIT:,}; choose a smaller bottleneck "
                "or rank, or fewer hot words"
            )
        return content

    def save(self, path: Path | str) -> None:
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Personal:
        """Raises PersonalError if the file is no adapter, or has another format."""
        content = read_header(path)
        about = {**content["about"], "hot_words": tuple(content["about"]["hot_words"])}
        state = load_file(str(path))
        personal = cls(Shape(**content["shape"]), About(**about), state["voice"], state["mean"], state["usual"])
        personal.load_state_dict(state)
        return personal.eval()


def read_header(path: Path | str) -> dict[str, Any]:
    """Shape and description of an adapter file. Raises PersonalError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
    except Exception as error:  # safetensors' own class is not importable by name in every version
        raise PersonalError(f"{path} is no adapter: {error}") from None
    if header is None:
        raise PersonalError(
            f"{path} is no adapter: it has no {_KEY!r} in its header, expected what Personal.save wrote"
        )
    content: dict[str, Any] = json.loads(header)
    if content["format"] != FORMAT:
        todo = "update Motet" if content["format"] > FORMAT else "run `motet personalise` again"
        raise PersonalError(f"{path} has format {content['format']}, this version reads {FORMAT}; {todo}")
    return content


def blocks_of(model: SpeechModel) -> list[ConformerBlock]:
    """The Conformer blocks, in the order of the model's modules."""
    return [module for module in model.trunk.modules() if isinstance(module, ConformerBlock)]


def check_base(about: About, digest: str) -> None:
    """Raises PersonalError if the adapter was trained on another base."""
    if about.digest != digest:
        name = f"models:/{about.base}/{about.version}" if about.version is not None else about.base
        raise PersonalError(
            f"the adapter of {about.speaker!r} was made for {name} with digest {about.digest}, this base has "
            f"{digest}; run `motet personalise` again on this base"
        )


class PersonalPredictor(Predictor):
    """A Predictor with the adapter and the hot words of one user."""

    def __init__(self, base: Predictor, personal: Personal) -> None:
        super().__init__(base.model, base.features, base.language, base.beam, base.reread, base.search)
        self.personal = personal.to(base.model.device).eval()
        about = personal.about
        if about.hot_words:
            self.recogniser = self.searching(about.hot_words, about.hot_weight)

    def with_options(
        self,
        hot_words: Sequence[str] = (),
        hot_weight: float = WEIGHT,
        n_best: int = 1,
        greedy: bool = False,
        domain: str | None = None,
    ) -> Self:
        """As Predictor.with_options; greedy decoding uses the adapter, but not the user's hot words."""
        other = super().with_options(hot_words, hot_weight, n_best, greedy, domain)
        own = self.personal.about
        if own.hot_words and not greedy:
            weight = hot_weight if hot_words else own.hot_weight
            other.recogniser = other.searching([*own.hot_words, *hot_words], weight, n_best)
        return other

    @torch.no_grad()
    def predict_batch(
        self, batch: Batch, tokens: Sequence[Sequence[str]] | None = None, recogniser: Recogniser | None = None
    ) -> list[Prediction]:
        with self.personal.on(self.model):
            return super().predict_batch(batch, tokens, recogniser)
