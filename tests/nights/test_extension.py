"""Two tasks of plug-ins, one file each, through a whole night as a user runs it: a label and a number."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.conftest import ROOT

pytest.importorskip("espeakng_loader", reason="the recordings are spoken by eSpeak NG: install motet[espeak]")

from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize
from pipelines.synthetic.voices import Voice

ACCENTS = {"american": "gmw/en-us", "scottish": "gmw/en-GB-scotland"}
PITCHES = {20: 90, 40: 50, 60: 10}  # of synthetic speakers, by their age
RECIPE = """
name: accents
corpora:
  - {name: calls, kind: manifest, source: calls.csv, language: en}
tasks: {accent: {}, age: {}}
features: {sample_rate: 8000, high_hz: 3800, bins: 24}
model: {width: 16, blocks: 1, heads: 2, kernel: 5}
loader: {batch_seconds: 20}
trainer: {epochs: 4, learning_rate: 5.0e-3, precision: fp32, gpus: false}
interpret: {gradients: 0, probes: false}
gates: {primary: accent/accuracy}
"""


def record(folder: Path) -> None:
    """Forty sentences in each accent, a third of them by speakers of each age, and a table that names them."""
    with open(folder / "calls.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "text", "dialect", "years", "split"])
        for number in range(40):
            split = "train" if number < 28 else "valid" if number < 32 else "test"
            age = list(PITCHES)[number % 3]
            for accent, voice in ACCENTS.items():
                name, text = f"{accent}-{number}.wav", f"set a timer for {number} minutes please"
                soundfile.write(folder / name, synthesize(text, Voice(voice, pitch=PITCHES[age])), SAMPLE_RATE)
                table.writerow([name, text, accent, age, split])


def test_tasks_of_plug_ins_run_through_a_night(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "accents.yaml").write_text(RECIPE)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugins")])
    environment = {
        **os.environ,
        "MOTET_PLUGINS": "accent_task,age_task",
        "PYTHONPATH": paths,
        "PREFECT_HOME": str(tmp_path / "p"),
    }

    def motet(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "motet", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)

    night = motet("nightly", "accents.yaml", "--root", "root", "--json")
    assert night.returncode == 0, night.stderr
    outcome = json.loads(night.stdout)
    scored = {row["metric"]: row for row in outcome["table"]}
    assert set(scored) == {"accent/accuracy", "accent/balanced_accuracy", "age/mae"}
    assert scored["accent/accuracy"]["rows"] == "16"
    assert scored["age/mae"]["value"].endswith(" years")
    assert float(scored["age/mae"]["floor"]) == pytest.approx(40 / 3, abs=2)  # around the median
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert "accent/accuracy" in page
    assert "scottish" in page
    assert "age/mae" in page
    answer = motet("predict", "scottish-39.wav", "--model", "accents/1", "--root", "root", "--json")
    assert answer.returncode == 0, answer.stderr
    (prediction,) = json.loads(answer.stdout)
    assert prediction["accent"]["value"] in ACCENTS
    assert prediction["age"]["unit"] == "years"
    assert 0 < prediction["age"]["value"] < 80
    environment.pop("MOTET_PLUGINS")
    unknown = motet("nightly", "accents.yaml", "--root", "root")
    assert unknown.returncode == 2
    assert "tasks.accent" in unknown.stderr
