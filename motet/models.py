"""Models: load a registered or local model, predict, synthesise.

model = motet.load("assistant@champion")
model.predict("kitchen.wav").text
motet.load("expressive").say("Dinner is ready.", emotion="happy").save("dinner.wav")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtl.decoding.hot_words import WEIGHT
from pipelines.cli.results import Part, Prediction, Result
from pipelines.core import environment

if TYPE_CHECKING:
    from mtl.inference.predictor import Predictor
    from mtl.inference.synthesizer import Synthesizer
    from pipelines.registry.version import Version

Audio = str | Path | np.ndarray


class Text(str):
    """A sentence to predict on, in a batch, where a plain string is the path of a recording."""


@dataclass(frozen=True, repr=False)
class Speech:
    """A waveform.

    Attributes:
        samples: (N,) float32 within [-1, 1].
        rate: samples per second.
    """

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def save(self, path: str | Path) -> None:
        """Writes a 16-bit WAV file."""
        import soundfile

        soundfile.write(path, self.samples, self.rate, format="WAV", subtype="PCM_16")

    def __repr__(self) -> str:
        return f"Speech({self.seconds:.2f} s at {self.rate:,} Hz)"


class Model(Result):
    """A loaded model, as returned by `load`.

    Attributes:
        uri: models:/NAME/VERSION or models:/NAME@ALIAS, or the folder it was loaded from.
        root: root of the registry.
        version: entry of the registry with `version`, `aliases`, `metrics` (percent, on the test split), `datasets` and
            `tags`; None for a folder.
        predictor: the underlying mtl.inference.predictor.Predictor, for use with torch.
    """

    def __init__(self, uri: str, root: str, version: Version | None, predictor: Predictor) -> None:
        self.uri, self.root, self.version, self.predictor = uri, root, version, predictor
        self._synthesizers: dict[str | None, Synthesizer] = {}  # by vocoder

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained for."""
        return tuple(self.predictor.model.config.tasks)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Class names of each classification task, and the BIO tags of slot filling."""
        return self.predictor.codec.labels

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that `predict` takes; empty for a model that was trained without them."""
        return tuple(self.predictor.codec.domains)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speakers that `say` takes; empty for a model that does not synthesise."""
        return self.predictor.codec.speech.speakers if self.predictor.codec.speech else ()

    @property
    def emotions(self) -> tuple[str, ...]:
        """Emotions that `say` takes; empty for a model that does not synthesise."""
        return self.predictor.codec.speech.emotions if self.predictor.codec.speech else ()

    @property
    def sample_rate(self) -> int:
        """Of the waveforms that the model reads, Hz; `predict` resamples other rates."""
        return self.predictor.features.sample_rate

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.predictor.model.parameters())

    def predict(self, audio: Audio | None = None, *, text: str | None = None, **options: Any) -> Prediction:
        """Answers of every task that can read one input.

        Args:
            audio: path of a recording (WAV, FLAC, OGG, MP3, AIFF), or an array of samples (N,) or (N, channels):
                float within [-1, 1], or signed integers.
            text: a sentence, instead of audio.
            options: rate (samples per second of an array), context, hot_words, hot_weight, n_best, domain, as of
                `predict_batch`.

        Raises:
            ValueError: neither audio nor text, both, or an array without `rate`. Else as `predict_batch`.

        Example:
            >>> model.predict("kitchen.wav")["intent"]
            {'value': 'light_on', 'confidence': 0.98}
            >>> model.predict(samples, rate=16000).text
            'turn on the light'
            >>> model.predict(text="tomorrow", context=["wake me at seven", "for which day"])["slots"]
            [{'slot': 'date', 'value': 'tomorrow'}]
        """
        if (audio is None) == (text is None):
            raise ValueError("predict takes one of: audio, text")
        (prediction,) = self.predict_batch([audio if text is None else Text(text)], **options)  # type: ignore[list-item]
        return prediction

    def predict_batch(
        self,
        inputs: Sequence[Audio | Text],
        *,
        rate: int | None = None,
        context: Sequence[str] = (),
        hot_words: Sequence[str] = (),
        hot_weight: float = WEIGHT,
        n_best: int = 1,
        domain: str | None = None,
    ) -> list[Prediction]:
        """Answers to many inputs, which are padded and computed together.

        Args:
            inputs: recordings, as of `predict`, and sentences as `motet.Text`.
            rate: samples per second of arrays.
            context: turns of the dialogue before each input, oldest first.
            hot_words: phrases to expect in recordings.
            hot_weight: weight of a hot word per character, in nats.
            n_best: number of transcripts, 1 to 100.
            domain: of the recordings, for a model that was trained with domains.

        Returns:
            One prediction per input, in order.

        Raises:
            ValueError: an array without `rate`.
            SoundError: a recording that cannot be read. HotWordError: a hot word without a letter.
            ContextError: a context, and a model that reads none. PredictorError: an unknown domain, n_best.

        Example:
            >>> [one.text for one in model.predict_batch(["a.wav", "b.wav"], hot_words=["anna karenina"])]
            ['read anna karenina', 'play some jazz']
        """
        from pipelines.adhoc.prediction import check_context

        check_context(self.uri, self.predictor, context)
        predictor = self.predictor.with_options(hot_words, hot_weight, n_best, domain=domain)
        samples = [str(item) if isinstance(item, Text) else self._samples(item, rate) for item in inputs]
        predictions = predictor.predict(samples, [context] * len(samples))
        names = ["samples" if isinstance(item, np.ndarray) else str(item) for item in inputs]
        return [
            Prediction(name, self.uri, prediction.to_json())
            for name, prediction in zip(names, predictions, strict=True)
        ]

    def say(
        self,
        text: str,
        *,
        speaker: str | None = None,
        emotion: str | None = None,
        rate: float = 1.0,
        vocoder: str | None = None,
    ) -> Speech:
        """Synthesises a text, sentence by sentence.

        Args:
            text: one or more sentences.
            speaker: one of `speakers`; the first if omitted.
            emotion: one of `emotions`; neutral if omitted and known.
            rate: speaking rate, 0.25 to 4; 2 is twice as fast.
            vocoder: registered model with a vocoder; the model's own or Griffin-Lim if omitted.

        Returns:
            Samples at `sample_rate`.

        Raises:
            PredictorError: the model does not synthesise, or an unknown speaker, emotion or rate.
            SayError: a text without a letter. RegistryError: no such vocoder.

        Example:
            >>> motet.load("expressive").say("Dinner is ready.", emotion="happy")
            Speech(1.31 s at 16,000 Hz)
        """
        from pipelines.adhoc.speech import SayError, sentences_spoken

        synthesizer = self._synthesizer(vocoder)
        parts = list(sentences_spoken(synthesizer, text, speaker, emotion, rate))
        if not parts:
            raise SayError("nothing in the text can be said")
        return Speech(np.concatenate(parts), synthesizer.features.sample_rate)

    def to_json(self) -> dict[str, Any]:
        """Name, tasks and metrics as plain data."""
        metrics = self.version.metrics if self.version else {}
        return {"model": self.uri, "tasks": self.tasks, "parameters": self.parameters, "metrics": metrics}

    def parts(self) -> list[Part]:
        lines = {
            "tasks": ", ".join(self.tasks),
            "domains": ", ".join(self.domains),
            "speakers": ", ".join(self.speakers),
            "emotions": ", ".join(self.emotions),
            "parameters": f"{self.parameters:,}",
            "test": ", ".join(f"{name} {value:.2f}" for name, value in self.to_json()["metrics"].items()),
        }
        return [f"Model({self.uri!r})", *(f"  {name:<11} {text}" for name, text in lines.items() if text)]

    def _samples(self, audio: Audio, rate: int | None) -> np.ndarray:
        """(N,) float32 at the model's rate."""
        from pipelines.sources.audio import check, decode, resample

        if not isinstance(audio, np.ndarray):
            return decode(audio, self.sample_rate)
        if rate is None:
            raise ValueError(f"an array needs rate=, its samples per second; the model reads {self.sample_rate} Hz")
        if np.issubdtype(audio.dtype, np.integer):
            audio = audio / -float(np.iinfo(audio.dtype).min)
        samples = audio.astype(np.float32)
        samples = samples.mean(axis=1) if samples.ndim == 2 else samples
        check(samples, rate)
        return resample(samples, rate, self.sample_rate)

    def _synthesizer(self, vocoder: str | None) -> Synthesizer:
        from mtl.inference.synthesizer import Synthesizer

        if vocoder not in self._synthesizers:
            vocoders = [load(vocoder, root=self.root).predictor] if vocoder else []
            self._synthesizers[vocoder] = Synthesizer(self.predictor, *vocoders)
        return self._synthesizers[vocoder]


