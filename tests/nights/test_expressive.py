"""A recipe that speaks, from the embedded corpus to trained weights: the stages as a night runs them, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")
pytest.importorskip("espeakng_loader", reason="the extra motet[espeak] is not installed")

from mtl.inference.predictor import Predictor
from mtl.inference.synthesizer import Synthesizer
from mtl.inputs.batch import Batch
from mtl.metrics.scoring import METRICS
from mtl.training.fit import fit
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.data.features import extract
from pipelines.data.ingest import ingest
from pipelines.data.prosody import measure
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.floors import floor_of
from pipelines.recipe import Recipe, RecipeError, load, parse
from pipelines.storage.store import Manifest, Store
from pipelines.training.prepare import Job, UnlabelledTask, fit_config, labelled, prepare

SPEAKING = {
    "name": "small",
    "corpora": [
        {"name": "v", "kind": "espeak", "phonemes": "gmw/en-us", "options": {
            "utterances": 24, "valid_utterances": 6, "test_utterances": 2, "text_only_sentences": 0, "speakers": 2,
            "accents": ["gmw/en-us"], "known_speakers": True}},
    ],
    "tasks": {"prosody": {}, "mel": {}, "emotion": {"weight": 0.1}, "speaker": {"weight": 0.1}},
    "loader": {"batch_seconds": 20},
    "model": {"width": 32, "blocks": 1, "dropout": 0.0},
    "trainer": {"epochs": 12, "learning_rate": 5e-3, "precision": "fp32"},
    "gates": {"primary": "mel/mcd"},
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    return parse({**SPEAKING, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Manifest], list[Manifest]]:
    """Utterances, then features and prosody, of the corpus."""
    store = Store(str(tmp_path_factory.mktemp("expressive") / "root"))
    rows = [ingest(corpus, recipe().quality, store) for corpus in recipe().corpora]
    features = extract(rows, recipe().features, store, parallel="local")
    return store, rows, features + measure(rows, recipe().features, store, parallel="local")


@pytest.fixture(scope="module")
def dataset(made: tuple[Store, list[Manifest], list[Manifest]]) -> Dataset:
    store, rows, features = made
    return labelled(open_dataset(store, rows, features), recipe())


def test_durations_fill_the_features(dataset: Dataset) -> None:
    rows = dataset.rows.to_pylist()
    assert len(rows) == 32
    for row, features in zip(rows, dataset.features(range(len(rows))), strict=True):
        assert sum(row["durations"]) == row["frames"] == len(features)
        assert len(row["phones"]) == len(row["durations"]) == len(row["pitch"]) == len(row["energy"])


def test_without_prosody_nothing_can_be_learned(made: tuple[Store, list[Manifest], list[Manifest]]) -> None:
    store, rows, features = made
    bare = [manifest for manifest in features if manifest.dataset.startswith("features/")]
    with pytest.raises(UnlabelledTask, match="'prosody'"):
        prepare(recipe(), open_dataset(store, rows, bare))
    assert open_dataset(store, rows, bare).identity != open_dataset(store, rows, features).identity


def test_it_learns_to_speak(
    made: tuple[Store, list[Manifest], list[Manifest]], dataset: Dataset, tmp_path: Path
) -> None:
    store, rows, features = made
    codec, _, _ = prepare(recipe(), dataset)
    assert codec.speech is not None
    assert codec.speech.phonemes == "gmw/en-us"
    assert len(codec.speech.speakers) == 2
    assert 60 < np.exp(codec.speech.pitch.mean) < 400  # Hz
    model, loader, validate = Job(recipe(), rows, features, store, codec.to_json()).open()
    (batch,) = next(iter(loader))[0]
    assert isinstance(batch, Batch)
    assert batch.spoken is not None
    assert batch.feature_lengths is not None
    assert batch.spoken.durations.sum(dim=1).tolist() == batch.feature_lengths.tolist()
    loader.epoch = loader.step = 0
    seen: list[dict[str, float]] = []
    fit(model, loader, fit_config(recipe()), lambda metrics, state: seen.append(metrics), validate)
    epochs = [metrics for metrics in seen if metrics]
    first, last = epochs[0], epochs[-1]
    assert last["valid/mel/mcd"] < 0.9 * first["valid/mel/mcd"] < 20  # dB
    for metric in ("train/mel/loss", "train/prosody/loss", "valid/prosody/duration"):
        assert last[metric] < first[metric], metric
    assert {"valid/emotion/accuracy", "valid/prosody/pitch"} <= last.keys()
    predictor = Predictor(model, recipe().features)
    valid = dataset.split("valid")
    scores = evaluate(predictor, valid, recipe().loader)
    floor = floor_of(scores.counts, valid)  # the mean log-mel, the median duration, the mean pitch
    assert {"mel/mcd", "prosody/duration", "prosody/pitch"} <= floor.counts.keys()
    for metric in ("mel/mcd", "prosody/duration", "prosody/pitch"):  # over the same frames and phones
        np.testing.assert_array_equal(floor.counts[metric].counts[:, 1], scores.counts[metric].counts[:, 1])
    lowest = {name: float(METRICS[name].value(rows.counts.sum(axis=0))) for name, rows in floor.counts.items()}
    for metric in ("mel/mcd", "prosody/duration", "prosody/pitch"):
        assert scores.metrics[metric] < 0.9 * lowest[metric], metric
    predictor.save(tmp_path / "model")
    voice = Synthesizer(Predictor.load(tmp_path / "model"))
    (samples,) = voice.say(["Turn on the light at 8:30!"], emotion="sad")
    assert 0.5 < len(samples) / voice.features.sample_rate < 6
    assert voice.phones("at 8:30") == voice.phones("at eight thirty")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"corpora": [{"name": "v", "kind": "espeak"}]}, "needs phones of one kind, but no corpus names any"),
        (
            {"corpora": [{"name": "v", "kind": "espeak", "phonemes": "gmw/en-us"},
                         {"name": "w", "kind": "espeak", "phonemes": "characters"}]},
            "corpora name characters and gmw/en-us",
        ),
        ({"loader": {"speed": [0.9, 1.1]}}, "learns how long phones are"),
        ({"loader": {"time_masks": 2}}, "learns the recordings' own sound"),
        ({"model": {"blocks": 0, "lstm": 1}, "search": {"modes": ["hard"]}}, "emotion, mel, prosody, speaker hear"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_speak_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe(**changes)


def test_the_shipped_recipe_speaks_and_others_are_what_they_were() -> None:
    assert load("expressive").speaks
    assert not load("assistant").speaks
    plain = load("assistant")
    asked = load("assistant", ["corpora.commands.phonemes=characters"])
    assert plain.address() != asked.address()
