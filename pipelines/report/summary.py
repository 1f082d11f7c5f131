"""From a model's scores to what its report shows: the table of metrics, confusions, errors one can listen to."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtl.heads.slots import bio_values
from mtl.inputs.codec import TURN, tokens_of
from mtl.metrics.scoring import METRICS, in_unit
from mtl.spec import tasks
from pipelines.evaluation.evaluate import Scores
from pipelines.evaluation.gates import Decision
from pipelines.evaluation.judges import recording_of
from pipelines.recipe import Gates
from pipelines.report.page import SLOT_SEPARATOR, Confusion, Fault, Row, Translated
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
    found = []
    # Not of speakers: they are too many, and enrolled.
    for task in (spec.name for spec in tasks() if spec.answer == "label" and not spec.open_set):
        pairs = scores.confusion(task)
        labels = sorted({label for pair in pairs for label in pair})
        if len(labels) > 1:
            found.append(
                Confusion(task, labels, [[pairs.get((wanted, got), 0) for got in labels] for wanted in labels])
            )
    return found


def faults(scores: Scores, store: Store) -> tuple[list[Fault], int]:
    """The worst rows of each metric with their recordings, and how many rows have a fault at all."""
    wrong = scores.wrong(most=len(scores.table))
    chosen: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        if metric.startswith("speaker/") or metric.endswith(("/cer", "frame_accuracy", "balanced_accuracy")):
            continue  # said by another metric of the same row, or not by the row alone
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
    found = []
    for row in scores.table.to_pylist():
        counts = json.loads(row["counts"])
        metric = next((name for name in ("translation/chrf", "translation/text_chrf") if name in counts), None)
        if metric is not None:
            wanted, got = json.loads(row["reference"]), json.loads(row["prediction"])
            chrf = float(METRICS[metric].value(np.asarray(counts[metric])))
            source = wanted.get("text") or ""
            found.append(Translated(row["id"], source, wanted["translation"], got["translation"]["value"], chrf))
    return sorted(found, key=lambda row: hashlib.blake2b(row.id.encode()).digest())[:TRANSLATIONS]


def _fault(row: Mapping[str, Any], audio: str) -> Fault:
    wanted, got = _said(row["reference"], row["audio"] is not None), _answered(row["prediction"])
    # Speakers of the test split were never heard in training: the nearest known voice is no answer to compare.
    tasks = {metric.split("/")[0] for metric in row["errors"]} - {"speaker"}
    both = [task for task in wanted if task in got and (task in tasks or task == "transcript")]
    if row["audio"] is None and row["reference"].get("text"):
        both = ["sentence", *both]
        wanted["sentence"] = got["sentence"] = row["reference"]["text"]
    if row["reference"].get("context"):
        both = ["before", *both]
        wanted["before"] = got["before"] = f" {TURN} ".join(row["reference"]["context"])
    return Fault(
        id=row["id"],
        wanted={task: wanted[task] for task in both},
        got={task: got[task] for task in both},
        audio=audio,
        seconds=row["duration"],
    )


def _said(reference: Mapping[str, Any], heard: bool) -> dict[str, str]:
    labels = {
        task: str(value) for task, value in reference.items() if task not in ("text", "tokens", "slots", "context")
    }
    if heard and reference.get("text"):
        labels = {"transcript": reference["text"], **labels}
    if reference.get("slots") is not None:
        labels["slots"] = _listed(bio_values(tokens_of(reference), list(reference["slots"])))
    return labels


def _answered(prediction: Mapping[str, Any]) -> dict[str, str]:
    answers = {"transcript": prediction["text"]} if prediction.get("text") is not None else {}
    for task, answer in prediction.items():
        if isinstance(answer, dict):
            answers[task] = str(answer["value"])
    if "slots" in prediction:
        answers["slots"] = _listed([(item["slot"], item["value"]) for item in prediction["slots"]])
    return answers


def _listed(slots: list[tuple[str, str]]) -> str:
    return SLOT_SEPARATOR.join(f"{slot} = {value}" for slot, value in slots) or "none"


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
