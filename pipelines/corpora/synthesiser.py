"""A voice for a text: the eSpeak NG synthesiser, the same samples every time.

    samples = synthesize("turn on the kitchen lights")             # (N,) float32 at 16 kHz
    speech = speak("turn on the kitchen lights", voice)            # and where its phonemes lie

Needs the extra `motet[espeak]` (eSpeak NG is GPL-3.0-or-later; this is the only file that imports it).
"""

from __future__ import annotations

import _ctypes
import atexit
import ctypes
import importlib.metadata
import io
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from pipelines.corpora.base import CorpusError
from pipelines.corpora.voices import Voice, speakers

SAMPLE_RATE = 16000  # Hz
MARGIN = 0.08  # s of silence kept before and after
SILENCE = 10 ** (-50 / 20)  # of the peak; what is below it at the ends is cut


@dataclass(frozen=True)
class Speech:
    """samples (N,) float32 at 16 kHz; phonemes: (eSpeak's symbol, start in s, end in s), in order, without pauses."""

    samples: np.ndarray
    phonemes: tuple[tuple[str, float, float], ...]


def synthesize(text: str, voice: Voice | None = None) -> np.ndarray:
    """The text, spoken: (N,) float32 at 16 kHz, the same samples each time. Voice None is one of the test split."""
    return speak(text, voice or speakers("test", 1, seed=0)[0]).samples


def speak(text: str, voice: Voice) -> Speech:
    """The text, spoken, with the times of its phonemes. Raises CorpusError when eSpeak cannot say it."""
    raw, rate, events = _Espeak.say(text, voice)
    samples = raw.astype(np.float32) / 32768
    first, last = _sounding(samples, rate)
    samples = soxr.resample(samples[first:last], rate, SAMPLE_RATE)
    power = float(np.sqrt(np.mean(samples**2)))
    gain = min(10 ** (voice.level / 20) / power, 0.99 / float(np.abs(samples).max()))
    return Speech(np.asarray(samples * gain, dtype=np.float32), _phonemes(events, first, last, rate))


def render(text: str, voice: Voice, noise: tuple[float, int] | None = None) -> bytes:
    """A 16-bit FLAC file of the text, spoken; `noise` is (signal-to-noise ratio in dB, seed)."""
    samples = synthesize(text, voice)
    if noise is not None:
        samples = _with_noise(samples, *noise)
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _sounding(samples: np.ndarray, rate: int) -> tuple[int, int]:
    """Where the sound begins and ends, in samples, the margins included."""
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    margin = int(MARGIN * rate)
    return max(0, int(loud[0]) - margin), min(len(samples), int(loud[-1]) + 1 + margin)


def _phonemes(events: list[tuple[str, int]], first: int, last: int, rate: int) -> tuple[tuple[str, float, float], ...]:
    """From (symbol, sample) at each start; the last event is the end. Symbols that begin with "_" are pauses."""
    times = [(min(max(sample, first), last) - first) / rate for _, sample in events]
    spans = zip((symbol for symbol, _ in events), times[:-1], times[1:], strict=False)
    return tuple((symbol, start, end) for symbol, start, end in spans if symbol.strip("_:;") and end > start)


