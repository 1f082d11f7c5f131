"""Files of registered models: uploads a package as an MLflow model, and returns it as a local folder.

model_id = store_package(client, experiment_id, "assistant", save, run, tags)
folder = local_package(registry.uri, home, model_version)
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.registry.connection import connection
from pipelines.registry.relocation import located
from pipelines.registry.tracking import Run, client_of, refuse_served
from pipelines.registry.version import RegistryError
from pipelines.storage.roots import cache_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Save = Callable[[Path, str, str | None], None]  # writes a package; arguments: folder, model id, run id


def store_package(
    client: MlflowClient, experiment_id: str, name: str, save: Save, run: Run | None, tags: Mapping[str, str]
) -> str:
    """Uploads the package as an MLflow model and returns its id."""
    from mlflow.entities import LoggedModelOutput

    run_id = run.run_id if run else None
    logged = client.create_logged_model(
        experiment_id, name=name.replace(".", "-"), source_run_id=run_id, tags=dict(tags), model_type="speech"
    )
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "package"
        save(package, logged.model_id, run_id)
        client.log_model_artifacts(logged.model_id, str(package))
    client.finalize_logged_model(logged.model_id, "READY")
    if run:
        client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged.model_id


def local_package(uri: str, home: Path, version: ModelVersion) -> Path:
    """The package's folder, or a cached copy if it is not on this machine. uri: of MLflow; home: as of `located`.

    Raises:
        RegistryError: the files of the version were deleted.
    """
    import mlflow

    source = str(version.source)
    model_id = source.removeprefix("models:/")
    location = source if model_id == source else str(client_of(uri).get_logged_model(model_id).artifact_location)
    refuse_served(location, uri)
    location = located(location, home)
    if location.startswith(("file:", "/")):
        return _folder_of(location, uri, version)
    copy = cache_folder() / "packages" / hashlib.sha256(f"{uri} {location}".encode()).hexdigest()[:32]
    if not copy.is_dir():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
            package = mlflow.artifacts.download_artifacts(
                artifact_uri=location, tracking_uri=connection(uri), dst_path=scratch
            )
            with suppress(OSError):  # another process copied the same content first
                Path(package).rename(copy)
    return copy


def _folder_of(location: str, uri: str, version: ModelVersion) -> Path:
    import mlflow

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=connection(uri)))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise RegistryError(
            f"the files of {version.name} version {version.version} are not at {location}: they were deleted, or a "
            "root was moved or copied without its folder mlartifacts; restore them, or name another version"
        ) from error
