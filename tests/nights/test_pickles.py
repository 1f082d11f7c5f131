"""No command leaves a pickle under a root: whoever could write there would run code where it is read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.support.pickles import pickles, plant


def test_pickles_are_found_by_their_content(tmp_path: Path) -> None:
    root = tmp_path / "root"
    plant(root / "tuner.pkl", tmp_path / "marker")
    plant(root / "state" / "renamed.json", tmp_path / "marker")
    torch.save({"w": torch.ones(2)}, root / "weights.bin")
    np.savez(root / "objects.npz", names=np.array([{"a": 1}], dtype=object))
    np.save(root / "objects.npy", np.array([{"a": 1}], dtype=object))
    whole = {"tuner.pkl", "state/renamed.json", "weights.bin", "objects.npz", "objects.npy"}
    save_file({"w": np.ones(2, np.float32)}, root / "model.safetensors")
    np.savez(root / "numbers.npz", w=np.ones(2))
    (root / "plan.json").write_text("{}")
    (root / "sound.raw").write_bytes(b"\x80\x00\x01 no opcodes" * 9)
    assert set(pickles(root)) == whole
    assert not (tmp_path / "marker").exists()  # looking for them reads none
    pickle.loads((root / "tuner.pkl").read_bytes())
    assert (tmp_path / "marker").exists()


def test_a_night_leaves_none(finished_night: Any) -> None:
    assert pickles(finished_night.root) == []
