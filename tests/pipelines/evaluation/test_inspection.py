"""The stage that looks into a trained model: bounded, made once, on speakers kept apart, and on true phones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl.inference.predictor import Predictor
from mtl.inputs.codec import Codec
from mtl.models.joint import build_model
from pipelines import recipe
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.evaluation.inspection import FRAMES, _split, interpret, interpreted, phones_of, read, sample
from pipelines.recipe import Recipe, parse
from pipelines.storage.store import Store
from pipelines.training.prepare import model_config
from tests.support import small_night
from tests.support.small_corpus import commit, spoken, written

TASKS = ("transcript", "intent", "slots", "speaker", "emotion")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("interpretation") / "store")


@pytest.fixture(scope="module")
def settings() -> Recipe:
    corpora = [
        {"name": "heard", "kind": "manifest", "source": "x"},
        {"name": "read", "kind": "manifest", "source": "x"},
    ]
    tasks = {task: {} for task in TASKS}
    return parse({**small_night.RECIPE, "corpora": corpora, "tasks": tasks, "features": {"bins": 16}})


@pytest.fixture(scope="module")
def dataset(store: Store, settings: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """48 recordings of four speakers in three moods, and 20 sentences."""
    heard = spoken(tmp_path_factory.mktemp("recordings"), "heard", 48, longest=0.8)
    for number, row in enumerate(heard):
        row |= {"intent": f"intent{number % 4}", "speaker": f"s{number % 4}", "emotion": f"mood{number // 4 % 3}"}
    utterances = [commit(store, "heard", heard), commit(store, "read", written("read", 20))]
    return open_dataset(store, utterances, extract(utterances, settings.features, store, "local"))


def model(settings: Recipe, dataset: Dataset) -> Predictor:
    codec = Codec.build(dataset.rows.to_pylist(), TASKS)
    torch.manual_seed(0)
    return Predictor(build_model(model_config(settings), codec), settings.features)


def test_everything_is_plain_data(settings: Recipe, dataset: Dataset) -> None:
    mmoe = settings.model_copy(update={"sharing": settings.sharing.replace(mode="mmoe", experts=2)})
    found = interpret(model(mmoe, dataset), dataset, mmoe)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["mode"], found["tasks"], found["rows"]) == ("mmoe", list(TASKS), 68)
    assert found["pictures"]["audio"]["gates"] == [[0.5, 0.5]] * 5  # gates start even
    assert found["pictures"]["text"]["gates"] == [[None, None], *[[0.5, 0.5]] * 2, *[[None, None]] * 2]
    probes = {probe["target"]: probe for probe in found["probes"]}
    assert list(probes) == ["speaker", "emotion", "character"]
    assert found["skipped"] == {}
    speaker = probes["speaker"]
    assert (speaker["classes"], speaker["train"], speaker["test"]) == (4, 32, 16)
    assert speaker["chance"] == 25.0
    labels = [(layer["path"], layer["label"]) for layer in speaker["layers"]]
    assert labels == [
        *(("shared", name) for name in ("front-end", "expert 1", "expert 2")),
        *((t, "given") for t in TASKS),
    ]
    assert probes["emotion"]["train"] + probes["emotion"]["test"] == 48


def test_emotion_is_asked_of_speakers_that_were_not_learned_from(dataset: Dataset) -> None:
    rows = [row for row in dataset.rows.to_pylist() if row["audio"]]
    split = _split("emotion", [row["emotion"] for row in rows], rows)
    assert not isinstance(split, str)
    sides = [{rows[i]["speaker"] for i in side} for side in (split.train, split.test)]
    assert sides[0].isdisjoint(sides[1])
    assert all(sides)
    one = [{**row, "speaker": "s0"} for row in rows]
    assert "of one speaker" in str(_split("emotion", [row["emotion"] for row in rows], one))
    # A speaker's probe asks about the same speakers, in other utterances.
    same = _split("speaker", [row["speaker"] for row in rows], rows)
    assert not isinstance(same, str)
    assert {rows[i]["speaker"] for i in same.test} == {rows[i]["speaker"] for i in same.train}
    assert set(same.test).isdisjoint(same.train)
    assert "too few" in str(_split("speaker", ["a", "b", "a"], rows[:3]))


def test_it_is_made_once(store: Store, settings: Recipe, dataset: Dataset) -> None:
    def never() -> Predictor:
        raise AssertionError("loaded a model whose picture is kept")

    predictor = model(settings, dataset)
    bare = settings.model_copy(update={"interpret": recipe.Interpret(probes=False)})
    key = interpreted(store, "weights", lambda: predictor, dataset, bare)
    assert interpreted(store, "weights", never, dataset, bare) == key
    found = read(store, key)
    assert (found["probes"], found["skipped"], found["pictures"]) == ([], {}, {"audio": {}, "text": {}})
    for other in (
        ("others", dataset, bare),
        ("weights", dataset.select(range(60)), bare),
        ("weights", dataset, settings),
    ):
        with pytest.raises(AssertionError, match="is kept"):
            interpreted(store, other[0], never, *other[1:])


def test_rows_are_bounded(settings: Recipe, dataset: Dataset) -> None:
    chosen = sample(dataset.rows, 10)
    rows = dataset.rows.take(chosen).to_pylist()
    assert [row["audio"] is not None for row in rows] == [True] * 10 + [False] * 10
    assert sample(dataset.rows, 1000) == list(range(68))
    few = settings.model_copy(update={"interpret": recipe.Interpret(rows=10)})
    found = interpret(model(few, dataset), dataset.select(chosen), few)
    assert found["rows"] == 20
    frames = [probe for probe in found["probes"] if probe["target"] == "character"]
    assert all(probe["train"] + probe["test"] <= FRAMES for probe in frames)


def test_phones_are_the_synthesiser_s_own(tmp_path: Path) -> None:
    small = small_night.recipe()
    store = Store(tmp_path / "store")
    utterances, made = small_night.data(store)
    valid = open_dataset(store, utterances, made).split("valid")
    phones = phones_of(small)
    rows: list[dict[str, Any]] = [row for row in valid.rows.to_pylist() if row["audio"]]
    assert {row["id"] for row in rows} == phones.keys()
    for row in rows:
        said = phones[row["id"]]
        assert len(said) >= len(row["text"]) / 3
        assert all(0 <= start < end <= row["duration"] + 0.01 for _, start, end in said)
    codec = Codec.build(rows, tuple(small.tasks))
    predictor = Predictor(build_model(model_config(small), codec), small.features)
    found = interpret(predictor, valid, small)
    (phone,) = (probe for probe in found["probes"] if probe["target"] == "phone")
    assert phone["classes"] > 10
    # Log-mel frames behind an untrained front-end tell phones apart; a layer's shuffled control does not.
    entry = phone["layers"][0]
    assert entry["accuracy"] > phone["chance"] + 5
    assert entry["accuracy"] > entry["shuffled"] + 5
