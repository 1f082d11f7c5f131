"""From recordings or sentences to what a user wants to know; and a model as a folder without pickle.

predictor = Predictor.load("folder")
prediction, = predictor.predict([waveform])       # (N,) float32 at predictor.features.sample_rate
prediction, = predictor.predict(["play some jazz"])
predictor.listening(hot_words=["anna karenina"], n_best=3).predict([waveform])
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mtl.audio.features import FeatureSpec, log_mel
from mtl.decoding.beam_search import NO_HOT_WORDS, Beam, BeamConfig
from mtl.decoding.generation import Generated
from mtl.decoding.greedy import Alternative
from mtl.decoding.greedy import Path as Heard
from mtl.decoding.hot_words import WEIGHT, HotWords
from mtl.decoding.ngram import NGram
from mtl.groups import group, group_of
from mtl.heads.slots import bio_values
from mtl.inference.speech_synthesis import Echo, echo
from mtl.inference.vocoder_metrics import Resynthesis, resynthesize
from mtl.inputs.batch import Batch, chunks, collate
from mtl.inputs.codec import Codec
from mtl.models.config import ModelConfig
from mtl.models.joint import Recogniser, SpeechModel
from mtl.spec import Answer, task
from mtl.text.normalization import normalise

WEIGHTS, CONFIG, LANGUAGE = "weights.safetensors", "model.json", "language.arpa"
FORMAT = 1
MOST_TEXTS = 100  # alternatives that may be asked for: the search is as wide, and a request must not choose its cost
UNITS = {"tempo": "phones/s", "intonation": "semitones"}
BATCH_FRAMES = 12_000  # of one forward pass, padding counted: two minutes of audio at a 10 ms hop


class PredictorError(ValueError):
    """What a model is asked for and cannot give, or a folder that it cannot be read from."""


@dataclass(frozen=True)
class Label:
    value: str
    confidence: float


@dataclass(frozen=True)
class Word:
    """A recognised word; start and end in seconds, from the first frame of its first unit to the last of its last.

    confidence: the recogniser's own probability of each unit, averaged over the unit's frames and then over the word's
    units; the language model has no say in it.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input; a task that the model lacks, or that cannot hear this input, is absent.

    labels: a translation is among them: its value is the sentence, its confidence the geometric mean over its units.
    numbers: of the tasks tempo and intonation, in UNITS. voice: the speaker's embedding (D,), comparable by cosine.
    alternatives: the n best transcripts, `text` first, with what mtl.decoding.greedy.Alternative calls their
    confidence; empty
    unless they were asked for. echo: what the recording is like when a model that speaks says it again, where its
    phones are known. resounded: what its own log-mel is like as a vocoder's sound, where its waveform is known.
    """

    text: str | None
    words: tuple[Word, ...]
    labels: Mapping[str, Label]
    tags: tuple[str, ...] | None
    slots: tuple[tuple[str, str], ...]
    voice: np.ndarray | None = None
    phones: tuple[str, ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    alternatives: tuple[Alternative, ...] = ()
    echo: Echo | None = None
    resounded: Resynthesis | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"text": self.text, "words": [asdict(word) for word in self.words]}
        if self.alternatives:
            found["n_best"] = [asdict(alternative) for alternative in self.alternatives]
        found |= {task: asdict(label) for task, label in self.labels.items()}
        found |= {task: {"value": value, "unit": UNITS[task]} for task, value in self.numbers.items()}
        if self.phones is not None:
            found["phones"] = " ".join(self.phones)
        if self.tags is not None:
            found["slots"] = [{"slot": slot, "value": value} for slot, value in self.slots]
        return found


class Predictor:
    """A trained model with what it needs to read its input: vocabularies and the log-mel setting."""

    def __init__(
        self,
        model: SpeechModel,
        features: FeatureSpec,
        language: NGram | None = None,
        beam: BeamConfig = BeamConfig(),
        reread: bool = False,
        search: bool = False,
    ) -> None:
        """With a language model the transcript comes from a beam search, without one from the best path.

        reread, search: recognised words go through the text front-end too, and a translation is searched for; see
        SpeechModel.predict.
        """
        self.model, self.codec, self.features = model.eval(), model.codec, features
        self.language, self.beam, self.reread, self.search = language, beam, reread, search
        self.recogniser: Recogniser | None = None
        self.domain: str | None = None  # of every recording; None: its own where a batch says, else unknown
        if language is not None:
            self.recogniser = Beam(model.codec.units, language, beam)

    def listening(
        self,
        hot_words: Sequence[str] = (),
        hot_weight: float = WEIGHT,
        n_best: int = 1,
        greedy: bool = False,
        domain: str | None = None,
    ) -> Predictor:
        """The same model with another ear.

        hot_words: words and phrases to be expected, each of their characters worth hot_weight (see
        mtl.decoding.hot_words).
        n_best: so many transcripts, best first. greedy: the best path, so that the recogniser alone is heard.
        domain: that all recordings come from (see mtl.models.domains).

        Raises:
            HotWordError: a hot word without a letter.
            PredictorError: n_best out of range, greedy together with what needs a search, or a domain that the model
                does not know.
        """
        if not 1 <= n_best <= MOST_TEXTS:
            raise PredictorError(f"n_best is {n_best}, expected 1 to {MOST_TEXTS}")
        if greedy and (hot_words or n_best > 1):
            raise PredictorError("the best path knows neither hot words nor alternatives; leave greedy out, or those")
        if domain is not None and not self.codec.domain(domain):
            known = f"it knows {', '.join(self.codec.domains)}" if self.codec.domains else "it is told of none"
            raise PredictorError(f"the model has no domain {domain!r}: {known}; without one a recording's is unknown")
        other = copy.copy(self)
        other.domain = domain if domain is not None else self.domain
        if greedy:
            other.recogniser, other.search = None, False
        elif hot_words or n_best > 1:
            other.recogniser = self.searching(hot_words, hot_weight, n_best)
        return other

    def searching(self, hot_words: Sequence[str], hot_weight: float, n_best: int = 1) -> Beam:
        """The search that `listening` puts in; by the sound alone where the model has no language model."""
        hot = HotWords(hot_words, hot_weight) if hot_words else NO_HOT_WORDS
        return Beam(self.codec.units, self.language, self.beam, hot, n_best)

    def predict(
        self, inputs: Sequence[np.ndarray | str | Mapping[str, str]], contexts: Sequence[Sequence[str]] | None = None
    ) -> list[Prediction]:
        """One prediction per input: a waveform (N,) float32 at the features' sample rate, a sentence, or the columns of
        another input group, such as {"picture": base64 of a file}.

        contexts: for each input the turns of the dialogue before it, oldest first; read by the tasks of a dialogue.
        """
        if contexts is not None and len(contexts) != len(inputs):
            raise PredictorError(f"predict was given {len(inputs)} inputs and {len(contexts)} contexts")
        before = [{"context": list(map(normalise, turns))} for turns in contexts or [()] * len(inputs)]
        found: dict[int, Prediction] = {}
        heard = {i: log_mel(item, self.features) for i, item in enumerate(inputs) if isinstance(item, np.ndarray)}
        for chunk in chunks({i: len(mel) for i, mel in heard.items()}, BATCH_FRAMES):
            batch = collate([self.codec.encode(before[i]) for i in chunk], [heard[i] for i in chunk])
            found.update(zip(chunk, self.predict_batch(batch), strict=True))
        read = {i: normalise(item).split() for i, item in enumerate(inputs) if isinstance(item, str)}
        if read:
            batch = collate([self.codec.encode({"tokens": tokens, **before[i]}) for i, tokens in read.items()])
            found.update(zip(read, self.predict_batch(batch, list(read.values())), strict=True))
        rows = {i: {**item, **before[i]} for i, item in enumerate(inputs) if isinstance(item, Mapping)}
        for name in {group_of(row): None for row in rows.values()}:
            members = {i: row for i, row in rows.items() if group_of(row) == name}
            for chunk in chunks({i: group(name).length(row) for i, row in members.items()}, BATCH_FRAMES):
                batch = collate([self.codec.encode(rows[i]) for i in chunk])
                found.update(zip(chunk, self.predict_batch(batch), strict=True))
        return [found[i] for i in range(len(inputs))]

    @torch.no_grad()
    def predict_batch(
        self, batch: Batch, tokens: Sequence[Sequence[str]] | None = None, recogniser: Recogniser | None = None
    ) -> list[Prediction]:
        """Predictions of a batch; for text, `tokens` are the words that its tags belong to.

        recogniser: instead of the predictor's own, for this batch.
        """
        if self.domain is not None:
            batch = replace(batch, domains=torch.full_like(batch.domains, self.codec.domain(self.domain)))
        heard = batch.to(self.model.device)
        raw = self.model.predict(heard, recogniser or self.recogniser, self.reread, self.search)
        raw["echo"] = echo(self.model, heard, self.features.hop_ms)
        raw["resounded"] = resynthesize(self.model, heard, self.features)
        return [self._prediction(raw, row, tokens[row] if tokens is not None else None) for row in range(len(batch))]

    def _prediction(self, raw: dict[str, list[Any]], row: int, tokens: Sequence[str] | None) -> Prediction:
        words = self._words(raw, row)
        heard = [word.text for word in words] if tokens is None else list(tokens)
        tags = None
        if "slots" in raw:
            names = self.codec.labels["slots"]
            tags = tuple(names[tag] for tag in raw["slots"][row][0][: len(heard)])
        return Prediction(
            text=" ".join(word.text for word in words) if "transcript" in raw else None,
            words=words,
            labels={
                name: self._label(name, raw[name][row])
                for name in self._answering("label", "translation")
                if name in raw
            },
            numbers={name: self._number(name, raw[name][row]) for name in self._answering("number") if name in raw},
            tags=tags,
            slots=tuple(bio_values(heard[: len(tags)], list(tags))) if tags is not None else (),
            voice=raw["voice"][row] if "voice" in raw else None,
            phones=self._phones(raw["phones"][row]) if "phones" in raw else None,
            alternatives=raw["transcript"][row].alternatives if "transcript" in raw else (),
            echo=raw["echo"][row],
            resounded=raw["resounded"][row],
        )

    def _answering(self, *answers: Answer) -> list[str]:
        """The model's tasks with one of these kinds of answer."""
        return [name for name in self.model.config.tasks if task(name).answer in answers]

    def _phones(self, path: Heard) -> tuple[str, ...]:
        assert self.codec.speech is not None, "a model that hears phones knows some"
        return self.codec.speech.named(path.units)

    def _number(self, task: str, value: float) -> float:
        return 1000 / (self.features.hop_ms * value) if task == "tempo" else value

    def _label(self, task: str, answer: Any) -> Label:
        if isinstance(answer, Generated):
            assert self.codec.targets is not None, "a model that translates has units to translate into"
            return Label(self.codec.targets.decode(answer.units), answer.confidence)
        return Label(self.codec.labels[task][answer[0]], answer[1])

    def _words(self, raw: dict[str, list[Any]], row: int) -> tuple[Word, ...]:
        if "words" not in raw:
            return ()
        path, seconds = raw["transcript"][row], self.seconds_per_state
        found = []
        for text, start, end in raw["words"][row]:
            inside = (path.frames[:, 0] >= start) & (path.frames[:, 1] <= end)
            found.append(Word(text, start * seconds, end * seconds, float(path.confidence[inside].mean())))
        return tuple(found)

    @property
    def seconds_per_state(self) -> float:
        """Seconds between two states of the shared encoder."""
        return self.features.hop_ms / 1000 * self.model.config.subsampling

    def save(self, folder: Path | str) -> None:
        """weights.safetensors, model.json and, with a language model, language.arpa: all that `load` needs."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / WEIGHTS)
        content = {
            "format": FORMAT,
            "model": self.model.config.to_json(),
            "features": asdict(self.features),
            "codec": self.codec.to_json(),
            "beam": asdict(self.beam),
            "reread": self.reread,
        }
        if self.language is not None:
            (folder / LANGUAGE).write_text(self.language.to_arpa(), encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> Predictor:
        """As it is shipped: with its searches on.

        Raises:
            PredictorError: the folder is of a newer format, or a model of another shape than this version makes.
        """
        folder = Path(folder)
        content = _content(folder)
        model = SpeechModel(ModelConfig.from_json(content["model"]), Codec.from_json(content["codec"]))
        try:
            model.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            odd = " ".join(str(error).split())[:300]
            raise PredictorError(
                f"{folder} holds weights of another shape than this version of Motet makes of its model.json: {odd}; "
                "use the version that made it, or train the model anew and promote it by hand (motet promote --force)"
            ) from None
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        arpa = folder / LANGUAGE
        language = NGram.from_arpa(arpa.read_text(encoding="utf-8")) if arpa.is_file() else None
        beam = BeamConfig(**content["beam"])
        spec = FeatureSpec(**content["features"])
        return cls(model.to(chosen), spec, language, beam, content["reread"], search=True)


def features_of(folder: Path | str) -> FeatureSpec:
    """The log-mel setting of a saved predictor, without loading its weights. Raises PredictorError, as `load`."""
    return FeatureSpec(**_content(Path(folder))["features"])


def _content(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise PredictorError(
            f"{folder / CONFIG} has format {content['format']}, this version reads {FORMAT}; update Motet"
        )
    return content
