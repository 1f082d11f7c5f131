"""The MLflow model (models-from-code) of a package: a table of inputs in, a table of answers out.

    model = mlflow.pyfunc.load_model("models:/assistant@champion")
    model.predict(pandas.DataFrame({"text": ["turn on the light"]}))
    model.predict(pandas.DataFrame({"audio": [base64 of a WAV or FLAC file, or the path of one]}))
    model.predict(pandas.DataFrame({"text": ["yes"], "context": [["wake me at seven", "tomorrow at seven"]]}))
    model.predict(pandas.DataFrame({"text": ["Dinner is ready."]}), params={"emotion": "sad"})["speech"]   # base64, WAV
    model.predict(recordings, params={"hot_words": ["anna karenina"], "hot_weight": 1.0, "n_best": 3})

MLflow stores this file in the package, beside `mtl` and the folder of the Predictor. It runs wherever the package is
loaded, so it imports only mtl, numpy, pandas and mlflow, for sound soundfile and soxr, for synthesis num2words and
eSpeak NG: no Ray, no Prefect, and nothing else of pipelines.

The package of a user's adapter (mtl.inference.adaptation) does not contain the base model. That is models:/<base>/
<version> of the registry or the folder MOTET_BASE, and must be the version that the adapter was trained for.

A server (`mlflow models serve`) takes only base64, so that a request cannot choose files of the server.
MOTET_SERVE_PATHS=1 allows paths.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from mtl.address import folder_address
from mtl.answers import KINDS, Prediction
from mtl.decoding.hot_words import WEIGHT
from mtl.groups import input_columns
from mtl.inference.adaptation import About, Personal, PersonalPredictor, check_base
from mtl.inference.predictor import Predictor
from mtl.spec import first_with_answer, makes_sound
from mtl.spec import task as task_spec

if TYPE_CHECKING:
    from mtl.inference.conversion import Converter

Input = np.ndarray | str | dict[str, str]  # a waveform, a sentence, or the column of another input group
ARTIFACT, ADAPTER = "predictor", "adapter"
MAX_SECONDS = 600.0  # longest recording; limits the memory of a request
_LONGEST_PATH = 4096


class SpeechService(PythonModel):
    """One row in, one row out. A row has one of `audio`, `text` and the columns of further input groups."""

    def load_context(self, context: PythonModelContext) -> None:
        if ADAPTER not in context.artifacts:
            self.predictor = Predictor.load(context.artifacts[ARTIFACT])
            return
        personal = Personal.load(context.artifacts[ADAPTER])
        base = base_folder(personal.about)
        check_base(personal.about, folder_address(base))
        self.predictor = PersonalPredictor(Predictor.load(base), personal)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answers to a table of inputs, one row each.

        Columns: `text`, each task and `<task>_confidence`; `words` with times, `slots`, and `n_best` if more than one
        transcript is requested, as JSON; null if a task gives no answer. `speech`, base64 of a WAV file: a sentence,
        synthesised; a recording, converted to the requested speaker or emotion, or resynthesised by a vocoder.

        Raises:
            ValueError: a row with neither or both inputs, or an unreadable recording; it names the row.
        """
        rate = self.predictor.features.sample_rate
        params = {name: value for name, value in (params or {}).items() if value is not None}
        predictor = self.predictor.with_options(
            [str(phrase) for phrase in params.get("hot_words", ())],
            float(params.get("hot_weight", WEIGHT)),
            int(params.get("n_best", 1)),
            domain=str(params.get("domain", "")) or None,
        )
        rows = model_input.to_dict("records")
        inputs = [_input(row, number, rate) for number, row in enumerate(rows)]
        predictions = predictor.predict(inputs, [_turns(row, number) for number, row in enumerate(rows)])
        config = self.predictor.model.config
        table = as_table(predictions, config.tasks, model_input.index)
        if config.speaks:
            table.insert(0, "speech", self._synthesised(inputs, params))
        elif makes_sound(config.tasks):
            table.insert(0, "speech", self._resynthesised(inputs))
        return table

    def _synthesised(self, inputs: list[Input], params: dict[str, Any]) -> list[str | None]:
        """Base64 of a WAV file: of each sentence, and of each converted recording if conversion is requested."""
        from mtl.inference.conversion import Converter
        from mtl.inference.synthesizer import Synthesizer

        converts = first_with_answer(self.predictor.model.config.tasks, "phones") is not None
        converter = Converter(self.predictor) if converts else None
        voice = converter.voice if converter else Synthesizer(self.predictor)
        speaker, emotion = (str(params.get(name, "")) or None for name in ("speaker", "emotion"))
        texts = [text for text in inputs if isinstance(text, str)]
        speech = iter(voice.say(texts, speaker, emotion, float(params.get("rate", 1.0))))
        sounds: list[str | None] = []
        for one in inputs:
            if isinstance(one, str):
                sounds.append(encode(next(speech), voice.features.sample_rate))
            elif isinstance(one, np.ndarray) and converter and (speaker or emotion):
                sounds.append(_converted(converter, one, speaker, emotion))
            else:
                sounds.append(None)
        return sounds

    def _resynthesised(self, inputs: list[Input]) -> list[str | None]:
        """Each recording, resynthesised from its log-mel, as base64 of a WAV file; None for a sentence."""
        from mtl.audio.features import log_mel
        from mtl.audio.pitch import pitch
        from mtl.inference.vocoding import VocoderWrapper

        vocoder, spec = VocoderWrapper.of(self.predictor), self.predictor.features

        def resynthesised(wave: np.ndarray) -> str:
            features, contour = (torch.from_numpy(function(wave, spec)) for function in (log_mel, pitch))
            return encode(vocoder(features, contour), spec.sample_rate)

        return [resynthesised(one) if isinstance(one, np.ndarray) else None for one in inputs]


