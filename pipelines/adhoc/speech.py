"""Text to speech: by a registered model, or by eSpeak NG.

with Sound(Path("out.wav"), rate=16000) as sound:
    for samples in sentences_spoken(voice, "A long text. In sentences.", None, emotion="sad", rate=1.0):
        sound.write(samples)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from mtl.audio.pitch import pitch
from mtl.inference.conversion import Converted, Converter
from mtl.inference.predictor import Predictor
from mtl.inference.synthesizer import Synthesizer
from pipelines.adhoc.prediction import model_uri
from pipelines.registry.registry import Registry
from pipelines.sources.audio import decode
from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize
from pipelines.synthetic.voices import Voice

SILENCE_S = 0.25  # between two sentences
STDOUT = Path("-")


class SayError(ValueError):
    """The text has nothing to synthesise."""


class Sound:
    """A 16-bit WAV file that is written in pieces; the path "-" writes raw samples to standard output."""

    def __init__(self, path: Path, rate: int) -> None:
        self.rate, self.seconds = rate, 0.0
        self.file: soundfile.SoundFile | None = None
        if path != STDOUT:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16", format="WAV")

    def write(self, samples: np.ndarray) -> None:
        """(N,) float32 within [-1, 1]."""
        self.seconds += len(samples) / self.rate
        if self.file is not None:
            self.file.write(samples)
        else:
            integers = np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")  # as libsndfile does
            sys.stdout.buffer.write(integers.tobytes())
            sys.stdout.buffer.flush()

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()


def voice_of(root: str, model: str, vocoder: str | None = None) -> Synthesizer:
    """The synthesiser of a registered model. vocoder: another registered model; None: the model's own, or Griffin-Lim.

    Raises:
        RegistryError: no such model. PredictorError: it has no acoustic model, or the vocoder does not fit.
    """
    return Synthesizer(*_loaded(root, model, vocoder))


def _loaded(root: str, model: str, vocoder: str | None) -> tuple[Predictor, Predictor | None]:
    registry = Registry(root)
    return registry.load(model_uri(registry, model)), registry.load(model_uri(registry, vocoder)) if vocoder else None


def converted(
    root: str, model: str, file: Path, emotion: str | None, speaker: str | None, vocoder: str | None = None
) -> tuple[Converted, int]:
    """A recording converted by a registered model, and its rate in Hz. vocoder: see `voice_of`.

    Raises:
        RegistryError: no such model. PredictorError: it cannot convert, or knows no such emotion or speaker.
        SoundError: a recording that cannot be read. ConversionError: no speech in it.
    """
    converter = Converter(*_loaded(root, model, vocoder))
    rate = converter.voice.features.sample_rate
    wave = decode(file, rate)
    (conversion,) = converter.convert([wave], emotion, speaker, [pitch(wave, converter.voice.features)])
    return conversion, rate


def sentences_spoken(
    voice: Synthesizer, text: str, speaker: str | None, emotion: str | None, rate: float
) -> Iterator[np.ndarray]:
    """Yields the sentences of a text, with a short silence between two."""
    for number, samples in enumerate(voice.stream(text, speaker, emotion, rate)):
        if number:
            yield np.zeros(int(SILENCE_S * voice.features.sample_rate), dtype=np.float32)
        yield samples


def lines_of(path: Path) -> list[str]:
    """The non-empty lines of a file. Raises SayError if there are none."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise SayError(f"{path} has no text to synthesise")
    return lines


def by_espeak(text: str, variant: str) -> tuple[np.ndarray, int]:
    """A sentence spoken by eSpeak NG, and its rate in Hz. variant: one of its voices, such as f3 or m4."""
    return synthesize(text, Voice(variant=variant)), SAMPLE_RATE
