"""Evaluation of emotional voice conversion on sentences that a speaker recorded with several emotions.

    for table in conversions(converter, test, judges, most=200): ...      # of SPEECH_SCHEMA, two rows per pair

Each recording with the neutral emotion is converted to each other emotion in which the speaker recorded the sentence,
and compared with that recording. The baseline is the source without conversion.
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
from pipelines.evaluation.judges import (
    CHUNK,
    SPEECH_SCHEMA,
    Judge,
    Measured,
    answers_of,
    distance,
    judged_by,
    recording_of,
)

SOURCE, CONVERTED = "left as it is", "converted"
TARGET = "target"  # kind of the recordings that conversions are compared with
Row = Mapping[str, Any]


def pairs_of(dataset: Dataset, most: int) -> list[tuple[Row, Row]]:
    """Recordings with the neutral emotion, each with the same speaker's recording of the text with another emotion.

    At most so many, those of the sources with the smallest hash of their id.
    """
    columns = ("id", "corpus", "audio", "start", "duration", "speaker", "emotion", "text")
    by_sentence: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in dataset.rows.select(columns).to_pylist():
        if row["audio"] and row["text"] and row["speaker"]:
            by_emotion = by_sentence.setdefault((row["corpus"], row["speaker"], row["text"]), {})
            by_emotion.setdefault(row["emotion"] or "", row)
    neutral = [by_emotion for by_emotion in by_sentence.values() if USUAL_EMOTION in by_emotion]
    ordered = [neutral[position] for position in by_hash([rows[USUAL_EMOTION]["id"] for rows in neutral])]
    pairs = [
        (rows[USUAL_EMOTION], rows[emotion])
        for rows in ordered
        for emotion in sorted(rows)
        if emotion not in ("", USUAL_EMOTION)
    ]
    return pairs[:most]


def kind_of(kind: str, emotion: str) -> str:
    """Value of the column `kind`: "converted, sad"."""
    return f"{kind}, {emotion}"


def conversions(
    converter: Converter,
    dataset: Dataset,
    judges: Mapping[str, Judge],
    most: int,
    progress: Report | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[pa.Table]:
    """Yields tables of SPEECH_SCHEMA for some pairs at a time: each pair's source, and the converted source.

    part: (number from 0, count) of the share of the pairs.
    """
    (number, parts), known, spec = part, converter.voice.code.emotions, converter.voice.features
    pairs = [
        (row, target_row)
        for row, target_row in pairs_of(dataset, most)[number::parts]
        if target_row["emotion"] in known
    ]
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        sources, targets = (
            [recording_of(row, dataset.store, spec.sample_rate) for row in rows] for rows in zip(*chunk, strict=True)
        )
        before, after = ([Measured.of(wave, spec) for wave in waves] for waves in (sources, targets))
        emotions = [target_row["emotion"] for _, target_row in chunk]
        sounds = {SOURCE: sources, CONVERTED: _converted(converter, sources, emotions, [one.hertz for one in before])}
        measured = {SOURCE: before, CONVERTED: [Measured.of(wave, spec) for wave in sounds[CONVERTED]]}
        judged = judged_by(judges, {**sounds, TARGET: targets}, spec.sample_rate)
        rows = [
            {
                "id": source_row["id"],
                "kind": kind_of(kind, target_row["emotion"]),
                **{name: target_row[name] for name in ("speaker", "emotion", "text")},
                **distance(measured[kind][number], after[number]),
                **answers_of(judged, kind, TARGET, number),
            }
            for number, (source_row, target_row) in enumerate(chunk)
            for kind in sounds
        ]
        if progress:
            progress(min(start + CHUNK, len(pairs)), len(pairs), "converting")
        yield pa.Table.from_pylist(rows, schema=SPEECH_SCHEMA)


def _converted(
    converter: Converter, sources: Sequence[np.ndarray], emotions: Sequence[str], hertz: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Each source converted to its emotion; unchanged where no phone is recognised in it."""
    waves = []
    for wave, emotion, pitch in zip(sources, emotions, hertz, strict=True):
        try:
            (conversion,) = converter.convert([wave], emotion, hertz=[pitch])
            waves.append(conversion.samples)
        except ConversionError:  # a model in its first epochs may recognise no phone; the evaluation continues
            waves.append(wave)
    return waves
