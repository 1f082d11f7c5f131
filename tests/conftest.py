"""What the tests share: one Ray and one Prefect for the whole session, the real data, a store to write to.

    MOTET_DATA=/where/the/corpora/lie python -m pytest tests -q

Servers are started once, because each costs 5-10 s; a test that needs neither never pays for them. Tests run
quietly and offline: nobody's telemetry, one thread per process, caches and Prefect's files in a folder of their own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SCRATCH = Path(tempfile.mkdtemp(prefix="motet-tests-"))

# Set before anything imports ray, prefect, mlflow or torch: most of them read their settings once.
os.environ.update(
    {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(_SCRATCH / "prefect"),
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_DEDUP_LOGS": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MOTET_CACHE": str(_SCRATCH / "cache"),
        "GIT_TERMINAL_PROMPT": "0",
    }
)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
for _name in ("MOTET_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "RAY_ADDRESS"):
    os.environ.pop(_name, None)  # a developer's own servers are nothing to test on
# Ray's and torch's workers import the project from its root, wherever pytest was started.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real corpora, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("MOTET_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real corpora at {folder}; set MOTET_DATA to the folder that holds LibriSpeech, an4, atis")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """An empty store in a folder of this test's own."""
    from pipelines.storage.store import Store

    return Store(str(tmp_path / "store"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """The module `ray`, connected to a local cluster of two CPUs that lives as long as the test session."""
    from pipelines.core import cluster

    cluster.start_local(cpus=2)
    import ray

    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def prefect_session() -> Iterator[None]:
    """A Prefect API on a database of the session's own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@dataclass(frozen=True)
class FinishedNight:
    """A root in which the small recipe has run its first night, and what that returned.

    Its model knows nothing, so the gate did not promote it; a test did, by hand, for all that needs a champion.
    """

    root: str
    recipe: str
    outcome: dict[str, Any]


@pytest.fixture(scope="session")
def finished_night(ray_session: Any, prefect_session: None, tmp_path_factory: pytest.TempPathFactory) -> FinishedNight:
    """One real night, from synthesised speech to a registered model; some 20 s, shared by all who look at it."""
    from flows import nightly
    from pipelines.registry.registry import Registry

    root = str(tmp_path_factory.mktemp("night") / "root")
    recipe = str(Path(__file__).parent / "night.yaml")
    outcome = nightly(recipe, root=root)
    Registry(root).promote("small", 1, "tests need a champion", "a test")
    return FinishedNight(root, recipe, outcome)


@pytest.fixture(scope="session")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with three versions of one model (shared_mlflow.py); the folder beside it holds their weights."""
    from tests.support import shared_mlflow

    return shared_mlflow.three_versions(tmp_path_factory.mktemp("three"))


@pytest.fixture
def small_root(three_versions: Path, tmp_path: Path) -> Path:
    """The same, copied to a folder of the test's own."""
    return Path(shutil.copytree(three_versions, tmp_path / "root"))


@pytest.fixture
def weights(three_versions: Path) -> Path:
    return three_versions.parent / "weights"


@pytest.fixture
def team(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The MLflow of `small_root` as a database that several roots use by MLFLOW_TRACKING_URI."""
    database = Path(shutil.copy(small_root / "mlflow.db", tmp_path / "team.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)  # where MLflow puts the artifacts of such a database
    return database


@pytest.fixture(scope="session", autouse=True)
def _scratch() -> Iterator[None]:
    yield
    shutil.rmtree(_SCRATCH, ignore_errors=True)
