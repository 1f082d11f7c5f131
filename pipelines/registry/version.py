"""A registered version as plain data, and the errors of the registry.

version = version_of(client.get_model_version("assistant", "3"), {"champion": 3})
version.uri, version.metrics                     # models:/assistant/3, {"transcript/wer": 9.8}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.core.environment import quiet_mlflow
from pipelines.storage.store import Manifest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


T = TypeVar("T")
CHAMPION, CHALLENGER = "champion", "challenger"
_TAG_CHARACTERS = 5000
_MODELS_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


class RegistryError(RuntimeError):
    """A request that the registry cannot fulfil; the message says why and what exists instead."""


class Overtaken(RegistryError):
    """Another promotion or rollback came first: compare with the new champion."""


@dataclass(frozen=True)
class Version:
    """A version of a registered model. metrics: on the test rows, mostly percent; tags: its lineage."""

    name: str
    version: int
    aliases: tuple[str, ...]
    created: int
    run_id: str | None
    address: str
    parameters: int
    metrics: dict[str, float] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def version_of(item: ModelVersion, aliases: Mapping[str, int]) -> Version:
    tags = dict(item.tags)
    return Version(
        name=item.name,
        version=int(item.version),
        aliases=tuple(sorted(alias for alias, number in aliases.items() if number == int(item.version))),
        created=item.creation_timestamp,
        run_id=item.run_id or None,
        address=tags.get("motet.address", ""),
        parameters=int(tags.get("motet.parameters", 0)),
        metrics=_json(tags.get("motet.metrics")),
        datasets=_json(tags.get("motet.datasets")),
        tags=tags,
    )


def parse_uri(uri: str) -> re.Match[str]:
    """name, and alias or version, of models:/NAME@ALIAS or models:/NAME/3. Raises RegistryError."""
    match = _MODELS_URI.match(uri)
    if match is None:
        raise RegistryError(f"{uri!r} names no model; expected models:/NAME@champion, models:/NAME/3 or a folder")
    return match


def lineage(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The tag with the datasets that a model was trained on."""
    return {"motet.datasets": tag_json({manifest.dataset: manifest.address for manifest in manifests})}


def tag_json(content: Mapping[str, Any]) -> str:
    """JSON for a tag. Raises RegistryError when it is longer than MLflow allows."""
    text = json.dumps(content)
    if len(text) > _TAG_CHARACTERS:
        raise RegistryError(
            f"a tag of {len(text)} characters is longer than MLflow allows ({_TAG_CHARACTERS}): {text[:80]}…"
        )
    return text


def unless_absent(request: Callable[[], T], alias: bool = False) -> T | None:
    """The answer of MLflow; None if the object does not exist. Errors of the server are raised.

    alias: the request is for an alias, for which MLflow uses another error code.
    """
    try:
        return request()
    except quiet_mlflow().exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or (alias and error.error_code == "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _json(text: str | None) -> dict[str, Any]:
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}