def load(
    name: str | Path | None = None,
    *,
    root: str | Path | None = None,
    device: str | None = None,
    user: str | None = None,
) -> Model:
    """Loads a model.

    Args:
        name: "NAME" (its champion), "NAME@champion", "NAME@challenger", "NAME/3", a models:/ URI, or the folder of a
            package or of a saved predictor; the only registered model if omitted.
        root: folder or s3:// prefix whose registry is asked; MOTET_ROOT or ./motet-root if omitted.
        device: "cpu" or "cuda"; the GPU if there is one, if omitted.
        user: name of a user whose promoted adapter is applied, see `motet personalise`.

    Raises:
        RegistryError: no such model, version, alias, folder or adapter; the message lists what there is.
        PredictorError: a folder of a newer format.

    Example:
        >>> motet.load("assistant@champion")
        Model('models:/assistant@champion')
          tasks       transcript, intent, slots
          parameters  1,204,881
          test        transcript/wer 4.21, intent/accuracy 97.90, slots/f1 95.02
    """
    from pipelines.adhoc.prediction import model_uri
    from pipelines.registry.adapters import load_personal
    from pipelines.registry.registry import Registry

    root = environment.default_root() if root is None else str(root)
    environment.prepare(root)
    registry = Registry(root)
    uri = model_uri(registry, None if name is None else str(name))
    predictor = load_personal(registry, uri, user) if user else registry.load(uri, device)
    version = registry.named(uri) if uri.startswith("models:/") else None
    return Model(uri, root, version, predictor)
