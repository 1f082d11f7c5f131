"""Registry, ledger and tracking on a real MLflow (SQLite in a folder)."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl.config.features import FeatureSpec
from mtl.inference.predictor import Predictor
from mtl.models.joint import build_model
from pipelines.evaluation.gates import Decision, RowCounts, ScoredModel, decide
from pipelines.recipe import Gates, Recipe, parse
from pipelines.registry import tracking
from pipelines.registry.ledger import Ledger, Line, fold
from pipelines.registry.registry import Overtaken, Registry, RegistryError
from pipelines.storage.store import Store
from tests.support import tiny


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(Store(tmp_path_factory.mktemp("registry") / "root"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three Predictor folders with different weights."""
    base = tmp_path_factory.mktemp("predictors")
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = build_model(tiny.config(), tiny.codec())
        Predictor(model, FeatureSpec(bins=tiny.BINS)).save(base / str(seed))
        made.append(base / str(seed))
    return made


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse({"name": "tiny", "corpora": [{"name": "said", "kind": "espeak"}], "tasks": {"transcript": {}}})


def verdict(promote: bool) -> Decision:
    """A real decision: ten errors fewer on 40 rows, or ten more."""
    good, bad = (
        ScoredModel(name, {"m": RowCounts([str(i) for i in range(40)], np.array([[errors, 1]] * 40))}, 1)
        for name, errors in (("good", 0), ("bad", 1))
    )
    gates = Gates(primary="m")
    return decide(good, bad, gates, {"m": _Rate()}) if promote else decide(bad, good, gates, {"m": _Rate()})


class _Rate:
    better = "lower"

    def value(self, counts: np.ndarray) -> np.ndarray:
        return 100 * counts[..., 0] / counts[..., 1]


def test_a_life_of_promotions_and_rollbacks(registry: Registry, folders: list[Path]) -> None:
    name = "life"
    one, two, three = (registry.register(name, folder).version for folder in folders)
    assert [version.version for version in registry.versions(name)] == [3, 2, 1]
    assert registry.champion(name) is None

    registry.settle(name, one, verdict(True), expects=None, rows="test")
    assert aliases(registry, name) == {"champion": 1, "challenger": 3}
    registry.settle(name, two, verdict(False), expects=one, rows="test")
    assert registry.n_comparisons(name, "test") == 2
    assert registry.n_comparisons(name, "other rows") == 1
    assert registry.n_comparisons(name, "test", version=two) == 1  # offered again, it is still the first challenger
    registry.settle(name, three, verdict(True), expects=one, rows="test")
    assert aliases(registry, name) == {"champion": 3}
    assert registry.n_comparisons(name, "test") == 1

    line = registry.rollback(name, "it hears ghosts", by="ana")
    assert (line.action, line.version, line.expects) == ("rollback", 1, 3)
    assert aliases(registry, name) == {"champion": 1, "challenger": 3}
    assert registry.n_comparisons(name, "test") == 2  # version 1 met version 2 on these rows before
    with pytest.raises(RegistryError, match="version 1 is its first champion"):
        registry.rollback(name, "again", by="ana")

    registry.promote(name, two, "I know better", by="ben")
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.promote(name, two, "again", by="ben")
    # Back from 2 leads to 1, which reigned before it, and not to 3, which was rolled back.
    assert registry.rollback(name, "he did not", by="ana").version == 1

    history = registry.history(name)
    assert [line.action for line in history] == ["promote", "keep", "promote", "rollback", "promote", "rollback"]
    assert [line.number for line in history] == [1, 2, 3, 4, 5, 6]
    assert history[0].decision is not None
    assert Decision.from_json(json.loads(json.dumps(history[0].decision))) == verdict(True)


def aliases(registry: Registry, name: str) -> dict[str, int]:
    return {alias: version.version for version in registry.versions(name) for alias in version.aliases}


def test_loads_by_alias_by_number_and_by_folder(registry: Registry, folders: list[Path]) -> None:
    for folder in folders[:2]:
        registry.register("loaded", folder)
    registry.promote("loaded", 1, "first", by="ana")
    expected = [Predictor.load(folder).predict(["play soft rock"]) for folder in folders[:2]]
    assert expected[0] != expected[1]
    for uri, wanted in (
        ("models:/loaded@champion", expected[0]),
        ("models:/loaded/1", expected[0]),
        ("models:/loaded@challenger", expected[1]),
        (str(folders[1]), expected[1]),
        (str(registry.folder("models:/loaded/2").parents[1]), expected[1]),  # the package as a folder
    ):
        assert registry.load(uri).predict(["play soft rock"]) == wanted
    assert registry.load(str(folders[0])).predict(["play soft rock"]) == expected[0]


