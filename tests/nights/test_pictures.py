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

from pipelines.storage.store import Store
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
loader: {batch_seconds: 15, batch_tokens: 1200}
trainer: {epochs: 20, learning_rate: 1.0e-2, precision: fp32, gpus: false}
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
        command = [sys.executable, "-m", "motet", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    outcome = json.loads(motet("nightly", "digits.yaml", "--root", "root", "--json"))
    scores = {row["metric"]: row for row in outcome["table"]}
    assert {metric: row["rows"] for metric, row in scores.items()} == {
        "digit_picture/accuracy": "100",
        "spoken_digit/accuracy": "20",
    }
    assert float(scores["digit_picture/accuracy"]["low"]) > 50 > 2 * float(scores["digit_picture/accuracy"]["floor"])
    assert float(scores["spoken_digit/accuracy"]["low"]) > float(scores["spoken_digit/accuracy"]["floor"])
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert all(metric in page for metric in scores)
    table = Store(str(tmp_path / "root")).latest("utterances/digits")
    assert table is not None
    assert table.meta["rows"] == PICTURES + len(WORDS) * len(VARIANTS)
    assert table.meta["reasons"] == {"undecodable": 1}
    answers = json.loads(motet("predict", "0.png", "zero-m1.wav", "--model", "digits/1", "--root", "root", "--json"))
    for answer, task in zip(answers, ("digit_picture", "spoken_digit"), strict=True):
        assert set(answer) - {"input", "model", "text", "words"} == {task}
        assert answer[task]["value"] in set("0123456789")
