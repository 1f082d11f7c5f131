"""eSpeak NG: a text's phonemes, and the sound that eSpeak itself would make of it. The one file that loads the library.

    phonemes("turn it on, please", "gmw/en-us")      # ["_", "t", "'3:", "n", "I2", "t", "'0", "n", "_", "p", …, "_"]

Needs the extra `motet[espeak]` (eSpeak NG is GPL-3.0-or-later).
"""

from __future__ import annotations

import _ctypes
import atexit
import ctypes
import importlib.metadata
import os
import shutil
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

PAUSE = "_"  # the symbol of silence: at both ends of what is said, and between phrases
Event = tuple[str, int]  # a symbol and the sample that it begins at


class EspeakError(ValueError):
    """eSpeak NG is not installed, does not start, has no such voice, or makes no sound of a text."""


def phonemes(text: str, voice: str) -> list[str]:
    """eSpeak's symbols for the text, stress among them, with PAUSE at both ends and between phrases.

    voice: eSpeak's name of a language's voice, by file: "gmw/en-us", "gmw/de", "roa/fr".

    Raises:
        EspeakError: no such voice, or nothing in the text that could be said.
    """
    _, _, events = say(text, voice)
    return [symbol for symbol, _ in with_pauses(events, 0)]


def with_pauses(events: list[Event], first: int) -> list[Event]:
    """Events from sample `first` on: silence of any kind is PAUSE, and stands at both ends, if only for no time."""
    found = [(PAUSE, first)]
    for symbol, sample in events:  # the last, which is nameless, is the end
        symbol = symbol if symbol.strip("_:;") else PAUSE
        if symbol != PAUSE or found[-1][0] != PAUSE:
            found.append((symbol, sample))
    return found


def say(
    text: str, accent: str, variant: str = "", rate: int = 160, pitch: int = 50, span: int = 50
) -> tuple[np.ndarray, int, list[Event]]:
    """Samples (N,) int16, their rate in Hz, and the phonemes in order, the end as ("", N).

    variant: eSpeak's name of the shape of the throat; rate: words a minute; pitch, span (its range): 0 to 99.

    Raises:
        EspeakError: as above.
    """
    return _Espeak.say(text, accent, variant, rate, pitch, span)


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
_QUIET = 50  # eSpeak's own volume, low enough that no variant clips


class _Espeak:
    """The library, loaded anew for each utterance.

    Its state is global and outlives everything its API can reset (phase of the flutter, tail of the echo, seeds of
    the noise): the same text and voice sound different after other text. Unloading is the one way to begin at zero,
    and takes a quarter of a millisecond. For the same reason only one thread speaks at a time.
    """

    _lock = threading.Lock()

    @classmethod
    def say(
        cls, text: str, accent: str, variant: str, rate: int, pitch: int, span: int
    ) -> tuple[np.ndarray, int, list[Event]]:
        data_path = _data_folder()
        variants = os.listdir(data_path / "voices" / "!v")
        if variant and variant not in variants:  # eSpeak itself would go on without it, and say nothing
            known = ", ".join(sorted(variants))
            raise EspeakError(f"eSpeak NG has no variant {variant!r}; it has {known}")
        with cls._lock:
            library = ctypes.CDLL(_library_path())
            try:
                name = f"{accent}+{variant}" if variant else accent
                settings = ((_RATE, rate), (_VOLUME, _QUIET), (_PITCH, pitch), (_RANGE, span))
                return cls._say(library, str(data_path), text, name, settings)
            finally:
                library.espeak_Terminate()
                _unload(library)

    @staticmethod
    def _say(
        library: ctypes.CDLL, data_path: str, text: str, name: str, settings: tuple[tuple[int, int], ...]
    ) -> tuple[np.ndarray, int, list[Event]]:
        chunks: list[bytes] = []
        events: list[Event] = []

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
            raise EspeakError(f"eSpeak NG did not start with its data in {data_path}; reinstall motet[espeak]")
        library.espeak_SetSynthCallback(take)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # to start is to seed by the clock
        if sys.platform != "win32":
            ctypes.CDLL(None).srand(1)  # some variants take their noise from C's rand()
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise EspeakError(f"eSpeak NG has no voice {name!r}")
        for parameter, value in settings:
            library.espeak_SetParameter(parameter, value, 0)
        said = text.encode()
        status = library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 1, 0, _UTF8, None, None)
        samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
        if status != 0 or not samples.any():
            raise EspeakError(f"eSpeak NG made no sound of {text!r} with the voice {name!r} (status {status})")
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
    """Version of the package that carries eSpeak NG. Raises EspeakError when it is missing."""
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise EspeakError(
            "this needs the eSpeak NG synthesiser, which is not installed: pip install 'motet[espeak]'"
        ) from None
