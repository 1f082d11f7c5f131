"""How fast and how lively a recording is spoken: targets by hand, errors by hand, and that it can be learned."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mtl.answers import Number, Prediction
from mtl.config.training import FitConfig
from mtl.heads import head_class
from mtl.heads.regression import PhoneRegression
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.inputs.codec import Codec
from mtl.metrics.scoring import score_rows
from mtl.models.joint import build_model
from mtl.spec import task
from mtl.training.fit import fit
from pipelines.recipe import RecipeError, load, parse
from tests.support import tiny
from tests.support.tiny_voice import SPEC, code, joined, mel, rows

TASKS = ("tempo", "intonation")


def codec() -> Codec:
    return dataclasses.replace(Codec.build(rows(), TASKS), speech=code())


def head(name: str) -> PhoneRegression:
    kind = head_class(task(name))
    assert issubclass(kind, PhoneRegression)
    return kind(task(name), 8, tiny.BINS, code().pitch, 0.0)


def test_targets_by_hand() -> None:
    """_ab_ by x: 2 + 5 + 3 + 2 frames, three a phone; pitches 5, 5.05, 5.1 and 5."""
    spoken = joined(codec()).spoken
    assert spoken is not None
    assert float(head("tempo").target(spoken)[0]) == pytest.approx(10 * math.log(3))
    lively = np.std([5.0, 5.05, 5.1, 5.0]) * 12 / math.log(2)
    assert float(head("intonation").target(spoken)[0]) == pytest.approx(lively, rel=1e-4)


def test_padding_and_rows_without_phones_do_not_count() -> None:
    alone = collate([codec().encode(rows()[2])], [mel(rows()[2])])
    bare = {**rows()[0], "phones": None}
    both = collate([codec().encode(rows()[2]), codec().encode(bare)], [mel(rows()[2]), mel(rows()[0])])
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=TASKS), codec()).eval()
    for name in TASKS:
        assert model.task(name).count(both, model.lengths(both)) == 1
        one, other = model.losses(alone)[name], model.losses(both)[name]
        torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
        assert int(other[1]) == 1


def test_errors_by_hand() -> None:
    """Twelve frames at 10 ms: 4 phones in 0.12 s are 33.3 a second; said to be 40, a fifth too many."""
    row = {**rows()[0], "duration": 0.12}
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=TASKS), codec())
    (said,) = Predictor(model, SPEC).predict_batch(collate([codec().encode(row)], [mel(row)]))
    assert said.to_json()["tempo"]["unit"] == "phones/s"
    said = Prediction({"tempo": Number(40.0), "intonation": Number(1.0)})
    scored = score_rows([row], [said])
    assert scored["tempo/error"].counts.tolist() == [[pytest.approx(20), 1]]
    lively = np.std(row["pitch"]) * 12 / math.log(2)
    assert scored["intonation/error"].counts.tolist() == [[pytest.approx(abs(1 - lively)), 1]]


def test_it_learns_both() -> None:
    torch.manual_seed(0)
    model = build_model(tiny.config(tasks=TASKS, dropout=0.0), codec())
    fit(model, tiny.TinyLoader([(joined(model.codec),)], per_step=1), FitConfig(epochs=150, learning_rate=1e-2))
    spoken = [{**row, "duration": sum(row["durations"]) / 100} for row in rows()]
    scored = score_rows(spoken, Predictor(model, SPEC).predict_batch(joined(codec())))
    error = {name: counts.counts[:, 0].mean() for name, counts in scored.items()}
    assert error["tempo/error"] < 5
    assert error["intonation/error"] < 0.15


def test_recipes_may_have_them_without_a_voice() -> None:
    corpus = {"name": "v", "kind": "espeak", "phonemes": "gmw/en-us"}
    recipe = parse(
        {"name": "r", "corpora": [corpus], "tasks": {"tempo": {}, "phones": {}}, "gates": {"primary": "tempo/error"}}
    )
    assert recipe.phrased
    assert not recipe.speaks
    assert not load("assistant").phrased
    with pytest.raises(RecipeError, match=r"tasks.tempo learns how long phones are"):
        parse({**recipe.model_dump(mode="json"), "tasks": {"tempo": {}}, "loader": {"speed": [0.9, 1.1]}})
