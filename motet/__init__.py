"""Motet's Python API: load models and predict, read recipes, run what the command line runs.

    import motet

    model = motet.load("assistant@champion", root="motet-root")
    model.predict("kitchen.wav").text                       # 'turn on the light in the kitchen'
    model.predict(text="play some jazz")["intent"]          # {'value': 'play_music', 'confidence': 0.98}

    result = motet.nightly("assistant", "trainer.epochs=2")
    result                                                  # the table that `motet nightly assistant` prints
    motet.evaluate("assistant", "librispeech", "/data/LibriSpeech").metrics["transcript/wer"]["value"]

Results are dataclasses; their repr is what the command prints, their `to_json()` what it prints with --json. Errors
are exceptions with the message that the command prints. torch, Ray, MLflow and Prefect are imported on first use.
"""

from motet.models import Model, Speech, Text, load
from motet.runs import OptionError, evaluate, ingest, nightly, promote, recipe, search, study
from pipelines.cli.results import (
    Evaluation,
    IngestResult,
    Prediction,
    Promotion,
    RunResult,
    SearchResult,
    StudyResult,
)

__all__ = [
    "Evaluation",
    "IngestResult",
    "Model",
    "OptionError",
    "Prediction",
    "Promotion",
    "RunResult",
    "SearchResult",
    "Speech",
    "StudyResult",
    "Text",
    "evaluate",
    "ingest",
    "load",
    "nightly",
    "promote",
    "recipe",
    "search",
    "study",
]
