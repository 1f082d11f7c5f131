"""From a model's scores to what its report shows: the table of metrics, confusions, errors one can listen to."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl.answers import KINDS, Prediction
from mtl.inputs.codec import TURN
from mtl.metrics.scoring import METRICS, in_unit
from mtl.spec import tasks
from pipelines.evaluation.evaluate import Scores
from pipelines.evaluation.gates import Decision
from pipelines.evaluation.judges import recording_of
from pipelines.recipe import Gates
from pipelines.report.page import Confusion, Fault, Row, Translated
from pipelines.sources.audio import SoundError, flac
from pipelines.storage.store import Store

TRANSLATIONS = 12  # shown, right and wrong
FAULTS = 18
FAULTS_PER_METRIC = 4
AUDIO_RATE = 16_000  # Hz
AUDIO_BYTES = 2_500_000  # of all recordings in a report; base64 adds a third


def table(
    scores: Scores, gates: Gates | None = None, champion: Scores | None = None, decision: Decision | None = None
) -> list[Row]:
    """One line for each metric that the rows are labelled for, with its 95 % bootstrap interval."""
    compared = {row.metric: row for row in decision.comparisons} if decision else {}
    rows = []
    for metric, value in scores.metrics.items():
        low, high = scores.interval(metric)
        rows.append(
            Row(
                metric=metric,
                better=METRICS[metric].better,
                value=value,
                low=low,
                high=high,
                rows=len(scores.counts[metric].ids),
                champion=champion.metrics.get(metric) if champion else None,
                limit=gates.minimum.get(metric) if gates else None,
                verdict=compared[metric].verdict if metric in compared else "",
                floor=compared[metric].floor if metric in compared else None,
            )
        )
    return rows


def plain(rows: list[Row]) -> list[dict[str, Any]]:
    """The table as it is printed: figures rounded as they are shown."""
    return [
        {
            "metric": row.metric,
            "value": in_unit(row.metric, row.value),
            "low": f"{row.low:.2f}",
            "high": f"{row.high:.2f}",
            "champion": None if row.champion is None else f"{row.champion:.2f}",
            "floor": None if row.floor is None else f"{row.floor:.2f}",
            "limit": None if row.limit is None else f"{'≤' if row.better == 'lower' else '≥'} {row.limit:g}",
            "rows": f"{row.rows:,}",
            "verdict": row.verdict.replace("_", " "),
        }
        for row in rows
    ]


def confusions(scores: Scores) -> list[Confusion]:
    """Of every classification task with labelled rows and more than one class."""
    shown = []
    # Not of speakers: they are too many, and enrolled.
    for task in (spec.name for spec in tasks() if spec.answer == "label" and not spec.open_set):
        pairs = scores.confusion(task)
        labels = sorted({label for pair in pairs for label in pair})
        if len(labels) > 1:
            shown.append(
                Confusion(task, labels, [[pairs.get((wanted, got), 0) for got in labels] for wanted in labels])
            )
    return shown


def faults(scores: Scores, store: Store) -> tuple[list[Fault], int]:
    """The worst rows of each metric with their recordings, and how many rows have a fault at all."""
    wrong = scores.wrong(most=len(scores.table))
    chosen: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        if not METRICS[metric].examples:
            continue
        having = sorted((row for row in wrong if metric in row["errors"]), key=lambda row: -row["errors"][metric])
        for row in [row for row in having if row["id"] not in chosen][:FAULTS_PER_METRIC]:
            chosen[row["id"]] = row
    room = AUDIO_BYTES
    shown = []
    for row in list(chosen.values())[:FAULTS]:
        audio = _recording(row, store, room)
        room -= len(audio)
        shown.append(_fault(row, audio))
    return shown, len(wrong)


def translations(scores: Scores) -> list[Translated]:
    """A fixed sample of the test rows that were translated: those with the smallest hash, so the same every night."""
    shown = []
    specs = [spec for spec in tasks() if spec.answer == "translation"]
    for row in scores.table.to_pylist():
        counts = json.loads(row["counts"])
        for spec in specs:
            metrics = (f"{spec.name}/{name}" for name in ("chrf", "text_chrf"))
            metric = next((name for name in metrics if name in counts), None)
            if metric is not None:
                reference, answers = json.loads(row["reference"]), Prediction.from_json(json.loads(row["prediction"]))
                chrf = float(METRICS[metric].value(np.asarray(counts[metric])))
                source, target = reference.get("text") or "", reference[spec.label]
                shown.append(Translated(row["id"], source, target, str(answers.answers[spec.name]), chrf))
    return sorted(shown, key=lambda row: hashlib.blake2b(row.id.encode()).digest())[:TRANSLATIONS]


def _fault(row: Mapping[str, Any], audio: str) -> Fault:
    """The labels and answers of the tasks with an error; the transcript of a recording in any case."""
    reference, recorded = row["reference"], row["audio"] is not None
    answers = Prediction.from_json(row["prediction"]).answers
    wanted, got = {}, {}
    if reference.get("context"):
        wanted["before"] = got["before"] = f" {TURN} ".join(reference["context"])
    if not recorded:
        wanted["sentence"] = got["sentence"] = reference.get("text") or ""
    wrong = {metric.partition("/")[0] for metric in row["errors"]}
    for spec in tasks():
        # Speakers of the test split are not those of training: the nearest known one is no answer to compare.
        shown = recorded if spec.answer == "text" else spec.name in wrong and not spec.open_set
        label = KINDS[spec.answer].reference(spec, reference)
        if shown and spec.name in answers and label is not None:
            wanted[spec.name], got[spec.name] = label, str(answers[spec.name])
    return Fault(id=row["id"], wanted=wanted, got=got, audio=audio, seconds=row["duration"])


def _recording(row: Mapping[str, Any], store: Store, room: int) -> str:
    """base64 of a 16-bit FLAC of the recording; empty where there is none, or no room for it."""
    if row["audio"] is None:
        return ""
    try:
        wave = recording_of(row, store, AUDIO_RATE)
    except (SoundError, OSError):
        return ""  # a report is no reason to fail a night; the row is shown without its sound
    encoded = base64.b64encode(flac(wave, AUDIO_RATE)).decode()
    return encoded if len(encoded) <= room else ""
