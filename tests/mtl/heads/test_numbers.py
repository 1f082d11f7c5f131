"""A numeric task of a column: its scale, loss, metric and floor by hand, and that it can be learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mtl import spec
from mtl.answers import Number, Prediction
from mtl.audio.features import FeatureSpec
from mtl.heads.regression import Regression
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import Batch, collate
from mtl.inputs.codec import Codec
from mtl.metrics.floors import ScoredRows
from mtl.metrics.scoring import METRICS, in_unit, score_rows, summarise
from mtl.models.joint import build_model
from mtl.spec import AUDIO, TEXT, Column, TaskSpec
from mtl.training.fit import FitConfig, fit
from tests.support import tiny

AGE = TaskSpec(
    "age",
    label="age",
    groups=(AUDIO, TEXT),
    answer="number",
    head="mtl.heads.regression:Regression",
    columns=(Column("age", kind="number"),),
    unit="years",
    tolerance=2.0,
)
AGES = [20.0, 30.0, None, 40.0, 70.0, 40.0]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    spec.register(AGE)
    yield
    spec.unregister("age")


def rows() -> list[dict[str, Any]]:
    return [{**row, "audio": "x.wav", "age": age} for row, age in zip(tiny.HEARD, AGES, strict=True)]


def batch(codec: Codec) -> Batch:
    return collate([codec.encode(row) for row in rows()], [tiny.features(row) for row in rows()])


def test_the_scale_is_that_of_the_training_rows_and_is_saved() -> None:
    codec = Codec.build(rows(), ("age",))
    assert codec.scales["age"].mean == 40.0
    assert codec.scales["age"].deviation == pytest.approx(np.std([20, 30, 40, 70, 40]))
    assert Codec.from_json(codec.to_json()).scales == codec.scales
    assert "scales" not in Codec.build(rows(), ("intent",)).to_json()  # as models were saved before
    assert Codec.build([{"age": 5.0}], ("age",)).scales["age"].deviation == 1.0
    with pytest.raises(ValueError, match="task 'age' has no numbers"):
        build_model(tiny.config(tasks=("age",)), Codec.build([{"text": "a"}], ("age",)))


def test_rows_without_a_number_do_not_count() -> None:
    codec = Codec.build(rows(), ("age",))
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=("age",), dropout=0.0), codec).eval()
    loss, count = model.losses(batch(codec))["age"]
    assert int(count) == 5
    head = model.task("age")
    assert isinstance(head, Regression)
    values = np.array(head.decode(model.encode(batch(codec), ("age",))["age"]))
    off = np.abs((values - np.array([np.nan if age is None else age for age in AGES])) / codec.scales["age"].deviation)
    huber = np.where(off < 1, off**2 / 2, off - 0.5)
    assert loss.item() == pytest.approx(np.nansum(huber), rel=1e-4)


def test_errors_and_the_floor_by_hand() -> None:
    labelled = [row for row in rows() if row["age"] is not None]
    predictions = [Prediction({"age": Number(value)}) for value in (25.0, 30.0, 50.0, 50.0, 30.0)]
    scores = score_rows(labelled, predictions)
    assert scores["age/mae"].counts.tolist() == [[5, 1], [0, 1], [10, 1], [20, 1], [10, 1]]
    assert summarise(scores)["age/mae"] == 9.0
    metric = METRICS["age/mae"]
    assert (metric.better, metric.unit, metric.tolerance) == ("lower", "years", 2.0)
    assert in_unit("age/mae", 9.0) == "9.00 years"
    floor = metric.floor.counts(ScoredRows(labelled, scores["age/mae"].counts))
    assert floor[:, 0].tolist() == [20, 10, 0, 30, 0]  # around the median, 40
    written = score_rows([{"audio": None, "age": 30.0}], [Prediction({"age": Number(31.0)})])
    assert written["age/text_mae"].counts.tolist() == [[1, 1]]


def test_it_learns() -> None:
    codec = Codec.build(rows(), ("age",))
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=("age",), dropout=0.0), codec)
    fit(model, tiny.TinyLoader([(batch(codec),)], per_step=1), FitConfig(epochs=100, learning_rate=1e-2))
    predictions = Predictor(model, FeatureSpec(bins=tiny.BINS)).predict_batch(batch(codec))
    assert summarise(score_rows(rows(), predictions))["age/mae"] < 3
    assert predictions[0].to_json()["age"]["unit"] == "years"
