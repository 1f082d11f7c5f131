"""Users' adapters in the registry: versions of `<base>.<speaker>`, whose tags name the base that they are for.

    version = register_adapter(registry, "assistant.ana", file, base, tags)
    load_personal(registry, "models:/assistant@champion", "ana")           # a PersonalPredictor

Names of recipes hold no dot, so that no model's name is taken for an adapter's. A package holds the adapter alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.registry.package import describe, save_adapter_package
from pipelines.registry.registry import CHAMPION, Registry, RegistryError, Version, lineage
from pipelines.registry.tracking import provenance

if TYPE_CHECKING:
    from mtl.inference.predictor import Predictor
    from pipelines.storage.store import Manifest

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
    """A model as it hears through a user's promoted adapter.

    Raises:
        RegistryError: that user has none for this model. PersonalError: theirs was made for another version.
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
        people = ", ".join(other.removeprefix(prefix) for other in registry.models() if other.startswith(prefix))
        raise RegistryError(
            f"{base.name} knows no {speaker!r}; it knows {people or 'nobody'}; "
            f"`motet personalise {base.name} MANIFEST` makes an adapter"
        )
    return load_adapter(registry, f"models:/{name}@{CHAMPION}", base.uri)


def load_adapter(registry: Registry, uri: str, base: str, device: str | None = None) -> Predictor:
    """The model `base` as it hears through the adapter `uri`. Raises PersonalError when it is for another base."""
    from mtl.address import folder_address
    from mtl.inference.adaptation import Personal, PersonalPredictor, check_base
    from mtl.inference.predictor import Predictor

    adapter = registry.adapter(uri)
    if adapter is None:
        raise RegistryError(f"{uri} is a model and no user's adapter; `motet personalise` makes those")
    personal, folder = Personal.load(adapter), registry.folder(base)
    check_base(personal.about, folder_address(folder))
    return PersonalPredictor(Predictor.load(folder, device), personal)


def load_with_own_base(registry: Registry, uri: str, device: str | None = None) -> Predictor:
    """An adapter with the version of its base that it was made for."""
    from mtl.inference.adaptation import read_header

    adapter = registry.adapter(uri)
    if adapter is None:
        raise RegistryError(f"{uri} is a model and no user's adapter")
    about = read_header(adapter)["about"]
    return load_adapter(registry, uri, f"models:/{about['base']}/{about['version']}", device)
