"""Scores of a model on labelled rows: counts per row, metrics, predictions, and the cost of computing them.

    scores = evaluate(predictor, dataset.split("test"), recipe.loader)
    scores.metrics["transcript/wer"], scores.cost.parameters
    scores.save(store, "evaluations/1f0c.parquet")
    decision = decide(scores.scored_model("assistant/4"), ...)

Predictions are compared with the raw labels of the utterance table, so a label that was not in the training data counts
as an error. Counts are stored per row: the gate pairs rows of two models by id, and `by_corpus` sums parts of the rows.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mtl.answers import Prediction
from mtl.decoding.beam_search import Beam, decode_rows
from mtl.decoding.greedy import Path
from mtl.decoding.hot_words import WEIGHT, HotWords
from mtl.groups import input_columns
from mtl.inference.predictor import Predictor
from mtl.inputs.codec import tokens_of
from mtl.metrics.bootstrap import bootstrap_interval
from mtl.metrics.scoring import METRICS, metric_of, score_rows
from mtl.models.joint import Recogniser
from mtl.spec import AUDIO, label_columns
from mtl.spec import task as task_spec
from pipelines import recipe
from pipelines.core.progress import Report
from pipelines.data import features
from pipelines.data.dataset import Dataset
from pipelines.data.loader import evaluation_batches
from pipelines.evaluation.gates import RowCounts, ScoredModel
from pipelines.storage.store import Store, fingerprint
from pipelines.utterances.schema import hashed_values

VERSION = 4  # bump when the same model on the same rows would get other figures
# Core columns that predictions are scored against; those of labels are in mtl.spec.
REFERENCE = ("text", "tokens", "slots", "speaker", "language", "context", "trials")
COPIED = ("id", "corpus", "audio", "start", "duration", "digest")


class EvaluationError(ValueError):
    """A model cannot be scored on these rows; the message says why."""


@dataclass(frozen=True)
class Cost:
    """Cost of running a model. real_time: seconds of computing per second of audio, features ready; None without."""

    parameters: int
    rows: int
    seconds: float
    audio_seconds: float
    real_time: float | None
    device: str


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one set of rows.

    rows: see `rows_identity`.
    table: COPIED, `reference` and `prediction` as JSON, `counts` as JSON {metric: [counts]}; a row per test row.
    """

    rows: str
    cost: Cost
    table: pa.Table

    @cached_property
    def counts(self) -> dict[str, RowCounts]:
        """Per metric, the labelled rows' ids and counts (N, C), metrics in METRICS' order."""
        return _gather(self.table)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Values over all rows; a metric that no row is labelled for is absent."""
        return _summarise(self.counts)

    @cached_property
    def by_corpus(self) -> dict[str, dict[str, float]]:
        """Values over the rows of each corpus."""
        return self._by(self.table["corpus"].to_pylist())

    @cached_property
    def by_language(self) -> dict[str, dict[str, float]]:
        """Values over the rows of each language, of the rows with a known language."""
        return self._by([reference.get("language") for reference, _ in self.answers()])

    def _by(self, groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
        return {
            name: _summarise(_gather(self.table.filter(pa.array([group == name for group in groups]))))
            for name in sorted({group for group in groups if group is not None})
        }

    def scored_model(self, name: str, more: Mapping[str, RowCounts] | None = None) -> ScoredModel:
        """Input of the gate. more: further counts, such as those of one domain."""
        return ScoredModel(name, {**self.counts, **(more or {})}, self.cost.parameters)

    def with_counts(self, more: Mapping[str, RowCounts]) -> Scores:
        """These scores with further metrics of the same rows."""
        positions = {id_: position for position, id_ in enumerate(self.table["id"].to_pylist())}
        counts = [json.loads(text) for text in self.table["counts"].to_pylist()]
        for metric, rows in more.items():
            for id_, values in zip(rows.ids, np.asarray(rows.counts).tolist(), strict=True):
                counts[positions[id_]][metric] = values
        column = pa.array([json.dumps(row) for row in counts], pa.string())
        position = self.table.schema.get_field_index("counts")
        return Scores(self.rows, self.cost, self.table.set_column(position, "counts", column))

    def interval(self, metric: str, confidence: float = 0.95, resamples: int = 1000) -> tuple[float, float]:
        """Two-sided bootstrap interval of a metric over its rows, percent."""
        return interval_of(metric, np.asarray(self.counts[metric].counts), confidence, resamples)

    def confusion(self, task: str) -> Counter[tuple[str, str]]:
        """(label, predicted label) of a classification task -> rows."""
        pairs: Counter[tuple[str, str]] = Counter()
        for reference, prediction in self.answers():
            label = reference.get(task_spec(task).label)
            if label is not None and task in prediction:
                pairs[label, prediction[task]["value"]] += 1
        return pairs

    def answers(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Reference and prediction of each row, in the table's order."""
        columns = (self.table[name].to_pylist() for name in ("reference", "prediction"))
        return [(json.loads(reference), json.loads(prediction)) for reference, prediction in zip(*columns, strict=True)]

    def wrong(self, most: int = 50) -> list[dict[str, Any]]:
        """Rows with an error, the worst first: COPIED, `reference`, `prediction`, `errors` {metric: share}."""
        wrong = []
        for row, (reference, prediction) in zip(self.table.to_pylist(), self.answers(), strict=True):
            shares = {metric: _error_share(metric, counts) for metric, counts in json.loads(row["counts"]).items()}
            errors = {metric: share for metric, share in shares.items() if share}
            if errors:
                columns = {name: row[name] for name in COPIED}
                wrong.append({**columns, "reference": reference, "prediction": prediction, "errors": errors})
        return sorted(wrong, key=lambda row: (-sum(row["errors"].values()), row["id"]))[:most]

    def to_json(self) -> dict[str, Any]:
        """Values without the rows."""
        names = ("rows", "metrics", "by_corpus", "by_language")
        return {**{name: getattr(self, name) for name in names}, "cost": asdict(self.cost)}

    def save(self, store: Store, key: str) -> None:
        """One Parquet file; values that are not per row are in its metadata."""
        header = {"version": VERSION, "rows": self.rows, "cost": asdict(self.cost)}
        store.write_table(key, self.table.replace_schema_metadata({"motet": json.dumps(header)}))

    @classmethod
    def load(cls, store: Store, key: str) -> Scores:
        table = pq.ParquetFile(io.BytesIO(store.read_bytes(key))).read()
        header = json.loads((table.schema.metadata or {})[b"motet"])
        return cls(header["rows"], Cost(**header["cost"]), table.replace_schema_metadata(None))


