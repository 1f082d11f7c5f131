"""`import motet`: what it loads, what it returns, what it refuses; the examples of its docstrings."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import motet
from mtl.inference.predictor import Predictor, PredictorError
from pipelines.adhoc.prediction import ContextError
from pipelines.recipe import RecipeError, load
from pipelines.registry.registry import Registry, RegistryError
from pipelines.storage.store import Store
from tests.conftest import ROOT, FinishedNight
from tests.support import tiny_voice

FEW = ["options.utterances=4", "options.valid_utterances=4", "options.speakers=4", "options.test_utterances=12",
       "options.text_only_sentences=0"]  # fmt: skip


@pytest.fixture(scope="module")
def model(finished_night: FinishedNight) -> motet.Model:
    return motet.load("small/1", root=finished_night.root)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize

    path = tmp_path_factory.mktemp("recording") / "light.wav"
    soundfile.write(path, synthesize("turn on the light"), SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> motet.Model:
    base = tmp_path_factory.mktemp("voice")
    Predictor(tiny_voice.fresh(), tiny_voice.SPEC).save(base / "model")
    Registry(Store(base / "root")).register("expressive", base / "model")
    return motet.load("expressive/1", root=base / "root")


def test_the_import_brings_no_heavy_library() -> None:
    code = "import sys, motet; print([name for name in ('torch', 'prefect', 'ray', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_everything_public_is_documented() -> None:
    for name in motet.__all__:
        thing = getattr(motet, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            assert "Example:" in str(thing.__doc__), name
            assert "Raises:" in str(thing.__doc__), name


def test_a_registered_model_says_what_it_is(model: motet.Model, finished_night: FinishedNight) -> None:
    assert model.tasks == ("transcript", "intent", "slots")
    assert model.version is not None
    assert (model.version.version, model.version.uri) == (1, "models:/small/1")
    assert model.version.metrics.keys() == finished_night.outcome["metrics"].keys()
    assert model.sample_rate == 16000
    assert model.parameters == model.version.parameters
    assert "light_on" in str(model.labels["intent"]) or len(model.labels["intent"]) > 1
    assert (model.domains, model.speakers, model.emotions) == ((), (), ())
    lines = repr(model).splitlines()
    assert lines[0] == "Model('models:/small/1')"
    assert lines[1] == "  tasks       transcript, intent, slots"
    assert "test        " in lines[-1]


def test_path_array_and_folder_give_the_same_answer(model: motet.Model, recording: Path, tmp_path: Path) -> None:
    expected = model.predict(recording)
    assert expected.text is not None
    samples, rate = soundfile.read(recording, dtype="float32")
    whole, _ = soundfile.read(recording, dtype="int16")
    local = motet.load(Registry(model.root).folder("models:/small/1"), root=tmp_path / "none")
    assert local.version is None
    assert not (tmp_path / "none").exists()
    for prediction in (
        model.predict(samples, rate=rate),
        model.predict(np.stack([samples, samples], axis=1), rate=rate),
        model.predict(whole, rate=rate),
        local.predict(str(recording)),
    ):
        assert prediction.answers["text"] == expected.text
        assert prediction["intent"]["value"] == expected["intent"]["value"]
        assert prediction["intent"]["confidence"] == pytest.approx(expected["intent"]["confidence"], rel=1e-3)


def test_a_prediction_reads_like_the_commands_table(model: motet.Model, recording: Path) -> None:
    prediction = model.predict(recording, hot_words=["turn on"], n_best=2)
    assert repr(prediction).splitlines()[0].split() == ["input", str(recording)]
    assert [line.split()[0] for line in repr(prediction).splitlines()] == [
        "input", "transcript", "1", "2", "intent", "slots",
    ]  # fmt: skip
    assert list(prediction.to_json())[:3] == ["input", "model", "text"]


def test_a_batch_of_recordings_and_sentences(model: motet.Model, recording: Path) -> None:
    heard, read = model.predict_batch([recording, motet.Text("play some jazz")])
    alone = model.predict(text="play some jazz")
    assert (heard.input, read.input) == (str(recording), "play some jazz")
    assert read.text is None
    assert read["intent"] == pytest.approx(alone["intent"])


def test_wrong_inputs_are_refused_in_a_sentence(model: motet.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="predict takes one of: audio, text"):
        model.predict()
    with pytest.raises(ValueError, match="needs rate="):
        model.predict(np.ones(16000, dtype=np.float32))
    with pytest.raises(ValueError, match="digital silence"):
        model.predict(np.zeros(16000, dtype=np.float32), rate=16000)
    with pytest.raises(ContextError, match="models:/small/1 reads no context"):
        model.predict(text="tomorrow", context=["wake me at seven"])
    with pytest.raises(PredictorError, match="no domain 'moon'"):
        model.predict(text="tomorrow", domain="moon")
    with pytest.raises(PredictorError, match="does not speak"):
        model.say("Hello.")
    with pytest.raises(RegistryError, match="no model is named 'ghost'"):
        motet.load("ghost", root=model.root)
    with pytest.raises(RegistryError, match="`motet nightly RECIPE` makes one"):
        motet.load(root=tmp_path)


def test_a_voice_speaks(voice: motet.Model, tmp_path: Path) -> None:
    assert "y" in voice.speakers
    speech = voice.say("Cab. A bac!", speaker="y", emotion="loud", rate=0.5)
    assert speech.samples.dtype == np.float32
    assert speech.rate == voice.sample_rate == 16000
    speech.save(tmp_path / "cab.wav")
    samples, rate = soundfile.read(tmp_path / "cab.wav")
    assert (len(samples), rate) == (len(speech.samples), 16000)
    assert repr(speech) == f"Speech({speech.seconds:.2f} s at 16,000 Hz)"
    with pytest.raises(ValueError, match="trained on no speaker 'z'"):
        voice.say("Cab.", speaker="z")


def test_a_recipe_is_read_with_settings() -> None:
    recipe = motet.recipe("assistant", "trainer.epochs=2")
    assert recipe == load("assistant", ["trainer.epochs=2"])
    with pytest.raises(RecipeError, match="did you mean 'assistant'"):
        motet.recipe("assistent")


def test_ingest_counts_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text,split\na,hello there,train\n")
    result = motet.ingest("manifest", tmp_path / "rows.csv", name="greetings", root=tmp_path / "root", quiet=True)
    assert (result.dataset, result.version, result.meta["rows"]) == ("utterances/greetings", 1, 1)
    assert repr(result) == "utterances/greetings version 1\n1 rows: 1 train, 0 valid, 0 test"


def test_a_night_that_is_done_trains_nothing(finished_night: FinishedNight) -> None:
    for recipe in (finished_night.recipe, motet.recipe(finished_night.recipe)):
        result = motet.nightly(recipe, root=finished_night.root, quiet=True)
        assert result.state == "nothing new"
        assert (result.model, result.metrics) == ("models:/small/1", finished_night.outcome["metrics"])
    assert "models:/small/1: nothing new since the night of" in repr(result)
    assert f"motet history small --root {finished_night.root}" in repr(result)
    assert "root" not in result.to_json()


def test_a_night_runs_in_a_notebook(finished_night: FinishedNight) -> None:
    async def cell() -> motet.RunResult:  # a notebook's cells run within an event loop
        return motet.nightly(finished_night.recipe, root=finished_night.root, quiet=True)

    assert asyncio.run(cell()).state == "nothing new"


def test_scores_on_a_corpus(finished_night: FinishedNight) -> None:
    scores = motet.evaluate("small/1", "espeak", split="test", root=finished_night.root, settings=FEW, quiet=True)
    wer = scores.metrics["transcript/wer"]
    assert wer["rows"] == 12
    assert wer["low"] <= wer["value"] <= wer["high"]
    assert repr(scores).startswith("models:/small/1 on espeak (test), 12 of ")
    with pytest.raises(motet.OptionError, match="takes no hot words"):
        motet.evaluate("small/1", "espeak", root=finished_night.root, greedy=True, hot_words=["the"])


def test_a_decision_is_returned(finished_night: FinishedNight) -> None:
    with pytest.raises(RegistryError, match="small version 1 is the champion already"):
        motet.promote("small", 1, root=finished_night.root, quiet=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cells": ["triples"]}, "cells triples: expected some of single, joint, pairs, leave-one-out"),
        ({"labels": [0.1, 2]}, "labels 0.1,2: expected shares above 0, up to 1"),
        ({"sparse": ["intent"]}, "needs --labels"),
        ({"labels": [0.1], "sparse": ["language"]}, "sparse language: expected some of transcript, intent"),
        ({"labels": [0.1], "folds": 2}, "choose one"),
        ({"sharing": ["wide"]}, "sharing wide: expected some of hard"),
    ],
)
def test_options_of_a_study_are_checked_before_it_starts(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(motet.OptionError, match=complaint):
        motet.study("assistant", **options)  # type: ignore[arg-type]


def test_a_search_shows_its_front() -> None:
    row = {"trial": "t1", "overrides": ["seed=1"], "objective": 1.5, "metrics": {"valid/transcript/wer": 9.0},
           "epochs": 1, "seconds": 2.0, "state": "finished", "error": None, "schedule": []}  # fmt: skip
    front = {"trials": ["t1"], "knee": None, "metrics": {"transcript": "transcript/wer"}, "notes": [],
             "reference": {"transcript": 100.0}, "hypervolume": 91.0}  # fmt: skip
    content = {"leaderboard": [row], "objective": {"label": "mean", "words": "mean error"}, "front": front,
               "report": "search.html"}  # fmt: skip
    result = motet.SearchResult(content)
    assert result.settings() == ["seed=1"]
    assert "Pareto front" in repr(result)
    assert repr(result).endswith("report      search.html")
    with pytest.raises(ValueError, match="has no knee"):
        result.settings("knee")


def test_examples_of_the_docstrings_run(
    model: motet.Model, voice: motet.Model, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example is parsed and its calls run on small models; their output depends on the model."""
    monkeypatch.chdir(recording.parent)
    for name in ("kitchen.wav", "a.wav", "b.wav"):
        Path(name).write_bytes(recording.read_bytes())
    samples, _ = soundfile.read(recording, dtype="float32")
    for method in (motet.Model.predict, motet.Model.predict_batch, motet.recipe):
        for example in doctest.DocTestParser().get_examples(str(method.__doc__)):
            source = example.source.replace(', context=["wake me at seven", "for which day"]', "")
            assert eval(source, {"motet": motet, "model": model, "samples": samples}) is not None
    assert motet.recipe("assistant", "trainer.epochs=2").trainer.epochs == 2
