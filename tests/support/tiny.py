"""A small joint problem for tests of mtl: six utterances with sound, six of text, each task somewhere unlabelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from mtl.config.model import ModelConfig
from mtl.config.sharing import MODES
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec

TASKS = ("transcript", "intent", "slots", "domain", "speaker")
BINS = 16
HEARD = [
    {"id": "a1", "text": "play jazz", "slots": ["O", "B-genre"], "intent": "play", "domain": "music", "speaker": "x"},
    {"id": "a2", "text": "stop", "slots": ["O"], "intent": "stop", "domain": "music", "speaker": "y"},
    {"id": "a3", "text": "play soft rock", "slots": ["O", "B-genre", "I-genre"], "intent": "play", "speaker": "x"},
    {"id": "a4", "text": "good day", "speaker": "z"},
    {"id": "a5", "text": "set alarm", "slots": ["O", "O"], "intent": "alarm", "domain": "clock", "speaker": "y"},
    {"id": "a6", "intent": "stop", "speaker": "z"},
]
READ = [
    {"id": "t1", "text": "play rock now", "slots": ["O", "B-genre", "O"], "intent": "play"},
    {"id": "t2", "text": "stop now", "slots": ["O", "O"], "intent": "stop", "domain": "music"},
    {"id": "t3", "text": "set alarm", "slots": ["O", "O"], "intent": "alarm", "domain": "clock"},
    {"id": "t4", "text": "jazz", "slots": ["B-genre"]},
    {"id": "t5", "text": "wake me", "intent": "alarm"},
    {"id": "t6", "text": "play soft jazz", "slots": ["O", "B-genre", "I-genre"], "intent": "play"},
]


def rows() -> list[dict[str, Any]]:
    return [{**row, "audio": f"{row['id']}.wav"} for row in HEARD] + [{**row, "audio": None} for row in READ]


def codec() -> Codec:
    return Codec.build(rows(), TASKS)


def config(**settings: Any) -> ModelConfig:
    shape = {"bins": BINS, "width": 16, "blocks": 1, "heads": 2, "kernel": 3, "expansion": 2, "subsampling": 2}
    named = {one.name for one in fields(ModelConfig)}
    sharing = {name: settings.pop(name) for name in list(settings) if name not in named}  # settings of its modes
    settings["sharing"] = MODES.select(settings.get("sharing"), **sharing)
    return ModelConfig(**{"tasks": TASKS, "dropout": 0.1, **shape, **settings})


def features(row: dict[str, Any]) -> np.ndarray:
    """(T, BINS), the same for a row each time, about six frames a letter."""
    seed = int.from_bytes(row["id"].encode(), "big") % 2**32
    return np.random.default_rng(seed).normal(size=(20 + 6 * len(row.get("text") or ""), BINS)).astype(np.float32)


def batches(codec: Codec) -> list[tuple[Batch, ...]]:
    """Six micro-batches of one heard and one read row. Each lacks labels of some task, some of several."""
    encode = codec.encode
    return [(collate([encode(a)], [features(a)]), collate([encode(t)])) for a, t in zip(HEARD, READ, strict=True)]


def joined(codec: Codec) -> tuple[Batch, Batch]:
    """All twelve rows as one micro-batch."""
    heard = collate([codec.encode(row) for row in HEARD], [features(row) for row in HEARD])
    return heard, collate([codec.encode(row) for row in READ])


class TinyLoader:
    """Deals fixed micro-batches: `per_step` to a step, those of one rank when there are several."""

    def __init__(self, micro_batches: list[tuple[Batch, ...]], per_step: int, rank: int = 0, world: int = 1) -> None:
        self.micro_batches, self.per_step, self.rank, self.world = micro_batches, per_step, rank, world
        self.epoch = self.position = 0

    def steps(self, epoch: int) -> int:
        return len(self.micro_batches) // self.per_step

    def __iter__(self) -> Iterator[list[tuple[Batch, ...]]]:
        while self.position < self.steps(self.epoch):
            start = self.position * self.per_step
            self.position += 1
            yield self.micro_batches[start : start + self.per_step][self.rank :: self.world]
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
