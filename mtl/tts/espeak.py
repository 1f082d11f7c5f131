"""Binding of eSpeak NG: phonemes and synthetic speech of a text.

    phonemes("turn it on, please", "gmw/en-us")      # ["_", "t", "'3:", "n", "I2", "t", "'0", "n", "_", "p", …, "_"]

Needs the extra `motet[espeak]`. eSpeak NG is GPL-3.0-or-later; only this file loads it.
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

PAUSE = "_"  # symbol of silence: at both ends of an utterance, and between phrases
Event = tuple[str, int]  # a symbol and its first sample


class EspeakError(ValueError):
    """eSpeak NG is not installed, does not start, has no such voice, or produces no sound."""


def phonemes(text: str, voice: str) -> list[str]:
    """eSpeak's symbols of a text, stress included, with PAUSE at both ends and between phrases.

    voice: file name of a voice: "gmw/en-us", "gmw/de", "roa/fr".

    Raises:
        EspeakError: no such voice, or nothing to pronounce in the text.
    """
    _, _, events = say(text, voice)
    return [symbol for symbol, _ in with_pauses(events, 0)]


def with_pauses(events: list[Event], first: int) -> list[Event]:
    """Events from sample `first` on, with any kind of silence as PAUSE, which is at both ends, if only of length 0."""
    merged = [(PAUSE, first)]
    for symbol, sample in events:  # the last one has no symbol: it is the end
        symbol = symbol if symbol.strip("_:;") else PAUSE
        if symbol != PAUSE or merged[-1][0] != PAUSE:
            merged.append((symbol, sample))
    return merged


def say(
    text: str, accent: str, variant: str = "", rate: int = 160, pitch: int = 50, span: int = 50
) -> tuple[np.ndarray, int, list[Event]]:
    """Samples (N,) int16, their rate in Hz, and the phonemes in order, with the end as ("", N).

    variant: file name of a voice variant. rate: words per minute. pitch, span (its range): 0 to 99.

    Raises:
        EspeakError: no such voice or variant, or no sound.
    """
    data_path = _data_folder()
    import espeakng_loader  # of the extra; _data_folder raises EspeakError without it

    variants = os.listdir(data_path / "voices" / "!v")
    if variant and variant not in variants:  # eSpeak itself would ignore it
        raise EspeakError(f"eSpeak NG has no variant {variant!r}; it has {', '.join(sorted(variants))}")
    name = f"{accent}+{variant}" if variant else accent
    # The library is loaded for each utterance, because its global state outlives everything its API can reset (phase of
    # the flutter, tail of the echo, seeds of the noise): the same text and voice would sound different after another
    # text. Unloading takes a quarter of a millisecond. For the same reason only one thread may speak at a time.
    with _lock:
        library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        try:
            settings = ((_RATE, rate), (_VOLUME, _QUIET), (_PITCH, pitch), (_RANGE, span))
            return _synthesize(library, str(data_path), text, name, settings)
        finally:
            library.espeak_Terminate()
            _unload(library)


_lock = threading.Lock()


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
_QUIET = 50  # volume at which no variant clips


def _synthesize(
    library: ctypes.CDLL, data_path: str, text: str, name: str, settings: tuple[tuple[int, int], ...]
) -> tuple[np.ndarray, int, list[Event]]:
    chunks: list[bytes] = []
    events: list[Event] = []

    @_CALLBACK
    def take(samples: Any, count: int, event: Any) -> int:
        if count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while event[index].type:
            if event[index].type == _EVENT_PHONEME:
                events.append((event[index].id.string.decode("utf-8", "replace"), event[index].sample))
            index += 1
        return 0

    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data_path.encode(), _PHONEME_EVENTS | _DO_NOT_EXIT)
    if rate <= 0:
        raise EspeakError(f"eSpeak NG did not start with its data in {data_path}; reinstall motet[espeak]")
    library.espeak_SetSynthCallback(take)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # the library seeds by the clock
    if sys.platform != "win32":
        ctypes.CDLL(None).srand(1)  # some variants take their noise from C's rand()
    if library.espeak_SetVoiceByName(name.encode()) != 0:
        raise EspeakError(f"eSpeak NG has no voice {name!r}")
    for parameter, value in settings:
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    status = library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 1, 0, _UTF8, None, None)
    samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
    if status != 0 or not samples.any():
        raise EspeakError(f"eSpeak NG made no sound of {text!r} with the voice {name!r} (status {status})")
    return samples, rate, [*events, ("", len(samples))]


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


@lru_cache(1)
def _data_folder() -> Path:
    """A folder of links to eSpeak's data, for this process.

    eSpeak cuts its data path at 160 characters, which a deep virtual environment exceeds. And it looks for a voice in
    lower case, and opens all voice files each time if there is no such name.
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
    except OSError:  # no links on this file system
        return data
    return folder


@lru_cache(1)
def installed() -> str:
    """Version of the package that contains eSpeak NG. Raises EspeakError if it is missing."""
    try:
        return importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        raise EspeakError(
            "this needs the eSpeak NG synthesiser, which is not installed: pip install 'motet[espeak]'"
        ) from None