def _with_noise(samples: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Noise that falls by 3 dB an octave, as that of rooms and machines does, at `ratio` dB below the speech."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(len(samples)))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), len(spectrum) * 50 / (SAMPLE_RATE / 2)))  # flat to 50 Hz
    noise = np.fft.irfft(spectrum, len(samples))
    noise *= np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10 ** (-ratio / 20)
    noisy = samples + noise
    return np.asarray(noisy * min(1.0, 0.99 / np.abs(noisy).max()), dtype=np.float32)


# --- eSpeak NG -----------------------------------------------------------------------------------------------------


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("pointer", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
# Numbers of speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT, _UTF8 = 2, 1, 0x8000, 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_EVENT_PHONEME, _EVENT_END = 7, 5
_QUIET = 50  # eSpeak's own volume, low enough that no variant clips; `speak` sets the level


class _Espeak:
    """The library, loaded anew for each utterance.

    Its state is global and outlives everything its API can reset (phase of the flutter, tail of the echo, seeds of
    the noise): the same text and voice sound different after other text. Unloading is the one way to begin at zero,
    and takes a quarter of a millisecond. For the same reason only one thread speaks at a time.
    """

    _lock = threading.Lock()

    @classmethod
    def say(cls, text: str, voice: Voice) -> tuple[np.ndarray, int, list[tuple[str, int]]]:
        """Samples (N,) int16, their rate in Hz, and (phoneme, first sample) in order, the end as ("", N)."""
        data_path = _data_folder()
        variants = os.listdir(data_path / "voices" / "!v")
        if voice.variant not in variants:  # eSpeak itself would go on without it, and say nothing
            known = ", ".join(sorted(variants))
            raise CorpusError(f"eSpeak NG has no variant {voice.variant!r}; it has {known}")
        with cls._lock:
            library = ctypes.CDLL(_library_path())
            try:
                return cls._say(library, str(data_path), text, voice)
            finally:
                library.espeak_Terminate()
                _unload(library)

    @staticmethod
    def _say(
        library: ctypes.CDLL, data_path: str, text: str, voice: Voice
    ) -> tuple[np.ndarray, int, list[tuple[str, int]]]:
        chunks: list[bytes] = []
        events: list[tuple[str, int]] = []

        @_CALLBACK
        def take(samples: Any, count: int, event: Any) -> int:
            if count > 0:
                chunks.append(ctypes.string_at(samples, 2 * count))
            place = 0
            while event[place].type:
                if event[place].type == _EVENT_PHONEME:
                    events.append((event[place].id.string.decode("utf-8", "replace"), event[place].sample))
                place += 1
            return 0

        rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _PHONEME_EVENTS | _DO_NOT_EXIT)
        if rate <= 0:
            raise CorpusError(f"eSpeak NG did not start with its data in {data_path}; reinstall motet[espeak]")
        library.espeak_SetSynthCallback(take)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # to start is to seed by the clock
        if sys.platform != "win32":
            ctypes.CDLL(None).srand(1)  # some variants take their noise from C's rand()
        name = f"{voice.accent}+{voice.variant}"
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise CorpusError(f"eSpeak NG has no voice {name!r}")
        for parameter, value in ((_RATE, voice.rate), (_VOLUME, _QUIET), (_PITCH, voice.pitch), (_RANGE, voice.range)):
            library.espeak_SetParameter(parameter, value, 0)
        said = text.encode()
        status = library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, _UTF8, None, None)
        samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
        if status != 0 or not samples.any():
            raise CorpusError(f"eSpeak NG made no sound of {text!r} with the voice {name!r} (status {status})")
        return samples, rate, [*events, ("", len(samples))]


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


def _library_path() -> str:
    installed()
    import espeakng_loader

    return str(espeakng_loader.get_library_path())


@lru_cache(1)
def _data_folder() -> Path:
    """A folder of links to eSpeak's data, for this process.

    For two reasons: eSpeak cuts its data path at 160 characters, which a deep virtual environment passes; and it
    looks for a voice in lower case, so that without a link in lower case it opens every voice file there is, each time.
    """
    installed()
    import espeakng_loader

    data = Path(espeakng_loader.get_data_path())
    folder = Path(tempfile.mkdtemp(prefix="motet-espeak-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        for item in data.iterdir():
            if item.name != "lang":
                (folder / item.name).symlink_to(item)
        for family in (item for item in (data / "lang").iterdir() if item.is_dir()):
            (folder / "lang" / family.name).mkdir(parents=True)
            for voice in family.iterdir():
                (folder / "lang" / family.name / voice.name.lower()).symlink_to(voice)
    except OSError:  # no links on this file system: then its own folder has to do
        return data
    return folder


@lru_cache(1)
def installed() -> str:
    """Version of the package that carries eSpeak NG. Raises CorpusError when it is missing."""
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise CorpusError(
            "the espeak corpus needs the eSpeak NG synthesiser, which is not installed: pip install 'motet[espeak]'"
        ) from None
