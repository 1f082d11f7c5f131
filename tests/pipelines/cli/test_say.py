"""`motet say`: a registered voice, to a file, to a folder, to a pipe; and what it refuses."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from typer.testing import CliRunner, Result

from motet import commands
from mtl.inference.predictor import Predictor
from mtl.inference.synthesizer import Synthesizer
from pipelines.packaging.package import describe, requirements, save_package
from pipelines.registry.registry import Registry
from pipelines.storage.store import Store
from tests.support import tiny_voice

RATE = 16000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root with a registered model that speaks, letter by letter; it has learned nothing."""
    base = tmp_path_factory.mktemp("say")
    Predictor(tiny_voice.fresh(), tiny_voice.SPEC).save(base / "model")
    Registry(Store(base / "root")).register("expressive", base / "model")
    return str(base / "root")


def say(*arguments: str) -> Result:
    model = () if "--model" in arguments else ("--model", "expressive/1")
    return CliRunner().invoke(commands.app, ["say", *arguments, *model])


def test_a_text_becomes_a_file(root: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "said.wav"
    result = say("Cab. A bac!", "-o", str(out), "--root", root, "--speaker", "y", "--emotion", "loud", "--rate", "0.5")
    assert result.exit_code == 0, result.output
    assert str(out) in result.output
    samples, rate = soundfile.read(out)
    assert rate == RATE
    assert np.abs(samples).max() > 0
    alone = tmp_path / "alone.wav"
    assert (
        say("Cab.", "-o", str(alone), "--root", root, "--speaker", "y", "--emotion", "loud", "--rate", "0.5").exit_code
        == 0
    )
    first, _ = soundfile.read(alone)
    np.testing.assert_array_equal(samples[: len(first)], first)  # sentence by sentence
    assert not samples[len(first) : len(first) + RATE // 5].any()  # and a silence between


def test_lines_become_a_folder_and_a_file_one_recording(root: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("cab\n\nab a b\n", encoding="utf-8")
    assert say("--lines", str(tmp_path / "text.txt"), "-o", str(tmp_path / "out"), "--root", root).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001.wav", "0002.wav"]
    assert say("--file", str(tmp_path / "text.txt"), "-o", str(tmp_path / "one.wav"), "--root", root).exit_code == 0
    lengths = [soundfile.info(path).frames for path in (tmp_path / "out" / "0001.wav", tmp_path / "out" / "0002.wav")]
    assert soundfile.info(tmp_path / "one.wav").frames == sum(lengths) + RATE // 4


def test_a_pipe_is_given_samples_alone(root: str, tmp_path: Path) -> None:
    result = say("cab", "-o", "-", "--root", root)
    assert result.exit_code == 0
    assert say("cab", "-o", str(tmp_path / "cab.wav"), "--root", root).exit_code == 0
    samples, _ = soundfile.read(tmp_path / "cab.wav", dtype="int16")
    piped = np.frombuffer(result.stdout_bytes, dtype="<i2")
    assert np.abs(piped.astype(int) - samples).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cab", "--speaker", "z"), "no speaker 'z'; it knows x, y"),
        (("cab", "--emotion", "calmer"), "did you mean 'calm'"),
        (("cab", "--rate", "10"), "rate is 10, expected 0.25 to 4"),
        (("...",), "nothing in the text can be said"),
        (("cab", "--model", "assistant"), "assistant"),
    ],
)
def test_what_cannot_be_said_leaves_no_file(root: str, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    result = say(*arguments, "-o", str(tmp_path / "no.wav"), "--root", root)
    assert result.exit_code == 1
    assert told in str(result.exception)
    assert not (tmp_path / "no.wav").exists()


def test_one_text_and_one_alone(root: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab", encoding="utf-8")
    assert say("--root", root).exit_code == 2
    assert say("ab", "--file", str(tmp_path / "text.txt"), "--root", root).exit_code == 2


# --- the package ---


def test_a_package_speaks(root: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    Predictor(tiny_voice.fresh(), tiny_voice.SPEC).save(folder)
    described = describe(folder)
    assert described.phonemes == "characters"
    save_package(folder, tmp_path / "package")
    needed = (tmp_path / "package" / "requirements.txt").read_text()
    assert "num2words==" in needed
    assert "espeakng-loader" not in needed  # letters need no phonemiser
    assert "espeakng-loader" in " ".join(requirements("characters", "gmw/en-us"))
    model = mlflow.pyfunc.load_model(str(tmp_path / "package"))
    given = pd.DataFrame({"text": ["cab a bac", "ab"]})
    answer = model.predict(given, params={"speaker": "y", "emotion": "loud", "rate": 2.0})
    assert list(answer.columns) == ["speech", "emotion", "emotion_confidence", "speaker", "speaker_confidence"]
    assert answer["emotion"].tolist() == [None, None]  # nothing was heard
    voice = Synthesizer(Predictor.load(folder))
    for spoken, true in zip(answer["speech"], voice.say(given["text"], "y", "loud", 2.0), strict=True):
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(spoken)))
        assert rate == RATE
        np.testing.assert_allclose(samples, true, atol=1e-4)
    with pytest.raises(Exception, match="no speaker 'z'"):
        model.predict(given, params={"speaker": "z"})


def test_a_package_that_speaks_listens_too(tmp_path: Path) -> None:
    Predictor(tiny_voice.fresh(), tiny_voice.SPEC).save(tmp_path / "model")
    save_package(tmp_path / "model", tmp_path / "package")
    file = io.BytesIO()
    soundfile.write(file, 0.1 * np.sin(np.arange(8000) / 5), RATE, format="WAV")
    heard = pd.DataFrame({"audio": [base64.b64encode(file.getvalue()).decode()]})
    answer = mlflow.pyfunc.load_model(str(tmp_path / "package")).predict(heard)
    assert answer["speech"].tolist() == [None]
    assert answer["emotion"][0] in ("calm", "loud")
