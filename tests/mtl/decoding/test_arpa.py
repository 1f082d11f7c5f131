"""decoding.arpa: a language model of the user's own, checked before training and carried by the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtl.config.features import FeatureSpec
from mtl.decoding.ngram import NGram
from mtl.inference.predictor import Predictor
from mtl.models.joint import build_model
from pipelines.recipe import Recipe, load
from pipelines.training.prepare import LanguageModelError, arpa_model, beam_config
from tests.support import tiny

RECIPE = """
name: small
corpora: [{name: calls, kind: manifest, source: calls.jsonl}]
tasks: {transcript: {}}
decoding: {arpa: ARPA}
"""


def recipe(folder: Path, arpa: Path) -> Recipe:
    (folder / "small.yaml").write_text(RECIPE.replace("ARPA", str(arpa)))
    return load(str(folder / "small.yaml"))


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(NGram.train(["play jazz", "play soft rock", "stop"], order=2).to_arpa())
    return path


def test_the_model_carries_it(tmp_path: Path, arpa: Path) -> None:
    asked = recipe(tmp_path, arpa)
    language = arpa_model(asked, tiny.codec())
    assert language.vocabulary == {"play", "jazz", "soft", "rock", "stop"}
    features = FeatureSpec(bins=tiny.BINS)
    Predictor(build_model(tiny.config(), tiny.codec()), features, language, beam_config(asked)).save(tmp_path / "model")
    arpa.unlink()
    again = Predictor.load(tmp_path / "model", device="cpu")
    assert again.language is not None
    assert again.language.order == 2
    assert again.language.score(("play",), "jazz") == pytest.approx(language.score(("play",), "jazz"), abs=1e-5)
    assert again.beam.spelling == asked.decoding.spelling


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hello", "lm.arpa: this is no ARPA text"),
        (NGram.train(["PLAY JAZZ"], order=1).to_arpa(), "2 of the 2 words .* 'JAZZ'; expected lower case"),
        (NGram.train(["игра"], order=1).to_arpa(), "no word in .* is made of the letters of the transcripts"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, arpa: Path, text: str, told: str) -> None:
    arpa.write_text(text)
    with pytest.raises(LanguageModelError, match=told):
        arpa_model(recipe(tmp_path, arpa), tiny.codec())


def test_a_file_that_changed_during_the_night_is_refused(tmp_path: Path, arpa: Path) -> None:
    asked = recipe(tmp_path, arpa)
    arpa.write_text(NGram.train(["other words"], order=2).to_arpa())
    with pytest.raises(LanguageModelError, match="was it changed since the night began"):
        arpa_model(asked, tiny.codec())