def interval_of(
    metric: str, counts: np.ndarray, confidence: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """Two-sided bootstrap interval of a metric, in its unit, over rows of counts (N, C)."""
    return bootstrap_interval(metric_of(metric).value, counts, confidence, resamples)


@dataclass(frozen=True)
class Expected:
    """Hot words of an evaluation.

    distractors: number of additional hot words of each row, drawn from words of other rows that the row lacks.
    """

    phrases: tuple[str, ...]
    weight: float = WEIGHT
    distractors: int = 0
    seed: int = 0

    def rows(self, texts: Sequence[str]) -> list[list[str]]:
        """The hot words of each row; deterministic for a seed and these texts."""
        hot = HotWords(self.phrases).words
        words = sorted({word for text in texts for word in text.split()} - hot)
        lists = []
        for number, text in enumerate(texts):
            own = set(text.split())
            absent = [word for word in words if word not in own]
            drawn = Random(f"{self.seed}/{number}").sample(absent, min(self.distractors, len(absent)))
            lists.append([*self.phrases, *drawn])
        return lists


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    config: recipe.Loader,
    progress: Report | None = None,
    expected: Expected | None = None,
    boosted: bool = True,
) -> Scores:
    """Scores a model on every row of a dataset: on its features if it has audio, else on its text.

    expected: hot words, whose error rates are then reported separately. boosted: False to report them without giving
    the hot words to the recogniser.

    Raises:
        EvaluationError: no rows, or features other than those that the model was trained on.
    """
    check(predictor, dataset)
    rows = dataset.rows.to_pylist()
    lists = expected.rows([row["text"] or "" for row in rows]) if expected and boosted else None
    predictions: list[Prediction | None] = [None] * len(rows)
    seconds, audio_seconds, scored = 0.0, 0.0, 0
    for indices, batch in evaluation_batches(dataset, predictor.codec, config):
        tokens = [tokens_of(rows[index]) for index in indices] if batch.group == "text" else None
        began = time.perf_counter()
        recogniser = None
        if expected and lists and tokens is None:
            recogniser = _biased(predictor, [lists[index] for index in indices], expected.weight)
        answers = predictor.predict_batch(batch, tokens, recogniser)
        if batch.group == AUDIO:
            seconds += time.perf_counter() - began
            audio_seconds += sum(rows[index]["duration"] or 0.0 for index in indices)
        for index, prediction in zip(indices, answers, strict=True):
            predictions[index] = prediction
        scored += len(indices)
        if progress:
            progress(scored, len(rows), "evaluating")
    device = predictor.model.device
    cost = Cost(
        parameters=sum(parameter.numel() for parameter in predictor.model.parameters()),
        rows=len(rows),
        seconds=seconds,
        audio_seconds=audio_seconds,
        real_time=seconds / audio_seconds if audio_seconds else None,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    )
    known = predictor.codec.open_set_labels
    return Scores(rows_identity(dataset), cost, _table(rows, cast(list[Prediction], predictions), expected, known))


