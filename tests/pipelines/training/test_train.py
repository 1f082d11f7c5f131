"""Training on Ray: whatever is killed on the way, the model is the one that a plain `fit` gives."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
from safetensors.torch import load_file

from mtl.training.fit import final_weights, fit
from pipelines.core.cluster import ClusterError
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe, parse
from pipelines.registry import tracking
from pipelines.storage import lock
from pipelines.storage.lease import Lease
from pipelines.storage.roots import open_root
from pipelines.storage.store import Store
from pipelines.training.checkpoints import SNAPSHOT, Saved
from pipelines.training.prepare import Job, UnlabelledTask, bounded, fit_config, labelled, prepare, sampled, trainable
from pipelines.training.resources import Share, share_of
from pipelines.training.results import best
from pipelines.training.train import TrainError, TrainResult, finished, train
from pipelines.training.vocabulary import stored_codec
from tests.support import small_night

pytest.importorskip("espeakng_loader", reason="the small night is spoken by eSpeak NG: install motet[espeak]")

LAST_EPOCH = 7  # step in the middle of it, of `brief`
OF_THE_MACHINE = {"seconds", "utterances_per_second", "padding"}  # padding is of rank 0's share


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    store = Store(str(tmp_path_factory.mktemp("train") / "store"))
    utterances, features = small_night.data(store)
    return SimpleNamespace(store=store, utterances=utterances, features=features, recipe=small_night.recipe())


def plain_fit(night: SimpleNamespace, threads: int = 1) -> tuple[list[dict[str, float]], list[dict[str, torch.Tensor]]]:
    """History and kept weights of every epoch, in this process, without Ray."""
    dataset = labelled(open_dataset(night.store, night.utterances, night.features), night.recipe)
    codec, _, settings = prepare(night.recipe, dataset)
    job = Job(night.recipe, night.utterances, night.features, night.store, codec.to_json(), threads)
    model, loader, validate = job.open()
    history, weights = [], []

    def report(metrics: dict[str, float], state: dict[str, Any] | None) -> None:
        if metrics and state:
            history.append(metrics)
            weights.append({name: tensor.clone() for name, tensor in final_weights(state).items()})

    looking = replace(settings, inspect_every=night.recipe.interpret.gradients)
    fit(model, loader, looking, report=report, validate=validate)
    return history, weights


def brief(primary: str = "transcript/wer", **trainer: Any) -> Recipe:
    """Four epochs of two steps, with a checkpoint after every step."""
    content = small_night.recipe(epochs=4, micro_batches=6, checkpoint_minutes=1e-6, **trainer).model_dump()
    return parse({**content, "gates": {"primary": primary}})


def assert_equal(store: Store, result: TrainResult, weights: dict[str, torch.Tensor]) -> None:
    stored = load_file(store.fetch(f"{result.model_key}/weights.safetensors"))
    assert stored.keys() == weights.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


def train_night(night: SimpleNamespace, name: str, workers: int = 1, **options: Any) -> TrainResult:
    recipe = small_night.recipe(workers=workers)
    return train(recipe, night.utterances, night.features, night.store, name, **options)


def test_a_run_whose_driver_and_then_a_worker_are_killed_gives_the_plain_fit(
    ray_session: Any, night: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, weights = plain_fit(night)
    assert [row["step"] for row in expected][:4] == [6, 12, 18, 24]  # what the accidents' places rest on

    # One worker, until its driver is killed in the second epoch …
    with small_night.killed_driver("train", night.store.root, "night-1"):
        folder = Path(night.store.root)
        small_night.await_files(folder / "hangs", folder / "train/night-1/checkpoint_manager_snapshot.json")
    assert finished(night.store, "night-1") is None

    # … then two workers, one of which is killed in the fourth.
    accident = small_night.loop_with_accident(tmp_path / "died", small_night.FOURTH_EPOCH, small_night.die())
    monkeypatch.setattr("pipelines.training.train.loop", accident)
    reported: list[float] = []
    run = tracking.start(night.store.root, night.recipe, "night-1")
    result = train_night(night, "night-1", workers=2, on_report=lambda row: reported.append(row["epoch"]), tracking=run)

    assert (tmp_path / "died").exists()
    assert min(reported) > 1  # nothing before the last checkpoint was done again
    assert [row["epoch"] for row in result.history] == [row["epoch"] for row in expected]
    for ours, theirs in zip(result.history, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - OF_THE_MACHINE:
            # WER and F1 move in steps of one word; everything else is a sum in another order
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    wer = [row["valid/transcript/wer"] for row in result.history]
    assert result.metrics["epoch"] == max(epoch for epoch, value in enumerate(wer, 1) if value == min(wer))
    kept = weights[int(result.metrics["epoch"]) - 1]
    stored = load_file(night.store.fetch(f"{result.model_key}/weights.safetensors"))
    assert stored.keys() == kept.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(tensor, kept[name], rtol=1e-3, atol=1e-4)
    assert {metric.step for metric in run.client.get_metric_history(run.run_id, "valid/transcript/wer")} == set(
        range(1, 7)
    )

    # Its lineage is written down, its checkpoints are gone, and asking again does nothing.
    manifest = night.store.latest("models/small")
    assert manifest is not None
    assert manifest.files == result.files
    assert manifest.parents == {m.dataset: m.address for m in (*night.utterances, *night.features)}
    assert not night.store.list("train/night-1/checkpoint")
    assert train_night(night, "night-1", on_report=reported.append) == result


def test_a_loss_that_is_not_finite_ends_the_run_at_once(ray_session: Any, night: SimpleNamespace) -> None:
    hopeless = small_night.recipe(learning_rate=1e30, warmup=0.0)
    with pytest.raises(TrainError, match=r"not finite at step \d+, on the batch of commands/") as caught:
        train(hopeless, night.utterances, night.features, night.store, "night-2")
    assert "max_failures" not in str(caught.value)  # it was not tried again
    assert finished(night.store, "night-2") is None
    assert night.store.latest("models/hopeless") is None


def test_what_cannot_start_says_what_is_missing(ray_session: Any, night: SimpleNamespace) -> None:
    crowd = small_night.recipe(micro_batches=64, workers=64)
    with pytest.raises(TrainError, match="64 CPUs required"):
        train(crowd, night.utterances, night.features, night.store, "night-4")
    silent = parse({**small_night.RECIPE, "tasks": {**small_night.RECIPE["tasks"], "speaker": {"corpora": []}}})
    with pytest.raises(TrainError, match="no training row is labelled for the task 'speaker'"):
        train(silent, night.utterances, night.features, night.store, "night-5")


def test_workers_share_the_cluster_evenly() -> None:
    one, two = [{"CPU": 16.0}], [{"CPU": 4.0}, {"CPU": 3.0}]
    assert share_of(one, 1, None) == Share(16, False)
    assert share_of(one, 3, None) == Share(5, False)
    assert share_of(two, 2, None) == Share(3, False)
    assert share_of(two, 3, None) == Share(2, False)
    assert share_of([{"CPU": 16.0, "GPU": 2.0}], 2, None) == Share(8, True)
    assert share_of([{"CPU": 16.0, "GPU": 2.0}], 4, False) == Share(4, False)
    assert share_of([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0}], 2, True) == Share(8, True)
    with pytest.raises(ClusterError, match="4 workers need 4 GPUs, the Ray cluster has 2"):
        share_of([{"CPU": 16.0, "GPU": 2.0}], 4, None)
    with pytest.raises(ClusterError, match="take fewer --workers"):
        share_of(two, 8, None)


def test_the_best_epoch_is_kept_by_the_primary_metric_and_the_later_of_equals() -> None:
    def chosen(metric: str, *values: float, primary: str = "transcript/wer", stages: int = 0) -> tuple[str, Any]:
        curriculum = [{"name": "ear", "tasks": ["transcript"], "epochs": stages}] if stages else []
        recipe = parse({**small_night.recipe(curriculum=curriculum).model_dump(), "gates": {"primary": primary}})
        rows = [{"epoch": epoch, "step": 10.0 * epoch, metric: value} for epoch, value in enumerate(values, start=1)]
        whole = [Saved(f"epoch-{epoch}", 10 * epoch, rows[:epoch]) for epoch in range(len(rows), 0, -1)]
        middle = Saved("mid-epoch", 10 * len(rows) + 5, rows)
        assert middle.row == {}
        saved, history = best([middle, *whole], recipe)
        assert history == rows
        return saved.key, saved.row

    assert chosen("valid/transcript/wer", 9.0, 7.0, 7.0, 8.0)[0] == "epoch-3"
    assert chosen("valid/transcript/wer", 9.0, 7.0, math.nan)[0] == "epoch-2"
    key, row = chosen("valid/intent/accuracy", 90.0, 97.0, 80.0, primary="intent/accuracy")
    assert (key, row) == ("epoch-2", {"epoch": 2, "step": 20.0, "valid/intent/accuracy": 97.0})
    # In the first two epochs of a curriculum some heads have not been trained, however good the recogniser.
    assert chosen("valid/transcript/wer", 5.0, 6.0, 9.0, 8.0, stages=2)[0] == "epoch-4"
    assert chosen("valid/intent/accuracy", 90.0)[0] == "mid-epoch"  # nothing has a score: the newest


def test_the_best_epoch_ships_although_checkpoints_in_mid_epoch_a_kill_and_damage_came_after_it(
    ray_session: Any,
    night: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, data = "best", (night.utterances, night.features, night.store)
    folder = Path(night.store.root) / "train" / name
    _, weights = plain_fit(SimpleNamespace(**{**vars(night), "recipe": brief()}), threads=2)
    accident = small_night.loop_with_accident(tmp_path / "died", LAST_EPOCH, small_night.die())
    loop = small_night.loop_with_figures(accident, "valid/transcript/wer", [50.0, 30.0, math.nan, 60.0])
    monkeypatch.setattr("pipelines.training.train.loop", loop)

    # A worker dies in the last epoch, and the run with it; then its newest checkpoint and Ray's snapshot are truncated.
    with pytest.raises(TrainError, match="failed more than"):
        train(brief(max_failures=0), *data, name)
    for newest in small_night.newest_checkpoints(folder):
        small_night.truncate(newest / "state.safetensors")
    small_night.truncate(folder / SNAPSHOT)
    reported: list[float] = []
    result = train(brief(), *data, name, on_report=lambda row: reported.append(row["epoch"]))

    assert re.search(r"state.safetensors has \d+ bytes, expected \d+", caplog.text)
    assert reported in ([4], [3, 4])  # the first two epochs lay in whole checkpoints
    assert result.metrics["epoch"] == 2
    figures = [row["valid/transcript/wer"] for row in result.history]
    assert figures == pytest.approx([50.0, 30.0, math.nan, 60.0], nan_ok=True)
    assert_equal(night.store, result, weights[1])


def test_a_run_that_meets_an_altered_checkpoint_goes_on_from_the_whole_one_beside_it(
    ray_session: Any,
    night: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, weights = plain_fit(SimpleNamespace(**{**vars(night), "recipe": brief()}), threads=2)
    alter = small_night.flip_and_die(Path(night.store.root) / "train/altered")
    accident = small_night.loop_with_accident(tmp_path / "died", LAST_EPOCH, alter)
    monkeypatch.setattr("pipelines.training.train.loop", accident)
    reported: list[float] = []
    result = train(
        *(brief(), night.utterances, night.features, night.store, "altered"),
        on_report=lambda row: reported.append(row["epoch"]),
    )
    assert (tmp_path / "died").exists()
    assert "was altered since it was saved" in caplog.text
    assert reported.count(1) == 1  # it did not begin again
    for ours, theirs in zip(result.history, expected, strict=True):
        names = ours.keys() - OF_THE_MACHINE
        assert {name: ours[name] for name in names} == {name: theirs[name] for name in names}
    assert_equal(night.store, result, weights[int(result.metrics["epoch"]) - 1])


def test_damaged_vocabularies_and_results_are_made_again(
    night: SimpleNamespace, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = labelled(open_dataset(night.store, night.utterances, night.features), night.recipe)
    codec = prepare(night.recipe, dataset)[0]
    assert stored_codec(store, "codec.json", lambda: codec).to_json() == codec.to_json()
    content = store.read_bytes("codec.json")
    for damaged in (content[:100], content.replace(b'"I-room"', b'"I-roam"'), b"[]"):
        assert damaged != content
        store.put_bytes("codec.json", damaged)
        assert stored_codec(store, "codec.json", lambda: codec).to_json() == codec.to_json()
        assert store.read_bytes("codec.json") == content
    assert caplog.text.count("the vocabularies are built again") == 3
    store.put_bytes("codec.json", json.dumps(codec.to_json()).encode())  # by an earlier version, without a digest
    assert stored_codec(store, "codec.json", lambda: pytest.fail("it is there")).to_json() == codec.to_json()
    store.put_bytes("train/night/result.json", b'{"name": "ni')
    assert finished(store, "night") is None
    assert "train/night/result.json is damaged" in caplog.text


def test_labels_of_corpora_that_do_not_train_a_task_are_taken_away(night: SimpleNamespace) -> None:
    dataset = open_dataset(night.store, night.utterances, night.features)
    assert labelled(dataset, night.recipe) is dataset
    tasks = {"transcript": {"corpora": []}, "intent": {}, "slots": {"corpora": ["commands"]}}
    other = labelled(dataset, parse({**small_night.RECIPE, "tasks": tasks}))
    assert other.rows["text"].null_count == len(other)
    assert other.rows["tokens"].to_pylist() == [text.split() for text in dataset.rows["text"].to_pylist()]
    assert other.rows["slots"].equals(dataset.rows["slots"])
    assert other.identity != dataset.identity
    with pytest.raises(UnlabelledTask, match="task 'transcript'"):
        prepare(parse({**small_night.RECIPE, "tasks": tasks}), other)


def test_a_share_of_the_training_labels_is_kept_and_a_larger_share_holds_a_smaller(night: SimpleNamespace) -> None:
    dataset = open_dataset(night.store, night.utterances, night.features)

    def rows_with(task: str, share: float, split: str = "train") -> set[str]:
        tasks = {**small_night.RECIPE["tasks"], task: {"labels": share}}
        rows = labelled(dataset, parse({**small_night.RECIPE, "tasks": tasks})).split(split).rows
        return set(rows.filter(trainable(rows, task))["id"].to_pylist())

    everything = rows_with("intent", 1.0)
    tenth, half = rows_with("intent", 0.1), rows_with("intent", 0.5)
    assert (len(tenth), len(half)) == (round(0.1 * len(everything)), round(0.5 * len(everything)))
    assert tenth < half < everything
    assert rows_with("slots", 0.1) <= half  # the same utterances are annotated, whatever the task
    assert rows_with("intent", 1e-6)  # never none
    assert rows_with("intent", 0.1, "valid") == rows_with("intent", 1.0, "valid")

    heard = rows_with("transcript", 1.0)
    assert len(rows_with("transcript", 0.25)) == round(0.25 * len(heard))
    tasks = {**small_night.RECIPE["tasks"], "transcript": {"labels": 0.25}}
    sparse = labelled(dataset, parse({**small_night.RECIPE, "tasks": tasks}))
    assert sparse.rows["tokens"].null_count <= dataset.rows["tokens"].null_count  # words stay for the other tasks
    assert sparse.identity not in (dataset.identity, labelled(dataset, night.recipe).identity)
    train = sparse.split("train").rows
    few = train.take(sampled(train, 0.4))
    share = pc.sum(trainable(few, "transcript")).as_py() / pc.sum(pc.is_valid(few["audio"])).as_py()
    assert share < 0.5  # drawn by another hash than the rows of a search, which would hold all the labels


def test_validation_takes_the_same_bounded_sample(night: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_dataset(night.store, night.utterances, night.features).split("train").rows
    assert bounded(rows) == list(range(len(rows)))
    monkeypatch.setattr("pipelines.training.prepare.VALID_SECONDS", 20.0)
    monkeypatch.setattr("pipelines.training.prepare.VALID_SENTENCES", 7)
    chosen = rows.take(bounded(rows))
    heard = [seconds for seconds in chosen["duration"].to_pylist() if seconds is not None]
    assert len(chosen) - len(heard) == 7
    assert 20.0 <= sum(heard) < 20.0 + max(heard)
    shuffled = rows.take(list(reversed(range(len(rows)))))
    assert set(shuffled.take(bounded(shuffled))["id"].to_pylist()) == set(chosen["id"].to_pylist())


def test_settings_reach_fit() -> None:
    settings = fit_config(small_night.recipe(learning_rate=2e-3, precision="bf16"))
    assert settings.task_weights == {"transcript": 1.0, "intent": 0.5, "slots": 1.0}
    assert (settings.learning_rate, settings.precision, settings.epochs, settings.ema) == (2e-3, "bf16", 6, 0.9)
    assert settings.checkpoint_seconds == pytest.approx(1.02)


def test_a_training_whose_lock_was_lost_ends_and_deletes_nothing(ray_session: Any, night: SimpleNamespace) -> None:
    """Another machine takes the lock after the first epoch; its own training of this name may need the checkpoints."""
    root, timing = open_root(night.store.root), lock.Timing(lease=60, beat=0.05)
    lease = Lease(root, lock.LEASE, "night of small", timing)

    def taken_over(row: dict[str, float]) -> None:
        if row["epoch"] == 1:
            Lease(root, lock.LEASE, "night of another machine", timing).fence(lease.token)

    with lock._holding(night.store.root, lease, wait=False), pytest.raises(lock.Lost, match="night of another machine"):
        train_night(night, "taken", on_report=taken_over)
    assert finished(night.store, "taken") is None
    assert night.store.list("train/taken/checkpoint_")
