"""What a conversion is worth, where the test split has the same sentence by the same speaker with several emotions.

    for table in conversions(converter, test, listeners, most=200): …      # of speech.SAID, two rows a pair

Each recording in the usual emotion is said again with each other one that its speaker said the sentence with, and
compared with that recording; beside it stands what doing nothing would have given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mtl.inference.conversion import ConversionError, Converter
from mtl.inference.synthesizer import USUAL_EMOTION
from pipelines.core.progress import Report
from pipelines.data.dataset import Dataset, by_hash
from pipelines.evaluation.judges import CHUNK, SAID, Judge, Measured, answers_of, distance, judged_by, recording_of

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
    listeners: Mapping[str, Judge],
    most: int,
    progress: Report | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[pa.Table]:
    """Tables of SAID, some pairs at a time: each pair's source as it is, and converted. part: of the pairs, its
    number from 0 and of how many."""
    (number, parts), known = part, converter.voice.code.emotions
    pairs = [
        (source, target_row)
        for source, target_row in pairs_of(dataset, most)[number::parts]
        if target_row["emotion"] in known
    ]
    spec = converter.voice.features
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        sources, true = (
            [recording_of(row, dataset.store, spec.sample_rate) for row in rows] for rows in zip(*some, strict=True)
        )
        before, after = ([Measured.of(wave, spec) for wave in waves] for waves in (sources, true))
        emotions = [target_row["emotion"] for _, target_row in some]
        sounds = {NOTHING: sources, CONVERTED: _converted(converter, sources, emotions, [one.hertz for one in before])}
        measured = {NOTHING: before, CONVERTED: [Measured.of(wave, spec) for wave in sounds[CONVERTED]]}
        heard = judged_by(listeners, {**sounds, "true": true}, spec.sample_rate)
        found = []
        for number, (source, target_row) in enumerate(some):
            own = {task: predictions["true"][number] for task, predictions in heard.items()}
            for what in sounds:
                answers = {task: predictions[what][number] for task, predictions in heard.items()}
                found.append(
                    {
                        "id": source["id"],
                        "kind": kind_of(what, target_row["emotion"]),
                        **{name: target_row[name] for name in ("speaker", "emotion", "text")},
                        **distance(measured[what][number], after[number]),
                        **answers_of(answers, own),
                    }
                )
        if progress:
            progress(min(start + CHUNK, len(pairs)), len(pairs), "converting")
        yield pa.Table.from_pylist(found, schema=SAID)


def _converted(
    converter: Converter, sources: Sequence[np.ndarray], emotions: Sequence[str], hertz: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Each source in the emotion that it is to be said with; where nothing is heard in it, as it is."""
    found = []
    for wave, emotion, pitch in zip(sources, emotions, hertz, strict=True):
        try:
            (one,) = converter.convert([wave], emotion, hertz=[pitch])
            found.append(one.samples)
        except ConversionError:  # a model in its first epochs hears no phone; an evaluation is not to end by it
            found.append(wave)
    return found
