"""Pictures of digits beside spoken digits in one joint model: an input group and two tasks from a plug-in."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import ROOT

pytest.importorskip("espeakng_loader", reason="the digits are spoken by eSpeak NG: install motet[espeak]")

from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize
from pipelines.synthetic.voices import Voice

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VARIANTS = ("m1", "m3", "m7", "f1", "f2", "f4")
PICTURES = 500
RECIPE = """
name: digits
corpora:
  - {name: digits, kind: manifest, source: digits.csv, language: en}
tasks: {digit_picture: {}, spoken_digit: {}}
features: {sample_rate: 8000, high_hz: 3800, bins: 24}
model: {width: 32, blocks: 1, heads: 2, kernel: 5}
loader: {batch_seconds: 15}
trainer: {epochs: 12, learning_rate: 5.0e-3, precision: fp32, gpus: false}
interpret: {gradients: 0, probes: false}
gates: {primary: digit_picture/accuracy}
"""


def split_of(number: int) -> str:
    return "test" if number % 5 == 0 else "valid" if number % 5 == 1 else "train"


def write_corpus(folder: Path) -> None:
    """Pictures without a word, recordings without a picture, and one file that is no picture."""
    pictures = load_digits()
    with open(folder / "digits.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "image", "text", "digit", "split"])
        for number, (pixels, digit) in enumerate(zip(pictures.images[:PICTURES], pictures.target, strict=False)):
            name = f"{number}.png"
            Image.fromarray((pixels * 15).astype("uint8")).save(folder / name)
            table.writerow(["", name, "", digit, split_of(number)])
        for digit, word in enumerate(WORDS):
            for number, variant in enumerate(VARIANTS):
                name = f"{word}-{variant}.wav"
                soundfile.write(folder / name, synthesize(word, Voice("gmw/en-us", variant)), SAMPLE_RATE)
                table.writerow([name, "", word, digit, split_of(number)])
        (folder / "broken.png").write_bytes(b"no picture")
        table.writerow(["", "broken.png", "", 3, "train"])


def test_pictures_and_recordings_train_one_model(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "digits.yaml").write_text(RECIPE)
    environment = {
        **os.environ,
        "MOTET_PLUGINS": "pictures",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")]),
        "PREFECT_HOME": str(tmp_path / "p"),
    }

    def motet(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "motet.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    outcome = json.loads(motet("nightly", "digits.yaml", "--root", "root", "--json"))
    scores = {row["metric"]: row for row in outcome["table"]}
    print(json.dumps(outcome["table"], indent=1))
    assert set(scores) == {"digit_picture/accuracy", "spoken_digit/accuracy"}
    assert scores["digit_picture/accuracy"]["rows"] == str(PICTURES // 5)
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert "digit_picture/accuracy" in page
    assert "spoken_digit/accuracy" in page
    answers = json.loads(motet("predict", "0.png", "zero-m1.wav", "--model", "digits/1", "--root", "root", "--json"))
    assert [set(answer) - {"input", "model", "text", "words"} for answer in answers] == [
        {"digit_picture"},
        {"spoken_digit"},
    ]
