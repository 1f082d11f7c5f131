"""Predictions of a trained model, and its folder format, which needs no pickle.

predictor = Predictor.load("folder")
prediction, = predictor.predict([waveform])       # (N,) float32 at predictor.features.sample_rate
prediction, = predictor.predict(["play some jazz"])
predictor.with_options(hot_words=["anna karenina"], n_best=3).predict([waveform])
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mtl.answers import KINDS, Answer, Measurement, Prediction, Word
from mtl.audio.features import log_mel
from mtl.config.decoding import BeamConfig
from mtl.config.features import FeatureSpec
from mtl.config.model import ModelConfig
from mtl.decoding.beam_search import NO_HOT_WORDS, Beam
from mtl.decoding.hot_words import WEIGHT, HotWords
from mtl.decoding.ngram import NGram
from mtl.groups import group, group_of
from mtl.heads.base import Reading
from mtl.inputs.batch import Batch, chunks, collate
from mtl.inputs.codec import Codec
from mtl.models.joint import Recogniser, SpeechModel
from mtl.text.normalization import normalise

WEIGHTS, CONFIG, LANGUAGE = "weights.safetensors", "model.json", "language.arpa"
FORMAT = 1
MOST_TEXTS = 100  # limit of n_best, which is also the width of the search: a request must not choose its cost
BATCH_FRAMES = 12_000  # of one forward pass, padding counted: two minutes of audio at a 10 ms hop


class PredictorError(ValueError):
    """A request that the model cannot answer, or a folder that holds no readable model."""


class Predictor:
    """A trained model with its vocabularies, feature settings and decoders.

    language: of the beam search for transcripts; None for the greedy path. reread, search: see SpeechModel.predict.
    """

    def __init__(
        self,
        model: SpeechModel,
        features: FeatureSpec,
        language: NGram | None = None,
        beam: BeamConfig = BeamConfig(),
        reread: bool = False,
        search: bool = False,
    ) -> None:
        self.model, self.codec, self.features = model.eval(), model.codec, features
        self.language, self.beam, self.reread, self.search = language, beam, reread, search
        self.recogniser: Recogniser | None = None
        self.domain: str | None = None  # of every recording; None for the domains of the batch
        if language is not None:
            self.recogniser = Beam(model.codec.units, language, beam)

    def with_options(
        self,
        hot_words: Sequence[str] = (),
        hot_weight: float = WEIGHT,
        n_best: int = 1,
        greedy: bool = False,
        domain: str | None = None,
    ) -> Self:
        """The same model with other decoding options.

        hot_words: phrases to expect; each of their characters adds hot_weight to the score (see
        mtl.decoding.hot_words). n_best: number of transcripts. greedy: no beam search. domain: of all recordings
        (see mtl.models.domains).

        Raises:
            HotWordError: a hot word without a letter.
            PredictorError: n_best out of range, greedy with hot words or n_best, or an unknown domain.
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
        """The beam search of `with_options`."""
        hot = HotWords(hot_words, hot_weight) if hot_words else NO_HOT_WORDS
        return Beam(self.codec.units, self.language, self.beam, hot, n_best)

    def predict(
        self, inputs: Sequence[np.ndarray | str | Mapping[str, str]], contexts: Sequence[Sequence[str]] | None = None
    ) -> list[Prediction]:
        """One prediction per input.

        inputs: waveforms (N,) float32 at the features' sample rate, sentences, or columns of another input group, such
        as {"picture": base64 of a file}. contexts: previous turns of each input's dialogue, oldest first.

        Raises:
            PredictorError: inputs and contexts differ in number.
        """
        if contexts is not None and len(contexts) != len(inputs):
            raise PredictorError(f"predict got {len(inputs)} inputs and {len(contexts)} contexts, expected as many")
        previous = [{"context": list(map(normalise, turns))} for turns in contexts or [()] * len(inputs)]
        predictions: dict[int, Prediction] = {}
        mels = {i: log_mel(item, self.features) for i, item in enumerate(inputs) if isinstance(item, np.ndarray)}
        for chunk in chunks({i: len(mel) for i, mel in mels.items()}, BATCH_FRAMES):
            batch = collate([self.codec.encode(previous[i]) for i in chunk], [mels[i] for i in chunk])
            predictions.update(zip(chunk, self.predict_batch(batch), strict=True))
        sentences = {i: normalise(item).split() for i, item in enumerate(inputs) if isinstance(item, str)}
        if sentences:
            batch = collate([self.codec.encode({"tokens": tokens, **previous[i]}) for i, tokens in sentences.items()])
            predictions.update(zip(sentences, self.predict_batch(batch, list(sentences.values())), strict=True))
        rows = {i: {**item, **previous[i]} for i, item in enumerate(inputs) if isinstance(item, Mapping)}
        for name in {group_of(row): None for row in rows.values()}:
            members = {i: row for i, row in rows.items() if group_of(row) == name}
            for chunk in chunks({i: group(name).length(row) for i, row in members.items()}, BATCH_FRAMES):
                batch = collate([self.codec.encode(rows[i]) for i in chunk])
                predictions.update(zip(chunk, self.predict_batch(batch), strict=True))
        return [predictions[i] for i in range(len(inputs))]

    @torch.no_grad()
    def predict_batch(
        self, batch: Batch, tokens: Sequence[Sequence[str]] | None = None, recogniser: Recogniser | None = None
    ) -> list[Prediction]:
        """Predictions of a batch.

        tokens: words of each sentence, for batches of text. recogniser: in place of the predictor's own.
        """
        if self.domain is not None:
            batch = replace(batch, domains=torch.full_like(batch.domains, self.codec.domain(self.domain)))
        batch = batch.to(self.model.device)
        outputs = self.model.predict(batch, recogniser or self.recogniser, self.reread, self.search)
        measurements = self._measurements(batch)
        return [
            self._prediction(outputs, measurements[row], row, tokens[row] if tokens is not None else None)
            for row in range(len(batch))
        ]

    def _prediction(
        self,
        outputs: dict[str, list[Any]],
        measurements: dict[str, Measurement],
        row: int,
        tokens: Sequence[str] | None,
    ) -> Prediction:
        words = self._words(outputs, row)
        texts = tuple(word.text for word in words) if tokens is None else tuple(tokens)
        reading = Reading(self.codec, self.features.hop_ms, words, texts)
        answers: dict[str, Answer] = {}
        for name in self.model.config.tasks:
            head = self.model.task(name)
            if name in outputs:
                embedding = outputs["voice"][row] if head.spec.open_set and "voice" in outputs else None
                answers[name] = head.answer(outputs[name][row], replace(reading, embedding=embedding))
            elif name in measurements:
                answers[name] = measurements[name]
        return Prediction(answers)

    def _measurements(self, batch: Batch) -> list[dict[str, Measurement]]:
        """By row and task: distances of recordings from what the model synthesises of their phones or log-mels."""
        measurements: list[dict[str, Measurement]] = [{} for _ in range(len(batch))]
        for beside in self.model.groups_beside(batch):
            rows = batch.inputs[beside].lengths.nonzero()[:, 0]
            heads = [self.model.task(name) for name in self.model.config.tasks]
            names = [head.name for head in heads if beside in head.groups and KINDS[head.spec.answer] is Measurement]
            if not names or not len(rows):
                continue
            recordings = batch.rows(rows)
            for name, states in self.model.encode(recordings, names, beside).items():
                measured = self.model.task(name).measure(states, recordings, self.codec, self.features)
                for row, measurement in zip(rows.tolist(), measured, strict=True):
                    if measurement is not None:
                        measurements[row][name] = measurement
        return measurements

    def _words(self, outputs: dict[str, list[Any]], row: int) -> tuple[Word, ...]:
        recogniser = self.model.recogniser
        if recogniser is None or "words" not in outputs:
            return ()
        path, seconds = outputs[recogniser][row], self.seconds_per_state
        words = []
        for text, start, end in outputs["words"][row]:
            inside = (path.frames[:, 0] >= start) & (path.frames[:, 1] <= end)
            words.append(Word(text, start * seconds, end * seconds, float(path.confidence[inside].mean())))
        return tuple(words)

    @property
    def seconds_per_state(self) -> float:
        """Seconds between two states of the shared encoder."""
        return self.features.hop_ms / 1000 * self.model.config.subsampling

    def save(self, folder: Path | str) -> None:
        """Writes weights.safetensors, model.json and, with a language model, language.arpa."""
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
        """A saved predictor, with beam search for transcripts and translations.

        Raises:
            PredictorError: the folder has another format, or weights that do not fit its model.json.
        """
        folder = Path(folder)
        content = _content(folder)
        model = SpeechModel(ModelConfig.from_json(content["model"]), Codec.from_json(content["codec"]))
        try:
            model.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            details = " ".join(str(error).split())[:300]
            raise PredictorError(
                f"{folder} holds weights of another shape than this version of Motet expects: {details}; "
                "use the version that made it, or train the model again and promote it by hand (motet promote --force)"
            ) from None
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        arpa = folder / LANGUAGE
        language = NGram.from_arpa(arpa.read_text(encoding="utf-8")) if arpa.is_file() else None
        beam = BeamConfig(**content["beam"])
        spec = FeatureSpec(**content["features"])
        return cls(model.to(chosen), spec, language, beam, content["reread"], search=True)


def features_of(folder: Path | str) -> FeatureSpec:
    """Feature settings of a saved predictor. Raises PredictorError, as `load`."""
    return FeatureSpec(**_content(Path(folder))["features"])


def _content(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise PredictorError(
            f"{folder / CONFIG} has format {content['format']}, this version reads {FORMAT}; update Motet"
        )
    return content
