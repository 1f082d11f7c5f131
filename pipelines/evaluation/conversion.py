"""What a conversion is worth, where the test split has the same sentence by the same speaker with several emotions.

    for table in conversions(converter, test, listeners, most=200): …      # of speech.SAID, two rows a pair

Each recording in the usual emotion is said again with each other one that its speaker said the sentence with, and
compared with that recording; beside it stands what doing nothing would have given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mtl.conversion import Converter
from mtl.synthesiser import USUAL_EMOTION
from pipelines.data.dataset import by_hash
from pipelines.data.pitch import pitch
from pipelines.evaluation.hearing import CHUNK, SAID, Listener, answers_of, distance, heard_by, recording_of

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset
    from pipelines.progress import Report

NOTHING, CONVERTED = "left as it is", "converted"
Row = Mapping[str, Any]


def pairs_of(dataset: Dataset, most: int) -> list[tuple[Row, Row]]:
    """Recordings in the usual emotion, each with the same speaker's recording of the same text with another one.

    At most so many, those of the sources with the smallest hash of their id.
    """
    columns = ("id", "corpus", "audio", "start", "duration", "speaker", "emotion", "text")
    rows = [row for row in dataset.rows.select(columns).to_pylist() if row["audio"] and row["text"] and row["speaker"]]
    said: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        said.setdefault((row["corpus"], row["speaker"], row["text"]), {}).setdefault(row["emotion"] or "", row)
    usual = [emotions for emotions in said.values() if USUAL_EMOTION in emotions]
    ordered = by_hash([emotions[USUAL_EMOTION]["id"] for emotions in usual])
    found = [
        (usual[place][USUAL_EMOTION], usual[place][emotion])
        for place in ordered
        for emotion in sorted(usual[place])
        if emotion not in ("", USUAL_EMOTION)
    ]
    return found[:most]


def kind_of(what: str, emotion: str) -> str:
    """How a row is called in SAID: "converted, sad"."""
    return f"{what}, {emotion}"


def conversions(
    converter: Converter,
    dataset: Dataset,
    listeners: Mapping[str, Listener],
    most: int,
    progress: Report | None = None,
) -> Iterator[pa.Table]:
    """Tables of SAID, some pairs at a time: each pair's source as it is, and converted."""
    pairs = [pair for pair in pairs_of(dataset, most) if pair[1]["emotion"] in converter.voice.code.emotions]
    spec = converter.voice.features
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        sources, true = (
            [recording_of(row, dataset.store, spec.sample_rate) for row in rows] for rows in zip(*some, strict=True)
        )
        sounds: dict[str, list[np.ndarray]] = {NOTHING: sources, CONVERTED: _converted(converter, sources, some)}
        heard = heard_by(listeners, {**sounds, "true": true}, spec.sample_rate)
        found = []
        for number, (source, wanted) in enumerate(some):
            own = heard["speaker"]["true"][number] if "speaker" in heard else None
            for what, waves in sounds.items():
                answers = {task: predictions[what][number] for task, predictions in heard.items()}
                found.append(
                    {
                        "id": source["id"],
                        "kind": kind_of(what, wanted["emotion"]),
                        **{name: wanted[name] for name in ("speaker", "emotion", "text")},
                        **distance(waves[number], true[number], spec),
                        **answers_of(answers, own),
                    }
                )
        if progress:
            progress(min(start + CHUNK, len(pairs)), len(pairs), "converting")
        yield pa.Table.from_pylist(found, schema=SAID)


def _converted(converter: Converter, sources: list[np.ndarray], pairs: list[tuple[Row, Row]]) -> list[np.ndarray]:
    """Each source in its pair's emotion; where nothing is heard in it, as it is."""
    found = list(sources)
    for emotion in {wanted["emotion"] for _, wanted in pairs}:
        places = [place for place, (_, wanted) in enumerate(pairs) if wanted["emotion"] == emotion]
        some = [sources[place] for place in places]
        heights = [pitch(wave, converter.voice.features) for wave in some]
        for place, one in zip(places, converter.convert(some, emotion, hertz=heights), strict=True):
            found[place] = one.samples
    return found
