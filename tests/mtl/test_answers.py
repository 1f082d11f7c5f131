"""Answers: their JSON, as score caches and `motet predict` hold it, and the columns of the packaged model."""

from __future__ import annotations

import subprocess
import sys

from mtl.answers import KINDS, Alternative, Label, Measurement, Number, Phones, Prediction, Tags, Transcription, Word
from mtl.spec import AnswerKind, task, tasks
from tests.conftest import ROOT

PREDICTION = Prediction(
    {
        "slots": Tags((("genre", "soft jazz"),), ("O", "B-genre", "I-genre")),
        "translation": Label("spiel Jazz", 0.5),
        "intent": Label("play", 0.9),
        "transcript": Transcription(
            "play soft jazz", (Word("play", 0.1, 0.4, 0.8),), (Alternative("play soft jazz", 1.0, -3.0),)
        ),
        "tempo": Number(12.5, "phones/s"),
        "phones": Phones(("p", "l")),
        "mel": Measurement({"mcd": (30.0, 10)}),
    }
)


def test_the_json_is_that_of_older_stores() -> None:
    assert list(PREDICTION.to_json().items()) == [
        ("text", "play soft jazz"),
        ("words", [{"text": "play", "start": 0.1, "end": 0.4, "confidence": 0.8}]),
        ("n_best", [{"text": "play soft jazz", "confidence": 1.0, "score": -3.0}]),
        ("translation", {"value": "spiel Jazz", "confidence": 0.5}),
        ("intent", {"value": "play", "confidence": 0.9}),
        ("tempo", {"value": 12.5, "unit": "phones/s"}),
        ("phones", "p l"),
        ("slots", [{"slot": "genre", "value": "soft jazz"}]),
    ]
    assert Prediction().to_json() == {"text": None, "words": []}


def test_answers_come_back_from_json() -> None:
    answers = Prediction.from_json(PREDICTION.to_json()).answers
    assert answers.keys() == PREDICTION.answers.keys() - {"mel"}
    assert answers["slots"] == Tags((("genre", "soft jazz"),))  # tags are not stored
    assert all(answers[name] == PREDICTION.answers[name] for name in answers.keys() - {"slots"})
    assert Prediction.from_json({"input": "a.wav", "text": None, "words": []}) == Prediction()


def test_every_kind_serves_what_its_columns_name() -> None:
    for name, answer in PREDICTION.answers.items():
        assert answer.cells(name).keys() <= KINDS[task(name).answer].columns(name).keys()
    assert {spec.answer for spec in tasks()} <= KINDS.keys() == set(AnswerKind.__args__)


def test_references_read_as_the_answers_do() -> None:
    row = {"text": "play soft jazz", "intent": "play", "slots": ["O", "B-genre", "I-genre"], "durations": [1, 2]}
    assert KINDS["text"].reference(task("transcript"), row) == "play soft jazz"
    assert KINDS["label"].reference(task("intent"), row) == "play"
    assert KINDS["tags"].reference(task("slots"), row) == str(PREDICTION.answers["slots"])
    assert KINDS["number"].reference(task("tempo"), row) is None  # it is measured, not labelled


def test_metrics_and_answers_need_no_torch() -> None:
    code = "import sys, mtl.metrics.scoring as s; len(s.METRICS); print([m for m in sys.modules if 'torch' in m])"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
