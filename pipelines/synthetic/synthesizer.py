"""Deterministic speech synthesis with eSpeak NG, for the demo corpus.

    samples = synthesize("turn on the kitchen lights")             # (N,) float32 at 16 kHz
    speech = speak("turn on the kitchen lights", voice)            # with the times of its phonemes

Needs the extra `motet[espeak]`, see mtl/tts/espeak.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from mtl.tts import espeak
from mtl.tts.espeak import EspeakError
from pipelines.sources.audio import flac
from pipelines.synthetic.voices import Voice, speakers
from pipelines.utterances.utterance import CorpusError

SAMPLE_RATE = 16000  # Hz
MARGIN = 0.08  # s of silence before and after the speech
SILENCE = 10 ** (-50 / 20)  # relative to the peak; quieter samples at both ends are removed


@dataclass(frozen=True)
class Speech:
    """samples: (N,) float32 at 16 kHz. phonemes: (symbol or PAUSE, start in s, end in s), without gaps."""

    samples: np.ndarray
    phonemes: tuple[tuple[str, float, float], ...]


def synthesize(text: str, voice: Voice | None = None) -> np.ndarray:
    """(N,) float32 at 16 kHz. The default voice is one of the test split."""
    return speak(text, voice or speakers("test", 1, seed=0)[0]).samples


def speak(text: str, voice: Voice) -> Speech:
    """Synthesised speech with the times of its phonemes. Raises CorpusError if eSpeak fails."""
    try:
        raw, rate, events = espeak.say(text, voice.accent, voice.variant, voice.rate, voice.pitch, voice.range)
    except EspeakError as error:
        raise CorpusError(str(error)) from None
    samples = raw.astype(np.float32) / 32768
    first, last = _speech_bounds(samples, rate)
    samples = soxr.resample(samples[first:last], rate, SAMPLE_RATE)
    power = float(np.sqrt(np.mean(samples**2)))
    gain = min(10 ** (voice.level / 20) / power, 0.99 / float(np.abs(samples).max()))
    return Speech(np.asarray(samples * gain, dtype=np.float32), _phonemes(events, first, last, rate))


def render(text: str, voice: Voice, noise: tuple[float, int] | None = None) -> bytes:
    """Synthesised speech as a 16-bit FLAC file; `noise` is (signal-to-noise ratio in dB, seed)."""
    samples = synthesize(text, voice)
    if noise is not None:
        samples = _with_noise(samples, *noise)
    return flac(samples, SAMPLE_RATE)


def _speech_bounds(samples: np.ndarray, rate: int) -> tuple[int, int]:
    """First and last sample of the speech, with margins."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = int(MARGIN * rate)
    return max(0, int(loud[0]) - margin), min(len(samples), int(loud[-1]) + 1 + margin)


def _phonemes(events: list[espeak.Event], first: int, last: int, rate: int) -> tuple[tuple[str, float, float], ...]:
    """Symbols with start and end; each phoneme ends where the next one begins."""
    starts = espeak.with_pauses(events, first)
    times = [(min(max(sample, first), last) - first) / rate for _, sample in starts] + [(last - first) / rate]
    return tuple(zip((symbol for symbol, _ in starts), times[:-1], times[1:], strict=True))


def _with_noise(samples: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Adds pink noise (-3 dB per octave) at a signal-to-noise ratio of `ratio` dB."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(len(samples)))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), len(spectrum) * 50 / (SAMPLE_RATE / 2)))  # flat to 50 Hz
    noise = np.fft.irfft(spectrum, len(samples))
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-ratio / 20)
    noisy = samples + noise
    return np.asarray(noisy * min(1.0, 0.99 / np.abs(noisy).max()), dtype=np.float32)


def installed() -> str:
    """Version of eSpeak NG's package. Raises CorpusError if it is not installed."""
    try:
        return espeak.installed()
    except EspeakError as error:
        raise CorpusError(str(error)) from None
