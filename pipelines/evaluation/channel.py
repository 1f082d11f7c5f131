"""The channel probe: can the domains of a recipe be distinguished by the microphone alone?

    pairs = probe(dataset, "corpus")           # every two domains; cached in the store
    [pair.warning for pair in pairs if pair.warning]

It reads stored log-mel features, so it takes seconds. See mtl/analysis/channel_probe.py for the method.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from mtl.analysis.channel_probe import Separability, channel_statistics, separability, word_presence
from pipelines.data.dataset import Dataset
from pipelines.storage.store import fingerprint

VERSION = 1  # bump when the same rows would give other results
SUSPICIOUS = 0.6  # the interval's lower bound must exceed this accuracy; chance is 0.5, and small effects are common
MOST_DOMAINS = 6  # the largest
RECORDINGS = 200  # of a domain, at most
COLUMNS = ["id", "corpus", "domain", "speaker", "text", "frames"]


@dataclass(frozen=True)
class Pair:
    """How well two domains can be distinguished by channel and by words; None for too few speakers."""

    one: str
    other: str
    channel: Separability | None
    words: Separability | None

    @property
    def warning(self) -> str | None:
        """A warning for readers of scores by domain, if the channel differs."""
        if self.channel is None or self.channel.low <= SUSPICIOUS:
            return None
        words = f"; by their words alone {100 * self.words.accuracy:.0f} %" if self.words else ""
        return (
            f"domains {self.one!r} and {self.other!r} can be told apart by the microphone alone: "
            f"{100 * self.channel.accuracy:.0f} % ({100 * self.channel.low:.0f}-{100 * self.channel.high:.0f}) of "
            f"{self.channel.rows} recordings, chance 50 %{words}. A difference between them may be one of channel: "
            "record both domains on the same channels before reading it as one of domain"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Pair:
        results = {name: Separability(**content[name]) if content[name] else None for name in ("channel", "words")}
        return cls(content["one"], content["other"], **results)


def probe(dataset: Dataset, by: str) -> list[Pair]:
    """Every two of the largest domains; by: the column that names them. Cached in the dataset's store."""
    rows = chosen(dataset, by)
    if len(rows) < 2:
        return []
    key = f"channel/{fingerprint(dataset.identity, by, VERSION)}.json"
    if not dataset.store.exists(key):
        pairs = _probe(dataset, rows)
        dataset.store.put_bytes(key, json.dumps([pair.to_json() for pair in pairs]).encode())
    return [Pair.from_json(pair) for pair in json.loads(dataset.store.read_bytes(key))]


def chosen(dataset: Dataset, by: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of each domain's recordings with the smallest hash of their id, with their `position` in the dataset."""
    table = dataset.rows.select(COLUMNS).to_pylist()
    recordings = [{**row, "position": position} for position, row in enumerate(table) if row["frames"] > 0 and row[by]]
    sizes = Counter(row[by] for row in recordings)
    domains = sorted(sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST_DOMAINS])
    recordings.sort(key=lambda row: hashlib.blake2b(row["id"].encode(), digest_size=8).digest())
    return {domain: [row for row in recordings if row[by] == domain][:RECORDINGS] for domain in domains}


def _probe(dataset: Dataset, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Pair]:
    statistics = {}
    for domain, recordings in rows.items():
        features = dataset.features([row["position"] for row in recordings])
        logmels = [torch.from_numpy(logmel.astype(np.float32)) for logmel in features]
        statistics[domain] = torch.stack([channel_statistics(logmel) for logmel in logmels])
    pairs = []
    for one, other in combinations(rows, 2):
        both = [*rows[one], *rows[other]]
        labels, speakers = [False] * len(rows[one]) + [True] * len(rows[other]), [_speaker(row) for row in both]
        channel = separability(torch.cat([statistics[one], statistics[other]]), labels, speakers)
        texts = [number for number, row in enumerate(both) if row["text"]]
        presence = word_presence([both[number]["text"] for number in texts])
        words = separability(presence, [labels[number] for number in texts], [speakers[number] for number in texts])
        pairs.append(Pair(one, other, channel, words))
    return pairs


def _speaker(row: Mapping[str, Any]) -> str:
    """The speaker; without one, each row counts as another speaker, which makes the probe optimistic."""
    return f"{row['corpus']}/{row['speaker']}" if row["speaker"] else str(row["id"])
