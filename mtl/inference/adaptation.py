"""A user's own adapter: small corrections of a frozen model's states while it listens to one person.

    personal = Personal.load("ana.safetensors")
    PersonalPredictor(predictor, personal).predict([waveform])
    with personal.on(model):                # or on the bare model; outside of it the model is the base again
        model.predict(batch)

Behind each Conformer block the states x of a recording become

    y = x + x * gamma + beta,   z = y + s * up(SiLU(down(LayerNorm(y))))

and the front-end normalises its frames by the recording's own statistics pooled with those of the user's recordings
(frontends.Usual), which weigh as s * USUAL_FRAMES frames.

gamma and beta are FiLM (Perez et al. 2018), made from the speaker's embedding e by a low-rank map without a bias:
U V (e - m) / |user - m|, m the mean embedding of the speakers that the base was trained on. A stranger is given m, so
gamma and beta are exactly zero. The bottleneck (Houlsby et al. 2019) is the user's own; s = <e - m, user - m> /
|user - m|^2, kept within 0 and 1, closes it to strangers too. For the user's one embedding this is LHUC with a shift
(Swietojanski and Renals 2014) and a residual adapter. U and `up` start at zero: an untrained adapter is the base
with the user's statistics.

The base's modules are not touched: hooks add the corrections while `on` lasts (one adapter at a time on a model). Text
passes as it always did.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
LIMIT = 1_000_000  # bytes of an adapter's file
USUAL_FRAMES = 400.0  # 4 s at 10 ms; from 200 to 800 made no difference on AN4
_KEY = "motet.personal"


class PersonalError(ValueError):
    """An adapter that cannot be read, or does not belong to this model; the message says what was expected."""


@dataclass(frozen=True)
class Shape:
    """What fixes an adapter's tensors. voice: size of a speaker's embedding; rank and bottleneck: 0 leaves them out."""

    width: int
    blocks: int
    voice: int
    rank: int = 4
    bottleneck: int = 16


@dataclass(frozen=True)
class About:
    """Whose adapter this is, and of which base: models:/<base>/<version>, whose folder has the address `digest`.

    hot_words: phrases that the base lacks or rates low; hot_weight: what each of their characters is worth.
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
    """The adapter of one user. voice, mean (E,): embeddings of the user and of the base's training speakers.

    A base that embeds no voices has E = 1, the user at 1 and everybody else at 0.

    usual: mean and deviation of each mel bin of the user's recordings, (2, F).
    """

    voice: Tensor
    mean: Tensor
    usual: Tensor

    def __init__(self, shape: Shape, about: About, voice: Tensor, mean: Tensor, usual: Tensor) -> None:
        super().__init__()
        self.shape, self.about = shape, about
        self.register_buffer("voice", voice.detach().float().clone())
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("usual", usual.detach().float().clone())
        if not (self.voice - self.mean).norm() > 0:
            raise PersonalError("the user's voice is the mean voice itself; expected another embedding")
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
        usual: Tensor,
        rank: int = 4,
        bottleneck: int = 16,
    ) -> Personal:
        """A fresh one for a model; with it on, the model is still the base but for the statistics `usual` (2, F)."""
        shape = Shape(model.config.width, len(blocks_of(model)), len(voice), rank, bottleneck)
        return cls(shape, about, voice, mean, usual)

    @classmethod
    def restored(cls, shape: Shape, about: About, state: Mapping[str, Tensor]) -> Personal:
        """The one that had this state_dict."""
        personal = cls(shape, about, state["voice"], state["mean"], state["usual"])
        personal.load_state_dict(state)
        return personal.eval()

    def condition(self, voice: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the films are given, (R,), and the adapters' share s, for a speaker's embedding; None: the user's."""
        user = self.voice - self.mean
        other = user if voice is None else voice.to(user) - self.mean
        share = ((other @ user) / (user @ user)).clamp(0, 1)
        return self.down @ (other / user.norm()), share

    @contextmanager
    def on(self, model: SpeechModel, voice: Tensor | None = None) -> Iterator[None]:
        """Within it the model hears recordings through this adapter, for the user or for the embedding `voice` (E,).

        Raises:
            PersonalError: the model has other blocks than the adapter was made for.
        """
        blocks = blocks_of(model)
        if (len(blocks), model.config.width) != (self.shape.blocks, self.shape.width):
            raise PersonalError(
                f"the adapter of {self.about.speaker!r} is for {self.shape.blocks} blocks of width {self.shape.width}, "
                f"the model has {len(blocks)} of width {model.config.width}"
            )
        if voice is not None and torch.equal(voice.to(self.mean), self.mean):
            yield  # a stranger: the base, bit for bit
            return
        hearing, share = [False], float(self.condition(voice)[1])
        hooks = [
            model.audio.register_forward_pre_hook(lambda *_: hearing.__setitem__(0, True)),
            model.text.register_forward_pre_hook(lambda *_: hearing.__setitem__(0, False)),
            *(block.register_forward_hook(self._hook(n, hearing, voice)) for n, block in enumerate(blocks)),
        ]
        model.audio.usual = SpeakerStatistics(self.usual[0], self.usual[1], share * USUAL_FRAMES)
        try:
            yield
        finally:
            model.audio.usual = None
            for hook in hooks:
                hook.remove()

    def _hook(self, number: int, hearing: Sequence[bool], voice: Tensor | None) -> Any:
        def correct(_module: nn.Module, _inputs: Any, x: Tensor) -> Tensor:
            return self.correct(number, x, voice) if hearing[0] else x

        return correct

    def correct(self, number: int, x: Tensor, voice: Tensor | None = None) -> Tensor:
        """States behind block `number`, (B, T, D) -> same."""
        condition, share = self.condition(voice)
        if len(self.films):
            x = self.films[number](x, condition)
        if len(self.adapters):
            x = x + share * (self.adapters[number](x) - x)
        return x

    def to_bytes(self) -> bytes:
        """A safetensors file with everything else as JSON in its header. Raises PersonalError beyond LIMIT."""
        header = {"format": FORMAT, "shape": asdict(self.shape), "about": asdict(self.about)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        content = save(tensors, metadata={_KEY: json.dumps(header, ensure_ascii=False)})
        if len(content) >= LIMIT:
            raise PersonalError(
                f"the adapter takes {len(content):,} bytes, expected less than {LIMIT:,}; take a smaller bottleneck or "
                "rank, or fewer hot words"
            )
        return content

    def save(self, path: Path | str) -> None:
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Personal:
        """Raises PersonalError when the file is no adapter, or of a newer format."""
        content = read_header(path)
        about = {**content["about"], "hot_words": tuple(content["about"]["hot_words"])}
        return cls.restored(Shape(**content["shape"]), About(**about), load_file(str(path)))


def read_header(path: Path | str) -> dict[str, Any]:
    """An adapter file's JSON. Raises PersonalError."""
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
    """Every Conformer block, in the order of the model's modules."""
    return [module for module in model.trunk.modules() if isinstance(module, ConformerBlock)]


def check_base(about: About, digest: str) -> None:
    """Raises PersonalError when the adapter was made for another base."""
    if about.digest != digest:
        named = f"models:/{about.base}/{about.version}" if about.version is not None else about.base
        raise PersonalError(
            f"the adapter of {about.speaker!r} was made for {named} with digest {about.digest}, this base has "
            f"{digest}; run `motet personalise` again on this base"
        )


class PersonalPredictor(Predictor):
    """A Predictor that hears as one user's adapter has it, that user's hot words among what it expects."""

    def __init__(self, base: Predictor, personal: Personal) -> None:
        super().__init__(base.model, base.features, base.language, base.beam, base.reread, base.search)
        self.base, self.personal = base, personal.to(base.model.device).eval()
        about = personal.about
        if about.hot_words:
            self.recogniser = self.searching(about.hot_words, about.hot_weight)

    def listening(
        self,
        hot_words: Sequence[str] = (),
        hot_weight: float = WEIGHT,
        n_best: int = 1,
        greedy: bool = False,
        domain: str | None = None,
    ) -> PersonalPredictor:
        """As Predictor has it; with the best path the adapter remains, the user's hot words do not."""
        base = self.base.listening(hot_words, hot_weight, n_best, greedy, domain)
        other = PersonalPredictor(self.base, self.personal)
        other.recogniser, other.search, other.domain = base.recogniser, base.search, base.domain
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
