"""The package that MLflow serves: loads with little besides torch and mlflow, holds no pickle, answers as Predictor."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch

from mtl.config.features import FeatureSpec
from mtl.inference.predictor import Predictor, features_of
from mtl.models.joint import build_model
from pipelines.packaging.package import PackageError, describe, predictor_folder, save_package
from pipelines.sources.audio import decode
from tests.support import tiny

# What a serving machine need not have. pyarrow stays: mlflow itself wants it.
ABSENT = ("ray", "prefect", "torchjd", "pipelines", "flows", "jiwer", "sentencepiece", "s3fs", "pydantic_settings")
SERVER_SECONDS = 120.0

LOADS = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import mlflow, pandas
model = mlflow.pyfunc.load_model({package!r})
print("ANSWER", model.predict(pandas.DataFrame({rows!r})).to_json(orient="records"))
print("MTL", sys.modules["mtl"].__file__)
"""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(1)
    return Predictor(build_model(tiny.config(), tiny.codec()), FeatureSpec(bins=tiny.BINS))


@pytest.fixture(scope="module")
def package(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("package")
    predictor.save(base / "1f0c")
    save_package(base / "1f0c", base / "package")
    return base / "package"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise that rises and falls: FLAC at 16 kHz, and stereo WAV at 22,050 Hz."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    flac, wav = folder / "a.flac", folder / "b.wav"
    soundfile.write(flac, 0.3 * rng.normal(size=16000).clip(-3, 3) * np.hanning(16000), 16000)
    soundfile.write(wav, 0.1 * rng.normal(size=(30000, 2)).clip(-3, 3), 22050)
    return [flac, wav]


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def expected(predictor: Predictor, recordings: list[Path], sentence: str) -> list[dict[str, Any]]:
    """What Predictor says of the recordings, as the project's own decoder reads them, and of the sentence."""
    waveforms = [decode(path, predictor.features.sample_rate) for path in recordings]
    found = []
    for prediction in predictor.predict([*waveforms, sentence]):
        words = json.dumps([asdict(word) for word in prediction.words]) if prediction.words else None
        row: dict[str, Any] = {"text": prediction.text, "words": words, "n_best": None}
        for task in ("intent", "domain", "speaker"):
            label = prediction.labels.get(task)
            row |= {task: label.value if label else None, f"{task}_confidence": label.confidence if label else None}
        row["slots"] = json.dumps([{"slot": slot, "value": value} for slot, value in prediction.slots])
        found.append(row)
    return found


def flat(words: str) -> dict[str, float | str]:
    return {f"{n}/{key}": value for n, word in enumerate(json.loads(words)) for key, value in word.items()}


def agree(answer: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(answer) == len(wanted)
    for given, row in zip(answer, wanted, strict=True):
        assert set(given) == set(row)
        for column, value in row.items():
            if isinstance(value, float):
                assert given[column] == pytest.approx(value, abs=1e-4), column
            elif column == "words" and value:
                assert flat(given[column]) == pytest.approx(flat(value), abs=1e-4)
            else:
                assert given[column] == value, column


def test_loads_where_nothing_of_the_pipeline_is_installed(
    predictor: Predictor, package: Path, recordings: list[Path], tmp_path: Path
) -> None:
    sentence = "play soft jazz"
    rows = {"audio": [encoded(recordings[0]), str(recordings[1]), None], "text": [None, None, sentence]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOADS.format(absent=set(ABSENT), package=str(package), rows=rows)],
        cwd=tmp_path,  # not the project's folder: `mtl` has to come out of the package
        env={**environment, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("ANSWER", "MTL")))
    assert Path(lines["MTL"]).is_relative_to(package)
    agree(json.loads(lines["ANSWER"]), expected(predictor, recordings, sentence))


def test_serves_a_request(predictor: Predictor, package: Path, recordings: list[Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", str(package), "--env-manager", "local", "--host", "127.0.0.1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)],
            cwd=tmp_path,
            env={**environment, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/ping", server, log)
        records = [
            {"audio": encoded(recordings[0]), "text": None},
            {"audio": encoded(recordings[1]), "text": None},
            {"audio": None, "text": "play soft jazz"},
        ]
        reply = httpx.post(f"{url}/invocations", json={"dataframe_records": records}, timeout=60)
        assert reply.status_code == 200, reply.text
        agree(reply.json()["predictions"], expected(predictor, recordings, "play soft jazz"))
        asked = {"hot_words": ["soft jazz"], "hot_weight": 9.0, "n_best": 2}
        body = {"dataframe_records": records[:1], "params": asked}
        reply = httpx.post(f"{url}/invocations", json=body, timeout=60)
        assert reply.status_code == 200, reply.text
        (heard,) = predictor.with_options(["soft jazz"], 9.0, 2).predict([decode(recordings[0], 16000)])
        texts = [other["text"] for other in json.loads(reply.json()["predictions"][0]["n_best"])]
        assert texts == [other.text for other in heard.alternatives]
        assert len(texts) == 2
        # A column that no row needs may be left out.
        reply = httpx.post(f"{url}/invocations", json={"dataframe_records": [{"text": "stop now"}]}, timeout=60)
        assert reply.json()["predictions"][0]["intent"] == predictor.predict(["stop now"])[0].labels["intent"].value
        # Nor does a server read its own files for whoever asks.
        for audio in ("not a file", str(recordings[0])):
            refused = httpx.post(f"{url}/invocations", json={"dataframe_records": [{"audio": audio}]}, timeout=60)
            assert refused.status_code == 400
            assert "row 0: its 'audio' cannot be read: it is neither a data: URL nor base64" in refused.text
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)  # between two tries; nothing depends on how long
    raise AssertionError(f"the server did not come up:\n{log.read_text()[-3000:]}")


def test_holds_no_pickle_and_says_what_it_needs(package: Path) -> None:
    import mlflow

    suffixes = {path.suffix for path in package.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc"}
    for path in package.rglob("*"):
        assert not path.is_file() or not path.read_bytes().startswith(b"\x80"), f"{path} looks like a pickle"
    needs = (package / "requirements.txt").read_text().splitlines()
    assert all("==" in line and "+" not in line for line in needs)
    assert {"torch", "mlflow", "soundfile", "soxr", "safetensors"} <= {line.split("==")[0] for line in needs}
    signature = mlflow.models.get_model_info(str(package)).signature
    assert signature.inputs.input_names() == ["audio", "text"]
    assert signature.inputs.required_input_names() == []
    assert signature.outputs.input_names() == [
        *(
            "text",
            "words",
            "n_best",
            "intent",
            "intent_confidence",
            "slots",
            "domain",
            "domain_confidence",
            "speaker",
            "speaker_confidence",
        )
    ]


def test_the_example_of_the_package_can_be_answered(package: Path) -> None:
    import mlflow

    model = mlflow.pyfunc.load_model(str(package))
    answer = model.predict(model.input_example)
    assert list(answer.columns) == model.metadata.signature.outputs.input_names()
    assert answer["intent"][0] in tiny.codec().labels["intent"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"audio": None, "text": None}, "row 0 has neither 'audio' nor 'text'"),
        ({"audio": "AAAA", "text": "stop"}, "row 0 has both"),
        ({"audio": "/no/such/file.wav", "text": None}, "row 0: its 'audio' cannot be read"),
        ({"audio": base64.b64encode(b"RIFF, or so").decode(), "text": None}, "row 0: its 'audio' cannot be read"),
        ({"audio": "", "text": None}, "row 0: its 'audio' cannot be read"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named(package: Path, row: dict[str, Any], told: str) -> None:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(package))
    with pytest.raises(ValueError, match=told):
        model.predict(pd.DataFrame([row]).astype("string"))


def test_empty_and_endless_recordings_are_refused() -> None:
    from pipelines.packaging import packaged_model

    for samples, told in ((0, "empty"), (8000 * 601, "601 s long, at most 600 s")):
        file = io.BytesIO()
        soundfile.write(file, np.zeros(samples, dtype=np.int16), 8000, format="WAV")
        with pytest.raises(ValueError, match=told):
            packaged_model.decode(file.getvalue(), 16000)


def test_describes_and_finds_the_predictor(package: Path, predictor: Predictor, tmp_path: Path) -> None:
    inside = predictor_folder(package)
    assert predictor_folder(inside) == inside
    described = describe(inside)
    assert described.parameters == sum(parameter.numel() for parameter in predictor.model.parameters())
    assert described.tasks == tiny.TASKS
    assert features_of(inside) == predictor.features
    predictor.save(tmp_path / "copy")
    assert describe(tmp_path / "copy").address == described.address
    with pytest.raises(PackageError, match="holds neither"):
        predictor_folder(tmp_path)
