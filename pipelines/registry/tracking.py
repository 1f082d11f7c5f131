"""MLflow runs: location, content, and one writer for each.

    with start(root, recipe, name="assistant-3f2a", manifests=[*utterances, *features]) as run:
        run.log({"train/loss": 1.2, "valid/transcript/wer": 9.8}, step=3)

`Run` holds only strings, so it can be sent to another process. One process writes a run; workers report to it and never
open MLflow. Starting a run whose key exists resumes it, so that a crashed night leaves one run.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.core.environment import quiet_mlflow
from pipelines.core.redaction import redact, scrub
from pipelines.recipe import Recipe
from pipelines.registry.connection import connection, registry_connection
from pipelines.registry.relocation import relocate
from pipelines.storage.roots import sha256
from pipelines.storage.store import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient


PROJECT = Path(__file__).resolve().parents[2]
HOME = Path("~/.motet")  # of MLflow's database if the root is not a folder
LOCK_FILES = ("requirements.lock", "uv.lock", "pylock.toml")
KEY_TAG = "motet.key"
PARENT_TAG = "mlflow.parentRunId"  # nests runs in MLflow's pages
_PARAMS_A_CALL, _METRICS_A_CALL = 100, 1000  # limits of MLflow's log_batch
_PARAM_CHARACTERS = 6000
_DEFAULT = threading.RLock()  # MLflow's default address is one per process


class TrackingError(RuntimeError):
    """MLflow refused or could not be reached; the message says which address and what to check."""


@dataclass(frozen=True)
class Run:
    """One MLflow run, as three strings; `with run:` marks it FAILED when the block raises, and else FINISHED.

    uri: redacted, see connection.py.
    """

    uri: str
    experiment_id: str
    run_id: str

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self.finish("FAILED" if kind else "FINISHED")

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @property
    def client(self) -> MlflowClient:
        return client_of(self.uri)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics in one call. Skips None, text and NaN, which MLflow would plot as 0."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = [
            Metric(_metric_name(name), float(value), now, step)
            for name, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        for start in range(0, len(numbers), _METRICS_A_CALL):
            self.client.log_batch(self.run_id, metrics=numbers[start : start + _METRICS_A_CALL])

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(name, _text(value)[:_PARAM_CHARACTERS]) for name, value in params.items()]
        for start in range(0, len(rows), _PARAMS_A_CALL):
            self.client.log_batch(self.run_id, params=rows[start : start + _PARAMS_A_CALL])

    def tag(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(name, _text(value)) for name, value in tags.items()])

    def log_text(self, text: str, file: str) -> None:
        self.client.log_text(self.run_id, text, file)

    def log_datasets(self, root: str, manifests: Iterable[Manifest]) -> None:
        """Dataset lineage (`mlflow.log_input`): a manifest's address is the digest, its location the source."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=manifest.dataset,
                    digest=manifest.address[:36],
                    source_type="s3" if root.startswith("s3://") else "local",
                    source=json.dumps({"uri": f"{root}/manifests/{manifest.dataset}/v{manifest.version:08d}.json"}),
                    profile=json.dumps({"version": manifest.version, **_plain(manifest.meta)})[:16_000_000],
                ),
                [InputTag("mlflow.data.context", "training")],
            )
            for manifest in manifests
        ]
        if inputs:
            self.client.log_inputs(self.run_id, inputs)

    def finish(self, status: str = "FINISHED") -> None:
        """FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits and a few signs: "transcript/wer@digits" becomes "transcript/wer:digits"."""
    return re.sub(r"[^\w./\- :]", "_", name.replace("@", ":"))


def tracking_uri(root: str) -> str:
    """MLFLOW_TRACKING_URI, redacted; else a SQLite file in the root, or in ~/.motet if the root is not a folder.

    Pass it through `connection` to connect.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return redact(uri) if uri else _database(root)


def _database(root: str) -> str:
    return f"sqlite:///{home_folder(root) / 'mlflow.db'}"


def is_embedded(root: str) -> bool:
    """Whether MLflow is a database in the root, which no other root uses."""
    elsewhere = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    return "://" not in root and not any(os.environ.get(name) for name in elsewhere)


def artifact_location(root: str) -> str | None:
    """Artifact location of a new experiment: beside the SQLite file; None if the tracking server decides."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else (home_folder(root) / "mlartifacts").as_uri()


def client_of(uri: str) -> MlflowClient:
    """A client for runs and registered models alike.

    Raises:
        TrackingError: the address does not answer.
    """
    mlflow = quiet_mlflow()
    try:
        return _client(connection(uri))
    except mlflow.exceptions.MlflowException as error:
        scrub(error)
        raise TrackingError(
            f"MLflow at {redact(uri)} does not answer: {error}. Check MLFLOW_TRACKING_URI, or `motet doctor`."
        ) from error


@lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    import mlflow

    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=registry_connection() or uri)


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Makes `uri` the default of the process within the block, for parts of MLflow that take no address.

    Restores the environment afterwards: MLflow writes its default there, and `tracking_uri` would read it.
    """
    import mlflow

    with _DEFAULT:
        before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(connection(uri))
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None means none
            if before is None:
                os.environ.pop("MLFLOW_TRACKING_URI", None)


def start(
    root: str,
    recipe: Recipe,
    name: str,
    manifests: Iterable[Manifest] = (),
    tags: Mapping[str, Any] | None = None,
    parent: Run | None = None,
    key: str | None = None,
    experiment: str | None = None,
) -> Run:
    """Starts or resumes the run `key` (the name if omitted) in the recipe's experiment.

    Logs the flattened recipe as parameters, its YAML, the manifests, git commit and lock hash.
    """
    run, resumed = _open(root, experiment or recipe.name, name, key or name, parent)
    run.tag({"motet.recipe": recipe.name, "motet.recipe_address": recipe.address(), **provenance(), **(tags or {})})
    if not resumed:
        run.log_params(flatten(recipe.model_dump(mode="json")))
        run.log_text(recipe.to_yaml(), "recipe.yaml")
    run.log_datasets(root, manifests)
    return run


def start_child(root: str, parent: Run, name: str, params: Mapping[str, Any]) -> Run:
    """Starts or resumes a run that is nested under its parent, for a trial of a search."""
    experiment = parent.client.get_experiment(parent.experiment_id).name
    run, resumed = _open(root, experiment, name, f"{parent.run_id}/{name}", parent)
    if not resumed:
        run.log_params(params)
    return run


def _open(root: str, experiment: str, name: str, key: str, parent: Run | None) -> tuple[Run, bool]:
    uri = parent.uri if parent else tracking_uri(root)
    client = client_of(uri)
    experiment_id = experiment_named(client, experiment, root)
    quoted = key.replace("'", "")
    runs = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{quoted}'", max_results=1)
    if runs:
        run_id = runs[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        return Run(uri, experiment_id, run_id), True
    tags = {KEY_TAG: quoted, "mlflow.source.name": "motet", "mlflow.source.type": "LOCAL"}
    if parent:
        tags[PARENT_TAG] = parent.run_id
    created = client.create_run(experiment_id, run_name=name, tags=tags)
    return Run(uri, experiment_id, created.info.run_id), False


def experiment_named(client: MlflowClient, name: str, root: str) -> str:
    """Id of an experiment, which is created if needed; safe if two processes do so at the same time.

    Raises:
        TrackingError: the experiment's files are behind a server, and this process opened its database directly.
    """
    from mlflow.exceptions import MlflowException

    if client.tracking_uri == _database(root):
        relocate(home_folder(root))  # the caller is about to write files
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=artifact_location(root))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    refuse_served(experiment.artifact_location, client.tracking_uri)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def refuse_served(location: str | None, uri: str) -> None:
    """Raises TrackingError for files behind an MLflow server, if there is no server at `uri`."""
    if location and location.startswith("mlflow-artifacts:") and not uri.startswith("http"):
        raise TrackingError(
            f"{location} is stored by an MLflow server, and {redact(uri)} is a database without one: "
            "set MLFLOW_TRACKING_URI to the server (`motet up` starts one on this root)"
        )


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; items of a list are keyed by their name if they have one."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
            for item in value:
                flat.update(flatten(item, f"{prefix}{key}.{item['name']}."))
        elif value is not None:
            flat[f"{prefix}{key}"] = value
    return flat


def provenance() -> dict[str, str]:
    """Tags about the code: git commit (with "+changes") and hash of the lock file."""
    tags = {}
    commit = git_commit()
    if commit:
        tags.update({"mlflow.source.git.commit": commit.removesuffix("+changes"), "motet.git_commit": commit})
    lock = lock_hash()
    return {**tags, **({"motet.lock": lock} if lock else {})}


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """MOTET_GIT_COMMIT, which images without .git set; else the commit of the checkout; None if unknown."""
    if "MOTET_GIT_COMMIT" in os.environ:
        return os.environ["MOTET_GIT_COMMIT"]
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def lock_hash() -> str | None:
    """'<file>:<sha256, 16 hex>' of the lock file beside the project."""
    for name in LOCK_FILES:
        path = PROJECT / name
        if path.is_file():
            return f"{name}:{sha256(path)[:16]}"
    return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def home_folder(root: str) -> Path:
    """Folder of mlflow.db and mlartifacts without a server: the root, or ~/.motet if that is not a folder."""
    folder = HOME.expanduser() if "://" in root else Path(root)
    return folder.resolve()


def _text(value: Any) -> str:
    return redact(value if isinstance(value, str) else json.dumps(value))


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The short values of a manifest's meta."""
    return {key: value for key, value in meta.items() if isinstance(value, str | int | float | bool | dict)}