def test_what_is_not_there_is_named(registry: Registry, folders: list[Path], tmp_path: Path) -> None:
    registry.register("known", folders[0])
    for uri, told in (
        ("models:/unknown@champion", "no model is named 'unknown'.*known"),
        ("models:/known@champion", "versions 1 to 1 and the aliases challenger"),
        ("models:/known/7", "versions 1 to 1"),
        ("models:/known", "expected models:/NAME@champion"),
        (str(tmp_path), "holds neither model.json nor"),
    ):
        with pytest.raises(RegistryError, match=told):
            registry.load(uri)
    with pytest.raises(RegistryError, match="known has no version 9; there are: 1"):
        registry.promote("known", 9, "?", by="ana")
    with pytest.raises(RegistryError, match="it has no champion"):
        registry.rollback("known", "?", by="ana")


def test_promoters_who_meet_keep_both_lines_and_one_champion(registry: Registry, folders: list[Path]) -> None:
    name = "contested"
    numbers = [registry.register(name, folder).version for folder in folders]
    registry.promote(name, numbers[0], "first", by="ana")

    def settle(version: int) -> str:
        try:
            registry.settle(name, version, verdict(True), expects=numbers[0])
        except Overtaken as error:
            return str(error)
        return "promoted"

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(settle, [*numbers[1:]] * 3))
    assert outcomes.count("promoted") == 1
    assert all("judged against champion 1" in outcome for outcome in outcomes if outcome != "promoted")
    history = registry.history(name)
    assert len(history) == 7
    assert [line.effective for line in history].count(True) == 2
    champion = registry.champion(name)
    assert champion is not None
    assert (
        aliases(registry, name)["champion"]
        == champion.version
        == [line for line in history if line.effective][-1].version
    )


def _append(root: str, writer: int) -> list[int]:
    ledger = Ledger(Store(root), "many")
    return [ledger.append("keep", writer, None, f"line {line}", by=str(writer)).number for line in range(5)]


