"""Checkpoints of a run in the store: which are whole, which one a run goes on from, and how Ray ranks them."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch

from mtl.training import checkpoint
from pipelines.recipe import parse
from pipelines.storage.store import Store
from pipelines.training.checkpoint_scores import SCORE, WORST, ranked, score, unranked
from pipelines.training.checkpoints import HISTORY, SNAPSHOT, folders, resume_from
from pipelines.training.prepare import Job
from pipelines.training.results import Incomplete, _whole, best
from tests.support import small_night
from tests.support.buckets import new_bucket


def test_what_may_not_be_shipped_is_ranked_last_in_either_order() -> None:
    stages = [{"name": "ear", "tasks": ["transcript"], "epochs": 2}, {"name": "b", "tasks": ["intent"], "epochs": 1}]
    lower = small_night.recipe(curriculum=stages)
    assert score({"epoch": 4.0, "valid/transcript/wer": 80.0}, lower) == 80.0
    higher = parse({**small_night.RECIPE, "gates": {"primary": "intent/accuracy"}})
    for recipe, metric, worst in ((lower, "transcript/wer", WORST["min"]), (higher, "intent/accuracy", WORST["max"])):
        assert ranked({}, recipe) == {SCORE: worst}  # in mid-epoch
        assert ranked({"epoch": 5.0, f"valid/{metric}": math.nan}, recipe)[SCORE] == worst
        assert ranked({"epoch": 5.0}, recipe) == {"epoch": 5.0, SCORE: worst}
        assert ranked({"epoch": 5.0, f"valid/{metric}": 3.0}, recipe)[SCORE] == 3.0
        assert math.isfinite(worst)  # Ray's snapshot turns infinity into null
    assert ranked({"epoch": 3.0, "valid/transcript/wer": 1.0}, lower)[SCORE] == WORST["min"]  # not the last stage
    assert unranked(ranked({}, lower)) == {}


def save_checkpoints(store: Store, name: str, *figures: float) -> list[Path]:
    """Folders of one checkpoint an epoch, as the workers of a run write them."""
    rows = [{"epoch": float(n), "step": 2.0 * n, "valid/transcript/wer": wer} for n, wer in enumerate(figures, 1)]
    for number in range(1, len(rows) + 1):
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint.save(scratch, {"w": torch.ones(3), "step": 2 * number}, {HISTORY: rows[:number]})
            for path in Path(scratch).iterdir():
                store.put_file(path, f"train/{name}/checkpoint_{number}/{path.name}")
    return [Path(store.root) / f"train/{name}/checkpoint_{number}" for number in range(1, len(rows) + 1)]


def test_a_damaged_best_epoch_leaves_the_best_whole_one(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    job = Job(small_night.recipe(epochs=4), [], [], store, {})
    paths = save_checkpoints(store, "night", 50.0, 30.0, 40.0, 60.0)
    assert best(_whole(job, "night"), job.recipe)[0].row["epoch"] == 2
    small_night.truncate(paths[1] / HISTORY)
    chosen, history = best(_whole(job, "night"), job.recipe)
    assert (chosen.row["epoch"], len(history)) == (3, 4)
    assert "checkpoint_2: history.json has" in caplog.text
    (paths[3] / "state.json").unlink()
    with pytest.raises(Incomplete, match=r"whole checkpoint of epoch 4 .* newest is train/night/checkpoint_3, step 6"):
        _whole(job, "night")


def test_a_run_whose_checkpoints_are_all_damaged_starts_from_the_beginning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    assert resume_from(store, "night") is None  # a new run
    assert not caplog.text
    first, second = save_checkpoints(store, "night", 50.0, 30.0)
    assert resume_from(store, "night") == "train/night/checkpoint_2"  # Ray's snapshot is lost
    (second / HISTORY).unlink()
    assert resume_from(store, "night") == "train/night/checkpoint_1"
    assert folders(store, "night") == ["train/night/checkpoint_1"]  # the damaged one is gone
    store.put_bytes(f"train/night/{SNAPSHOT}", b"{")
    store.put_bytes("train/night/codec.json", b"{}")
    assert resume_from(store, "night") == "train/night/checkpoint_1"
    assert not store.exists(f"train/night/{SNAPSHOT}")
    assert store.exists("train/night/codec.json")
    small_night.truncate(first / "digests.json")
    assert resume_from(store, "night") is None
    assert "night starts from the beginning" in caplog.text
    assert folders(store, "night") == []


@pytest.mark.parametrize("remote", [False, True])
def test_rays_snapshot_is_used_where_it_and_its_latest_checkpoint_are_whole(tmp_path: Path, remote: bool) -> None:
    store = Store(new_bucket() if remote else tmp_path)
    save_checkpoints(store, "night", 50.0, 30.0)
    state = {"checkpoint_dir_name": "checkpoint_2", "metrics": {"epoch": 2.0}}
    snapshot = {
        "checkpoint_results": [state],
        "checkpoint_report_indices": [0],
        "latest_checkpoint_result": state,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": 1,
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    # Without scores, as earlier versions wrote it: Ray would keep checkpoints in mid-epoch in place of the best.
    store.put_bytes(f"train/night/{SNAPSHOT}", json.dumps(snapshot).encode())
    assert resume_from(store, "night") == "train/night/checkpoint_2"
    assert not store.exists(f"train/night/{SNAPSHOT}")

    state["metrics"] = {"epoch": 2.0, SCORE: 30.0}
    store.put_bytes(f"train/night/{SNAPSHOT}", json.dumps(snapshot).encode())
    assert resume_from(store, "night") is None  # Ray knows where to go on
    assert store.exists(f"train/night/{SNAPSHOT}")

    key = "train/night/checkpoint_2/state.safetensors"
    store.put_bytes(key, store.read_bytes(key)[:-1])
    assert resume_from(store, "night") == "train/night/checkpoint_1"
    assert not store.exists(f"train/night/{SNAPSHOT}")
    assert folders(store, "night") == ["train/night/checkpoint_1"]
