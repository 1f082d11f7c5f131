"""Small corpora for the tests of features, datasets and loaders: real WAV files of noise, labelled at random."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile

from pipelines.storage.store import Manifest, Store, fingerprint
from pipelines.utterances.schema import utterance_schema

RATE = 16000
WORDS = ("play", "stop", "some", "jazz", "the", "light", "in", "kitchen")


def record(folder: Path, name: str, seconds: float, seed: int) -> dict[str, Any]:
    """A WAV file of noise and the columns of the utterance table that speak of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.wav"
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, int(seconds * RATE)).astype(np.float32), RATE)
    return {
        "audio": str(path),
        "start": 0.0,
        "duration": int(seconds * RATE) / RATE,
        "sample_rate": RATE,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:32],
    }


def spoken(folder: Path, corpus: str, count: int, shortest: float = 0.3, longest: float = 1.5, first: int = 0) -> list:
    """Rows with audio, their lengths drawn between the limits (s)."""
    rows = []
    for number in range(first, first + count):
        generator = np.random.default_rng((number, len(corpus)))
        sound = record(folder / corpus, f"{number:04d}", float(generator.uniform(shortest, longest)), number)
        text = " ".join(generator.choice(WORDS, 3))
        rows.append({"id": f"{corpus}/{number:04d}", "corpus": corpus, "split": "train", "text": text, **sound})
    return rows


def written(corpus: str, count: int, longest: int = 12) -> list[dict[str, Any]]:
    """Rows of text alone, with tokens and slots."""
    rows = []
    for number in range(count):
        generator = np.random.default_rng((number, 99))
        tokens = generator.choice(WORDS, int(generator.integers(1, longest + 1))).tolist()
        labels = {"tokens": tokens, "slots": ["O"] * len(tokens), "intent": f"intent{number % 3}"}
        rows.append(
            {"id": f"{corpus}/{number:04d}", "corpus": corpus, "split": "train", "text": " ".join(tokens), **labels}
        )
    return rows


def commit(store: Store, corpus: str, rows: list[dict[str, Any]]) -> Manifest:
    """The rows as a version of the corpus's utterance table."""
    address = fingerprint([row["id"] for row in rows])
    key = f"utterances/{corpus}/{address}.parquet"
    store.write_table(key, pa.Table.from_pylist(rows, schema=utterance_schema()))
    return store.commit(f"utterances/{corpus}", address, (key,))
