"""A small problem for tests of synthesis: six utterances of four phones, by two speakers in two styles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mtl.audio.features import bin_centres
from mtl.config.features import FeatureSpec
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.inputs.tts import SpeechCode
from mtl.models.joint import SpeechModel, build_model
from tests.support import tiny

TASKS = ("prosody", "mel", "emotion", "speaker")
SPEC = FeatureSpec(bins=tiny.BINS)
VOICES = {"x": 0.0, "y": 1.5}


def mel(row: dict[str, Any]) -> np.ndarray:
    """(T, BINS) that phones, speaker and emotion decide: each phone a bump at its own bin, lifted by the voice."""
    bumps = {"_": -1, "a": 3, "b": 8, "c": 12}
    frames = np.repeat([bumps[phone] for phone in row["phones"]], row["durations"])
    shape = np.exp(-0.5 * (np.arange(tiny.BINS) - frames[:, None]) ** 2) * 3
    return (shape + VOICES[row["speaker"]] + (row["emotion"] == "loud")).astype(np.float32)


def rows() -> list[dict[str, Any]]:
    found = []
    for number, said in enumerate(["_ab_", "_cab_", "_b_", "_bca_", "_ac_", "_cc_"]):
        speaker, emotion = ("x", "y")[number % 2], ("calm", "loud")[number // 2 % 2]
        durations = [{"_": 2, "a": 5, "b": 3, "c": 4}[phone] * (2 if speaker == "y" else 1) for phone in said]
        pitch = [5.0 + VOICES[speaker] / 10 + 0.05 * "_abc".index(phone) for phone in said]
        energy = [float("_abc".index(phone)) for phone in said]
        voiced = [float(phone != "_") for phone in said]
        found.append(
            {
                "id": f"s{number}",
                "audio": f"s{number}.wav",
                "phones": list(said),
                "durations": durations,
                "pitch": pitch,
                "energy": energy,
                "voiced": voiced,
                "speaker": speaker,
                "emotion": emotion,
            }
        )
    return found


def code() -> SpeechCode:
    return SpeechCode.build(rows(), [mel(row) for row in rows()], "characters", bin_centres(SPEC))


def codec() -> Codec:
    return replace(Codec.build(rows(), TASKS), speech=code())


def batches(codec: Codec) -> list[tuple[Batch, ...]]:
    return [(collate([codec.encode(row)], [mel(row)]),) for row in rows()]


def joined(codec: Codec) -> Batch:
    return collate([codec.encode(row) for row in rows()], [mel(row) for row in rows()])


def fresh(**settings: Any) -> SpeechModel:
    torch.manual_seed(0)
    return build_model(tiny.config(tasks=TASKS, **settings), codec())
