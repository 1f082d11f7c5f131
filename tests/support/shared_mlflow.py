"""A small registry to change from outside: three versions of `assistant`, of which 1 and then 2 were champion.

Made once (a database of MLflow's costs 4 s) and copied for each test.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import torch

from mtl.config.features import FeatureSpec
from mtl.inference.predictor import Predictor
from mtl.models.joint import build_model
from pipelines.registry.registry import Registry
from pipelines.storage.store import Store
from tests.support import tiny

NAME = "assistant"


def predictor_folder(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    Predictor(build_model(tiny.config(), tiny.codec()), FeatureSpec(bins=tiny.BINS)).save(folder)
    return folder


def three_versions(base: Path) -> Path:
    """The root; its folder also holds weights/1 to weights/4."""
    registry = Registry(Store(base / "root"))
    for seed in range(1, 5):
        folder = predictor_folder(base / "weights" / str(seed), seed)
        if seed < 4:
            registry.register(NAME, folder)
    registry.promote(NAME, 1, "first", "me")
    registry.promote(NAME, 2, "better", "me")
    return base / "root"


def without_tags(database: Path) -> None:
    """As an earlier Motet has left it: no registered model carries a root."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM registered_model_tags")


def as_night(root: Path, number: int, folder: Path) -> None:
    """The record and the weights that a night leaves in the store of the version that it made."""
    store, name = Store(root), f"night-{number}"
    files = [f"models/{name}/{path.name}" for path in sorted(folder.iterdir())]
    for key in files:
        store.put_file(folder / key.rpartition("/")[2], key)
    result = {"name": name, "model_key": f"models/{name}", "files": files, "metrics": {}, "history": []}
    store.put_bytes(f"train/{name}/result.json", json.dumps(result).encode())
    outcome = {"name": name, "model": f"models:/{NAME}/{number}"}
    store.commit(f"nights/{NAME}", name, meta={"outcome": outcome})
