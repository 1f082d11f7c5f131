"""Users' adapters in the registry: versions of `<base>.<speaker>`, whose tags name the base model.

    version = register_adapter(registry, "assistant.ana", file, base, tags)
    load_personal(registry, "models:/assistant@champion", "ana")           # a PersonalPredictor

Names of recipes contain no dot, so no model has the name of an adapter. A package holds the adapter alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.packaging.package import describe, save_adapter_package
from pipelines.registry.registry import CHAMPION, Registry, RegistryError, Version, lineage
from pipelines.registry.tracking import provenance
from pipelines.storage.store import Manifest

if TYPE_CHECKING:
    from mtl.inference.predictor import Predictor

BASE_TAG = "motet.base"  # the model that an adapter is for; its version and digest stand beside it


def personal_name(base: str, speaker: str) -> str:
    return f"{base}.{speaker}"


def register_adapter(
    registry: Registry,
    name: str,
    file: Path,
    base: Version,
    tags: Mapping[str, str],
    manifests: Iterable[Manifest] = (),
) -> Version:
    """Packages a user's adapter as the next version of `name`, without an alias."""
    described = describe(registry.folder(base.uri))
    labels = {
        "motet.address": hashlib.sha256(file.read_bytes()).hexdigest()[:16],
        "motet.tasks": ",".join(described.tasks),
        BASE_TAG: base.name,
        "motet.base_version": str(base.version),
        "motet.base_digest": described.address,
        **lineage(manifests),
        **provenance(),
        **tags,
    }

    def save(package: Path, model_id: str, run_id: str | None) -> None:
        save_adapter_package(file, described, package, model_id, run_id)

    return registry.version(name, registry.create(name, save, None, labels))


def load_personal(registry: Registry, uri: str, speaker: str) -> Predictor:
    """A model with a user's promoted adapter.

    Raises:
        RegistryError: the user has no promoted adapter. PersonalError: it was trained for another version.
    """
    base = registry.named(uri)
    name = personal_name(base.name, speaker)
    if registry.champion(name) is None:
        if tried := registry.versions(name):
            raise RegistryError(
                f"no adapter of {speaker!r} beat {base.name}: {len(tried)} tried, none promoted; "
                f"see `motet history {name}`"
            )
        prefix = personal_name(base.name, "")
        speakers = ", ".join(other.removeprefix(prefix) for other in registry.models() if other.startswith(prefix))
        raise RegistryError(
            f"{base.name} knows no {speaker!r}; it knows {speakers or 'nobody'}; "
            f"`motet personalise {base.name} MANIFEST` makes an adapter"
        )
    return registry.load(f"models:/{name}@{CHAMPION}", base=base.uri)
