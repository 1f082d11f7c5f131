"""Texts to sound files: by a registered model that speaks, or by eSpeak NG.

with Sound(Path("out.wav"), rate=16000) as sound:
    for samples in spoken(root, "expressive", "A long text. In sentences.", speaker=None, emotion="sad", rate=1.0):
        sound.write(samples)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
import soundfile

if TYPE_CHECKING:
    from mtl.inference.conversion import Converted
    from mtl.inference.predictor import Predictor
    from mtl.inference.synthesizer import Synthesizer

SILENCE_S = 0.25  # between two sentences
STDOUT = Path("-")


class SayError(ValueError):
    """What is to be said, or where it is to go, does not fit; the message says what was expected."""


class Sound:
    """A 16-bit WAV file, or, for the path "-", samples alone on standard output; written piece by piece."""

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
            whole = np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")  # as libsndfile does
            sys.stdout.buffer.write(whole.tobytes())
            sys.stdout.buffer.flush()

    def __enter__(self) -> Sound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()


def voice_of(root: str, model: str, vocoder: str | None = None) -> Synthesizer:
    """A registered model's voice; vocoder: the registered model that makes its sound, its own or Griffin-Lim if None.

    Raises:
        RegistryError: no such model. PredictorError: it does not speak, or the vocoder is none for it.
    """
    from mtl.inference.synthesizer import Synthesizer

    return Synthesizer(*_loaded(root, model, vocoder))


def _loaded(root: str, model: str, vocoder: str | None) -> tuple[Predictor, Predictor | None]:
    from pipelines.adhoc.prediction import model_uri
    from pipelines.registry.registry import Registry

    registry = Registry(root)
    made, other = (name and registry.load(model_uri(registry, name)) for name in (model, vocoder))
    return cast("Predictor", made), other or None


def converted(
    root: str, model: str, file: Path, emotion: str | None, speaker: str | None, vocoder: str | None = None
) -> tuple[Converted, int]:
    """A recording said again by a registered model, and its rate in Hz; vocoder: as of `voice_of`.

    Raises:
        RegistryError: no such model. PredictorError: it cannot convert, or knows no such emotion or speaker.
        SoundError: a recording that cannot be read. ConversionError: nothing is heard in it.
    """
    from mtl.audio.pitch import pitch
    from mtl.inference.conversion import Converter
    from pipelines.sources.audio import decode

    converter = Converter(*_loaded(root, model, vocoder))
    rate = converter.voice.features.sample_rate
    wave = decode(file, rate)
    (found,) = converter.convert([wave], emotion, speaker, [pitch(wave, converter.voice.features)])
    return found, rate


def sentences_spoken(
    voice: Synthesizer, text: str, speaker: str | None, emotion: str | None, rate: float
) -> Iterator[np.ndarray]:
    """The text sentence by sentence, a short silence between two."""
    for number, samples in enumerate(voice.stream(text, speaker, emotion, rate)):
        if number:
            yield np.zeros(int(SILENCE_S * voice.features.sample_rate), dtype=np.float32)
        yield samples


def lines_of(path: Path) -> list[str]:
    """A text's lines, those that are not empty. Raises SayError where there are none."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise SayError(f"{path} holds no text to be said")
    return lines


def by_espeak(text: str, variant: str) -> tuple[np.ndarray, int]:
    """A sentence as eSpeak NG speaks it, and its rate in Hz; variant: a voice of its own, such as f3 or m4."""
    from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize
    from pipelines.synthetic.voices import Voice

    return synthesize(text, Voice(variant=variant)), SAMPLE_RATE