def test_processes_lose_no_line(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        numbers = pool.starmap(_append, [(str(tmp_path), writer) for writer in range(3)])
    assert sorted(number for mine in numbers for number in mine) == list(range(1, 16))
    lines = Ledger(Store(tmp_path), "many").state().lines
    assert sorted((line.by, line.reason) for line in lines) == [
        (str(w), f"line {n}") for w in range(3) for n in range(5)
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["promote", "keep", "rollback"]), st.integers(1, 4), st.integers(0, 4))))
def test_whatever_is_written_the_reigning_champion_was_promoted(written: list[tuple[Any, int, int]]) -> None:
    lines = [
        Line(n, "", action, version, expects or None, "", "") for n, (action, version, expects) in enumerate(written)
    ]
    state = fold(lines)
    promoted = {line.version for line in state.lines if line.action == "promote" and line.effective}
    assert set(state.champions) <= promoted
    assert all(left != right for left, right in zip(state.champions, state.champions[1:], strict=False))
    # Reading a longer ledger never changes what the shorter one said.
    assert fold(lines[: len(lines) // 2]).lines == state.lines[: len(lines) // 2]


def test_leaderboard_and_lineage(registry: Registry, folders: list[Path], recipe: Recipe) -> None:
    store = registry.store
    manifest = store.commit("utterances/said", address="abcd", meta={"rows": 3})
    run = tracking.start(store.root, recipe, "night-1", [manifest])
    versions = [registry.register("ranked", folder, run, [manifest]) for folder in folders]
    assert registry.register("ranked", folders[0], run).version == versions[0].version  # nothing new: the same one
    registry.record(versions[0], {"transcript/wer": 9.0}, run)
    registry.record(versions[2], {"transcript/wer": 7.0})
    board = registry.leaderboard("ranked", "transcript/wer")
    assert [version.version for version in board] == [3, 1, 2]
    assert [version.version for version in registry.leaderboard("ranked")] == [3, 2, 1]
    assert board[1].datasets == {"utterances/said": "abcd"}
    assert board[1].run_id == run.run_id
    assert board[1].parameters == sum(p.numel() for p in Predictor.load(folders[0]).model.parameters())
    assert run.client.get_run(run.run_id).data.metrics["test/transcript/wer"] == 9.0
    assert "motet.lock" in board[1].tags


def test_a_run_carries_recipe_data_and_code(registry: Registry, recipe: Recipe) -> None:
    store = registry.store
    manifest = store.commit("utterances/said", address="efgh", meta={"rows": 4})
    run = tracking.start(store.root, recipe, "night-2", [manifest])
    run.log({"valid/transcript/wer": 12.5, "note": float("nan")}, step=1)
    run.log({"valid/transcript/wer": 11.5}, step=2)
    kept = run.client.get_run(run.run_id)
    assert kept.data.params["trainer.epochs"] == "20"
    assert kept.data.params["corpora.said.kind"] == "espeak"
    assert kept.data.metrics == {"valid/transcript/wer": 11.5}
    history = run.client.get_metric_history(run.run_id, "valid/transcript/wer")
    assert [(point.step, point.value) for point in history] == [(1, 12.5), (2, 11.5)]
    (logged,) = kept.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("utterances/said", "efgh")
    source = json.loads(logged.dataset.source)["uri"]
    assert json.loads(Path(source).read_text())["address"] == "efgh"
    text = Path(run.client.download_artifacts(run.run_id, "recipe.yaml")).read_text()
    assert text == recipe.to_yaml()
    assert len(kept.data.tags["motet.git_commit"].removesuffix("+changes")) == 40


def test_a_run_ends_as_its_block_does(registry: Registry, recipe: Recipe) -> None:
    def status() -> str:
        return str(run.client.get_run(run.run_id).info.status)

    with tracking.start(registry.store.root, recipe, "night-5") as run:
        assert status() == "RUNNING"
    assert status() == "FINISHED"
    with pytest.raises(KeyboardInterrupt), run:
        raise KeyboardInterrupt
    assert status() == "FAILED"


def test_the_same_key_goes_on_in_the_same_run(registry: Registry, recipe: Recipe) -> None:
    root = registry.store.root
    run = tracking.start(root, recipe, "night-3")
    run.finish("FAILED")
    assert tracking.start(root, recipe, "night-3") == run
    assert run.client.get_run(run.run_id).info.status == "RUNNING"
    assert tracking.start(root, recipe, "night-4") != run
    trial = tracking.start_child(root, run, "trial-0", {"learning_rate": 1e-3})
    assert tracking.start_child(root, run, "trial-0", {"learning_rate": 1e-3}) == trial
    data = run.client.get_run(trial.run_id).data
    assert data.tags["mlflow.parentRunId"] == run.run_id
    assert data.params == {"learning_rate": "0.001"}
    assert tracking.Run(**json.loads(json.dumps(trial.to_json()))) == trial


def test_the_address_follows_environment_and_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracking.tracking_uri(str(tmp_path / "r")) == f"sqlite:///{tmp_path}/r/mlflow.db"
    assert tracking.tracking_uri("s3://bucket/r") == f"sqlite:///{tmp_path}/.motet/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking.tracking_uri("s3://bucket/r") == "http://localhost:5000"
    assert tracking.artifact_location("s3://bucket/r") is None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of an MLflow server that keeps the artifacts itself; its database is where an embedded one would be."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = (
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/root/mlflow.db",
        "--artifacts-destination",
        f"{tmp_path}/kept",
    )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    (tmp_path / "root").mkdir()
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen([*command, *places], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < end:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            time.sleep(0.2)  # between two tries; nothing depends on how long
        else:
            raise AssertionError(f"the server did not come up:\n{(tmp_path / 'server.log').read_text()[-3000:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def test_the_same_life_on_a_server(
    server: str, folders: list[Path], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    store = Store(tmp_path / "root")
    registry = Registry(store)
    run = tracking.start(store.root, recipe, "night-1", [store.commit("utterances/said", address="abcd")])
    versions = [registry.register("served", folder, run) for folder in folders[:2]]
    registry.promote("served", versions[0].version, "first", by="ana")
    registry.settle("served", versions[1].version, verdict(True), expects=1)
    registry.rollback("served", "again", by="ana")
    wanted = Predictor.load(folders[0]).predict(["play soft rock"])
    for _ in range(2):  # fetched, then found in the cache
        assert registry.load("models:/served@champion").predict(["play soft rock"]) == wanted
    assert os.environ["MLFLOW_TRACKING_URI"] == server

    # Another root on the same server is refused, and the one that made the model goes on.
    other = Registry(Store(tmp_path / "other"))
    with pytest.raises(RegistryError, match=f"belongs to another root, .*:{tmp_path}/root"):
        other.register("served", folders[2])
    assert other.aliases("served") == {"champion": 1, "challenger": 2}

    # Without the server the database can be read, and what the server keeps cannot: it says so.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [version.version for version in Registry(store).versions("served")] == [2, 1]
    with pytest.raises(tracking.TrackingError, match="set MLFLOW_TRACKING_URI to the server"):
        Registry(store).load("models:/served@champion")
    with pytest.raises(tracking.TrackingError, match="set MLFLOW_TRACKING_URI to the server"):
        tracking.start(store.root, recipe, "night-2")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    registry.client.delete_model_version("served", "1")
    (note,) = registry.claim("served")
    assert "version 1, the champion, was deleted from MLflow" in note
