"""A root that version 0.1 made: the present version trains nothing anew, and reads, serves and rolls on what is there.

tests/stores/v0.1.tar.xz holds that root (commit bb069f4) after a night of old.yaml and one of oldvoice.yaml, without
reports. The recipes lie beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the old root's corpora are spoken by eSpeak NG: install motet[espeak]")
pytest.importorskip("parselmouth", reason="the extra motet[speech] is not installed")

import flows
from mtl.inference.synthesizer import Synthesizer
from pipelines.registry.registry import Registry
from pipelines.storage import fsck
from pipelines.storage.garbage import collect_garbage
from pipelines.storage.kinds import KINDS
from pipelines.storage.store import Store

STORES = Path(__file__).parents[1] / "stores"


@pytest.fixture(scope="module")
def old_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "root"
    with tarfile.open(STORES / "v0.1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize(("recipe", "identity"), [("old", "d0a68376873b6478"), ("oldvoice", "533ec9963c018757")])
def test_a_night_of_the_old_version_is_found_done(
    old_root: Path, prefect_session: None, recipe: str, identity: str
) -> None:
    outcome = flows.nightly(str(STORES / f"{recipe}.yaml"), root=str(old_root))
    assert (outcome["state"], outcome["identity"]) == ("nothing new", identity)
    assert outcome["model"] == f"models:/{recipe}/1"
    assert outcome["promoted"] is True
    store = Store(str(old_root))
    assert [version.version for version in store.versions(f"nights/{recipe}")] == [1]
    assert {dataset: len(store.versions(dataset)) for dataset in store.datasets()} == dict.fromkeys(store.datasets(), 1)


def test_the_old_champion_answers(old_root: Path) -> None:
    registry = Registry(str(old_root))
    champion = registry.champion("old")
    assert champion is not None
    assert champion.version == 1
    predictor = registry.load("models:/old@champion")
    heard, read = predictor.predict([np.zeros(8000, dtype=np.float32), "turn on the light"])
    assert set(heard.labels) >= {"speaker", "emotion", "intent"}
    assert read.labels["intent"].value in predictor.codec.labels["intent"]
    assert read.tags is not None
    assert len(read.tags) == 4


def test_the_old_voice_speaks(old_root: Path) -> None:
    voice = Synthesizer(Registry(str(old_root)).load("models:/oldvoice@champion"))
    (samples,) = voice.say(["turn on the light"])
    assert len(samples) > 500
    assert np.isfinite(samples).all()


SERVE = """
import sys, mlflow, pandas
served = mlflow.pyfunc.load_model(sys.argv[1])
print(served.predict(pandas.DataFrame({"text": ["turn on the light"]}))["intent"][0])
"""


def test_the_old_package_is_served(old_root: Path, tmp_path: Path) -> None:
    """By its own copy of mtl, in a process of its own, as `mlflow models serve` has it."""
    registry = Registry(str(old_root))
    folder = registry.folder("models:/old@champion").parents[1]
    command = [sys.executable, "-c", SERVE, str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in registry.load("models:/old@champion").codec.labels["intent"]


def test_a_new_candidate_is_judged_against_the_old_champion(
    old_root: Path, tmp_path: Path, ray_session: Any, prefect_session: None
) -> None:
    root = tmp_path / "root"
    shutil.copytree(old_root, root)
    outcome = flows.nightly(str(STORES / "old.yaml"), root=str(root), overrides=["seed=1"])
    assert (outcome["state"], outcome["model"]) == ("trained", "models:/old/2")
    assert outcome["champion"] == "old v1"
    store = Store(str(root))
    assert len(store.versions("utterances/commands")) == 1
    (features,) = [
        dataset for dataset in store.datasets() if dataset.startswith("features/") and "/commands" in dataset
    ]
    assert len(store.versions(features)) == 1


def test_nothing_of_an_old_root_is_garbage(old_root: Path) -> None:
    store = Store(str(old_root))
    kinds = {dataset.partition("/")[0] for dataset in store.datasets()}
    assert kinds == set(KINDS) - {"quarantine"}
    assert collect_garbage(store, older_than_hours=-1) == []
    problems = fsck.check(store).problems
    assert {problem.state for problem in problems if not problem.file.key.startswith("reports/")} == {"unknown"}
    repaired = fsck.repair(store, problems)  # records the checksums that version 0.1 did not know
    assert all(problem.repaired for problem in repaired if problem.state == "unknown")
    left = [problem.file.key for problem in fsck.check(store).problems]
    assert all(key.startswith("reports/") for key in left)  # which the archive leaves out
