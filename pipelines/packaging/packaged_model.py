"""What MLflow serves: a trained model behind a table of inputs, as code beside safetensors, without pickle.

    model = mlflow.pyfunc.load_model("models:/assistant@champion")
    model.predict(pandas.DataFrame({"text": ["turn on the light"]}))
    model.predict(pandas.DataFrame({"audio": [base64 of a WAV or FLAC file, or the path of one]}))
    model.predict(pandas.DataFrame({"text": ["yes"], "context": [["wake me at seven", "tomorrow at seven"]]}))
    model.predict(pandas.DataFrame({"text": ["Dinner is ready."]}), params={"emotion": "sad"})["speech"]   # base64, WAV
    model.predict(recordings, params={"hot_words": ["anna karenina"], "hot_weight": 1.0, "n_best": 3})

MLflow stores this file in the package (models-from-code) with `mtl` and the folder of the Predictor beside it. It is
run wherever the package is loaded, so it imports nothing but mtl, numpy, pandas, mlflow and, for sound,
soundfile and soxr (to speak, num2words and eSpeak NG): no Ray, no Prefect, and nothing else of pipelines.

A user's adapter (mtl.inference.adaptation) is packaged with this file too. Its base is not in the package: it
is the registry's
models:/<base>/<version>, or the folder that MOTET_BASE names, and must be the very one that the adapter was made for.

A server (`mlflow models serve`) takes base64 alone: whoever can send it a request must not choose which of its
files are read. MOTET_SERVE_PATHS=1 allows paths there too.
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
MAX_SECONDS = 600.0  # of one recording: a served model must not be made to swallow a day of audio
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
        """`speech`, base64 of a WAV file: of sentences, where the model speaks; of recordings, converted, where it
        hears phones and a speaker or emotion is asked for; a vocoder gives recordings back. A column `text`, each task,
        `<task>_confidence`; `words` with their times, `slots` and, where more than one transcript is wanted, `n_best`
        as JSON; null where a task is silent.

        Raises:
            ValueError: a row with neither or both inputs, or a recording that cannot be read; it names the row.
        """
        rate = self.predictor.features.sample_rate
        params = {name: value for name, value in (params or {}).items() if value is not None}
        predictor = self.predictor.listening(
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
            table.insert(0, "speech", self._spoken(inputs, params))
        elif makes_sound(config.tasks):
            table.insert(0, "speech", self._resounded(inputs))
        return table

    def _spoken(self, inputs: list[Input], params: dict[str, Any]) -> list[str | None]:
        """Each sentence as base64 of a WAV file, and each recording, converted, if that is asked for; else None."""
        from mtl.inference.conversion import Converter
        from mtl.inference.synthesizer import Synthesizer

        converts = first_with_answer(self.predictor.model.config.tasks, "phones") is not None
        converter = Converter(self.predictor) if converts else None
        voice = converter.voice if converter else Synthesizer(self.predictor)
        who, how = (str(params.get(name, "")) or None for name in ("speaker", "emotion"))
        texts = [text for text in inputs if isinstance(text, str)]
        speech = iter(voice.say(texts, who, how, float(params.get("rate", 1.0))))
        sounds: list[str | None] = []
        for one in inputs:
            if isinstance(one, str):
                sounds.append(encode(next(speech), voice.features.sample_rate))
            elif isinstance(one, np.ndarray) and converter and (who or how):
                sounds.append(_converted(converter, one, who, how))
            else:
                sounds.append(None)
        return sounds

    def _resounded(self, inputs: list[Input]) -> list[str | None]:
        """Each recording as a vocoder makes it anew of its log-mel, base64 of a WAV file; None for a sentence."""
        from mtl.audio.features import log_mel
        from mtl.audio.pitch import pitch
        from mtl.inference.vocoding import VocoderWrapper

        sounding, spec = VocoderWrapper.of(self.predictor), self.predictor.features

        def again(wave: np.ndarray) -> str:
            line = torch.from_numpy(pitch(wave, spec))
            return encode(sounding(torch.from_numpy(log_mel(wave, spec)), line), spec.sample_rate)

        return [again(one) if isinstance(one, np.ndarray) else None for one in inputs]


def _converted(converter: Converter, wave: np.ndarray, who: str | None, how: str | None) -> str | None:
    """A recording said again, base64 of a WAV file; None where nothing is heard in it."""
    from mtl.audio.pitch import pitch
    from mtl.inference.conversion import ConversionError

    spec = converter.voice.features
    try:
        (converted,) = converter.convert([wave], how, who, [pitch(wave, spec)])
    except ConversionError:
        return None
    return encode(converted.samples, spec.sample_rate)


def base_folder(about: About) -> Path:
    """The Predictor folder of an adapter's base: what MOTET_BASE names, or from the registry that MLflow is set to."""
    given = os.environ.get("MOTET_BASE") or mlflow.artifacts.download_artifacts(f"models:/{about.base}/{about.version}")
    packaged = Path(given) / "artifacts" / ARTIFACT
    return packaged if packaged.is_dir() else Path(given)


def as_table(predictions: list[Prediction], tasks: tuple[str, ...], index: Any = None) -> pd.DataFrame:
    """Predictions as a table with a column or two per task of the model."""
    columns: dict[str, list[Any]] = {}
    for task in tasks:
        answers = (prediction.answers.get(task) for prediction in predictions)
        cells = [answer.cells(task) if answer else {} for answer in answers]
        for name, kind in KINDS[task_spec(task).answer].columns(task).items():
            values = (row.get(name) for row in cells)
            columns[name] = [_json(value) if kind == "json" else value for value in values]
    # As objects, None stays None. As pandas' own types it becomes NaN, which a server writes into what it calls JSON.
    return pd.DataFrame(columns, index=index, dtype=object)


def encode(samples: np.ndarray, rate: int) -> str:
    """(N,) float32 within [-1, 1] as base64 of a 16-bit WAV file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def decode(recording: bytes | str, sample_rate: int) -> np.ndarray:
    """A recording's bytes, or the path of one, as (N,) float32 at `sample_rate` Hz, channels averaged."""
    import soundfile
    import soxr

    source = recording if isinstance(recording, str) else io.BytesIO(recording)
    with soundfile.SoundFile(source) as file:
        if file.frames > MAX_SECONDS * file.samplerate:
            raise ValueError(f"{file.frames / file.samplerate:.0f} s long, at most {MAX_SECONDS:.0f} s are read")
        waveform, rate = file.read(dtype="float32", always_2d=True).mean(axis=1), file.samplerate
    if not len(waveform) or not np.isfinite(waveform).all():
        raise ValueError("it is empty, or holds samples that are not finite")
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
    """Base64 of the file of a further input group, of which the cell is the path or the content."""
    try:
        content = _recording(cell)
    except ValueError as error:
        raise ValueError(f"row {number}: its {column!r} cannot be read: {error}") from None
    return base64.b64encode(Path(content).read_bytes() if isinstance(content, str) else content).decode()


def _turns(row: dict[str, Any], number: int) -> list[str]:
    """The turns before, oldest first; none where the cell is empty."""
    given = row.get("context")
    if given is None or isinstance(given, float):  # NaN is how pandas leaves a cell empty
        return []
    turns = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(turn, str) for turn in turns):
        raise ValueError(f"row {number}: its 'context' is {given!r:.80}, expected a list of the turns before")
    return turns


def _recording(audio: str) -> bytes | str:
    """The file that a string names, or the bytes that it encodes; also as a data: URL."""
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