def _biased(predictor: Predictor, lists: list[list[str]], weight: float) -> Recogniser:
    """A recogniser of one batch in which each row has hot words of its own."""
    beams: dict[tuple[str, ...], Beam] = {}
    for phrases in map(tuple, lists):
        if phrases not in beams:
            beams[phrases] = predictor.searching(phrases, weight)

    def recognise(log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Path]:
        return decode_rows([beams[tuple(phrases)] for phrases in lists], log_probs, lengths)

    return recognise


def evaluated(
    store: Store,
    address: str,
    load: Callable[[], Predictor],
    dataset: Dataset,
    config: recipe.Loader,
    progress: Report | None = None,
) -> Scores:
    """Scores of the model with this address on these rows: read from the store, or computed and stored."""
    spec = asdict(dataset.spec) if dataset.spec else None
    key = f"evaluations/{fingerprint(address, rows_identity(dataset), spec, features.VERSION, VERSION)}.parquet"
    if not store.exists(key):
        evaluate(load(), dataset, config, progress).save(store, key)
    return Scores.load(store, key)


def check(predictor: Predictor, dataset: Dataset) -> None:
    """Raises EvaluationError when the model cannot be scored on these rows."""
    if not len(dataset):
        raise EvaluationError(f"{dataset!r} has no rows to score a model on; is the split empty?")
    if dataset.spec is None:
        return
    stored, expected = asdict(dataset.spec), asdict(predictor.features)
    different = {name: (stored[name], value) for name, value in expected.items() if stored.get(name) != value}
    if different:
        settings = ", ".join(f"{name} is {value}, the model expects {own}" for name, (value, own) in different.items())
        raise EvaluationError(f"the features differ from those of the model: {settings}; extract them again")


def _reference() -> tuple[str, ...]:
    """Columns that predictions are scored against."""
    return (*REFERENCE, *(column.name for column in label_columns()))


def rows_identity(dataset: Dataset) -> str:
    """Identity of the rows and their labels; their order and the other rows of their dataset do not matter."""
    columns = ["id", "digest", *_reference(), *(column.name for column in input_columns())]
    rows = [hashed_values(row) for row in dataset.rows.select(columns).to_pylist()]
    return fingerprint(sorted([json.dumps(row, sort_keys=True) for row in rows]))


def _table(
    rows: list[dict[str, Any]], predictions: list[Prediction], expected: Expected | None, known: frozenset[str]
) -> pa.Table:
    counts: list[dict[str, list[float]]] = [{} for _ in rows]
    phrases = HotWords(expected.phrases).phrases if expected else ()
    for metric, scored in score_rows(rows, predictions, phrases, known).items():
        for index, row in zip(scored.rows.tolist(), scored.counts.tolist(), strict=True):
            counts[index][metric] = row
    shown = [name for name in _reference() if name != "trials"]
    reference = [{name: row[name] for name in shown if row.get(name) is not None} for row in rows]
    types = {"start": pa.float64(), "duration": pa.float64()}
    columns = {name: pa.array([row.get(name) for row in rows], types.get(name, pa.string())) for name in COPIED}
    columns["reference"] = pa.array([json.dumps(row, ensure_ascii=False) for row in reference], pa.string())
    columns["prediction"] = pa.array([json.dumps(_answer(p), ensure_ascii=False) for p in predictions], pa.string())
    columns["counts"] = pa.array([json.dumps(row) for row in counts], pa.string())
    return pa.table(columns)


def _answer(prediction: Prediction) -> dict[str, Any]:
    content = prediction.to_json()
    content.pop("words")  # times and confidences of words: three times the size, and not scored
    return content


def _gather(table: pa.Table) -> dict[str, RowCounts]:
    ids: dict[str, list[str]] = {}
    counts: dict[str, list[list[float]]] = {}
    for row, text in zip(table["id"].to_pylist(), table["counts"].to_pylist(), strict=True):
        for metric, values in json.loads(text).items():
            ids.setdefault(metric, []).append(row)
            counts.setdefault(metric, []).append(values)
    return {metric: RowCounts(ids[metric], np.asarray(counts[metric])) for metric in METRICS if metric in ids}


def _summarise(counts: Mapping[str, RowCounts]) -> dict[str, float]:
    values = {metric: float(METRICS[metric].value(rows.counts.sum(axis=0))) for metric, rows in counts.items()}
    return {metric: value for metric, value in values.items() if np.isfinite(value)}


def _error_share(metric: str, counts: list[float]) -> float:
    """Error of a row on a metric, 0 to about 1; 0 where the row alone has no value."""
    value = float(METRICS[metric].value(np.asarray(counts)))
    if not np.isfinite(value) or not METRICS[metric].by_row:
        return 0.0
    return value / 100 if METRICS[metric].better == "lower" else 1 - value / 100