def _converted(converter: Converter, wave: np.ndarray, speaker: str | None, emotion: str | None) -> str | None:
    """A converted recording as base64 of a WAV file; None if no phone is recognised in it."""
    from mtl.audio.pitch import pitch
    from mtl.inference.conversion import ConversionError

    spec = converter.voice.features
    try:
        (converted,) = converter.convert([wave], emotion, speaker, [pitch(wave, spec)])
    except ConversionError:
        return None
    return encode(converted.samples, spec.sample_rate)


def base_folder(about: About) -> Path:
    """The Predictor folder of an adapter's base: MOTET_BASE, or a download from the registry of MLflow."""
    uri = f"models:/{about.base}/{about.version}"
    folder = Path(os.environ.get("MOTET_BASE") or mlflow.artifacts.download_artifacts(uri))
    packaged = folder / "artifacts" / ARTIFACT
    return packaged if packaged.is_dir() else folder


def as_table(predictions: list[Prediction], tasks: tuple[str, ...], index: Any = None) -> pd.DataFrame:
    """Predictions as a table with the columns of each task."""
    columns: dict[str, list[Any]] = {}
    for task in tasks:
        answers = (prediction.answers.get(task) for prediction in predictions)
        cells = [answer.cells(task) if answer else {} for answer in answers]
        for name, kind in KINDS[task_spec(task).answer].columns(task).items():
            values = (row.get(name) for row in cells)
            columns[name] = [_json(value) if kind == "json" else value for value in values]
    # As objects, None stays None; as pandas' types it becomes NaN, which a server writes into its JSON.
    return pd.DataFrame(columns, index=index, dtype=object)


def encode(samples: np.ndarray, rate: int) -> str:
    """(N,) float32 within [-1, 1] as base64 of a 16-bit WAV file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def decode(recording: bytes | str, sample_rate: int) -> np.ndarray:
    """A recording (bytes or path) as (N,) float32 at `sample_rate` Hz, channels averaged."""
    import soundfile
    import soxr

    source = recording if isinstance(recording, str) else io.BytesIO(recording)
    with soundfile.SoundFile(source) as file:
        if file.frames > MAX_SECONDS * file.samplerate:
            raise ValueError(f"{file.frames / file.samplerate:.0f} s long, at most {MAX_SECONDS:.0f} s are read")
        waveform, rate = file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    if not len(waveform) or not np.isfinite(waveform).all():
        raise ValueError("it is empty, or has samples that are not finite")
    return waveform if rate == sample_rate else soxr.resample(waveform, rate, sample_rate, quality="HQ")


def _input(row: dict[str, Any], number: int, sample_rate: int) -> Input:
    columns = ("audio", "text", *(column.name for column in input_columns()))
    cells = {name: row[name] for name in columns if isinstance(row.get(name), str)}
    if len(cells) != 1:
        present = "both " + " and ".join(map(repr, cells)) if cells else "neither " + " nor ".join(map(repr, columns))
        raise ValueError(
            f"row {number} has {present}, expected one of them: base64 of a sound file or its path; a sentence"
        )
    ((name, cell),) = cells.items()
    if name == "text":
        return cell
    if name != "audio":
        return {name: _file(cell, name, number)}
    import soundfile

    try:
        return decode(_recording(cell), sample_rate)
    except (ValueError, OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"row {number}: its 'audio' cannot be read: {error}") from None


def _file(cell: str, column: str, number: int) -> str:
    """Base64 of a file of another input group; the cell is its path or content."""
    try:
        content = _recording(cell)
    except ValueError as error:
        raise ValueError(f"row {number}: its {column!r} cannot be read: {error}") from None
    return base64.b64encode(Path(content).read_bytes() if isinstance(content, str) else content).decode()


def _turns(row: dict[str, Any], number: int) -> list[str]:
    """The earlier turns, oldest first; none if the cell is empty."""
    cell = row.get("context")
    if cell is None or isinstance(cell, float):  # an empty cell is NaN in pandas
        return []
    turns = [cell] if isinstance(cell, str) else list(cell)
    if not all(isinstance(turn, str) for turn in turns):
        raise ValueError(f"row {number}: its 'context' is {cell!r:.80}, expected a list of the turns before")
    return turns


def _recording(audio: str) -> bytes | str:
    """The path in a string, or the bytes that it encodes in base64 or as a data: URL."""
    if audio.startswith("data:"):
        audio = audio.partition(",")[2]
    if len(audio) < _LONGEST_PATH and paths_allowed() and Path(audio).is_file():
        return audio
    try:
        return base64.b64decode(audio, validate=True)
    except binascii.Error:
        names = "the path of a file that exists here nor base64" if paths_allowed() else "a data: URL nor base64"
        raise ValueError(f"it is neither {names}") from None


def paths_allowed() -> bool:
    serving = "mlflow.pyfunc.scoring_server.app" in sys.modules
    return not serving or os.environ.get("MOTET_SERVE_PATHS") == "1"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


mlflow.models.set_model(SpeechService())
