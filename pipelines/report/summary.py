"""Content of the report from a model's scores: table of metrics, confusions, translations, errors with audio."""

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
    """One line per metric with labelled rows, with its 95 % bootstrap interval."""
    comparisons = {row.metric: row for row in decision.comparisons} if decision else {}
    rows = []
    for metric, value in scores.metrics.items():
        comparison = comparisons.get(metric)
        rows.append(
            Row(
                metric,
                METRICS[metric].better,
                value,
                *scores.interval(metric),
                rows=len(scores.counts[metric].ids),
                champion=champion.metrics.get(metric) if champion else None,
                limit=gates.minimum.get(metric) if gates else None,
                verdict=comparison.verdict if comparison else "",
                floor=comparison.floor if comparison else None,
            )
        )
    return rows


def plain(rows: list[Row]) -> list[dict[str, Any]]:
    """The table as printed, with rounded values."""
    return [
        {
            "metric": row.metric,
            "value": in_unit(row.metric, row.value),
            **{name: _rounded(getattr(row, name)) for name in ("low", "high", "champion", "floor")},
            "limit": None if row.limit is None else f"{'≤' if row.better == 'lower' else '≥'} {row.limit:g}",
            "rows": f"{row.rows:,}",
            "verdict": row.verdict.replace("_", " "),
        }
        for row in rows
    ]


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def confusions(scores: Scores) -> list[Confusion]:
    """Confusions of every classification task whose rows have more than one class."""
    shown = []
    # Not of open sets such as speakers: these have too many classes.
    for task in (spec.name for spec in tasks() if spec.answer == "label" and not spec.open_set):
        pairs = scores.confusion(task)
        labels = sorted({label for pair in pairs for label in pair})
        if len(labels) > 1:
            shown.append(
                Confusion(
                    task, labels, [[pairs.get((label, predicted), 0) for predicted in labels] for label in labels]
                )
            )
    return shown


def faults(scores: Scores, store: Store) -> tuple[list[Fault], int]:
    """The worst rows of each metric with their recordings, and the number of rows with an error."""
    wrong = scores.wrong(most=len(scores.table))
    chosen: dict[str, dict[str, Any]] = {}
    for metric in [name for name in METRICS if METRICS[name].examples]:
        errors = [row for row in wrong if metric in row["errors"] and row["id"] not in chosen]
        errors.sort(key=lambda row: -row["errors"][metric])
        chosen |= {row["id"]: row for row in errors[:FAULTS_PER_METRIC]}
    left = AUDIO_BYTES
    shown = []
    for row in list(chosen.values())[:FAULTS]:
        audio = _recording(row, store, left)
        left -= len(audio)
        shown.append(_fault(row, audio))
    return shown, len(wrong)


def translations(scores: Scores) -> list[Translated]:
    """A sample of the translated test rows: those with the smallest hash of their id, so the same every night."""
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
    """Labels and answers of the tasks with an error, and always the transcript of a recording."""
    reference, recorded = row["reference"], row["audio"] is not None
    answers = Prediction.from_json(row["prediction"]).answers
    expected, predicted = {}, {}
    if reference.get("context"):
        expected["before"] = predicted["before"] = f" {TURN} ".join(reference["context"])
    if not recorded:
        expected["sentence"] = predicted["sentence"] = reference.get("text") or ""
    wrong = {metric.partition("/")[0] for metric in row["errors"]}
    for spec in tasks():
        # Test speakers are not among the training speakers, so their predicted label means nothing.
        shown = recorded if spec.answer == "text" else spec.name in wrong and not spec.open_set
        label = KINDS[spec.answer].reference(spec, reference)
        if shown and spec.name in answers and label is not None:
            expected[spec.name], predicted[spec.name] = label, str(answers[spec.name])
    return Fault(row["id"], expected, predicted, audio, row["duration"])


def _recording(row: Mapping[str, Any], store: Store, most: int) -> str:
    """base64 of a 16-bit FLAC of the recording; empty if there is none, or it has more bytes than `most`."""
    if row["audio"] is None:
        return ""
    try:
        wave = recording_of(row, store, AUDIO_RATE)
    except (SoundError, OSError):
        return ""  # the report shows the row without audio instead of failing
    encoded = base64.b64encode(flac(wave, AUDIO_RATE)).decode()
    return encoded if len(encoded) <= most else ""
