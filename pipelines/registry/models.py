"""The registered models of a root, for reading: versions, aliases, and the state of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.registry.ledger import Ledger, Line, State
from pipelines.registry.tracking import client_of, is_embedded, tracking_uri
from pipelines.registry.version import RegistryError, Version, unless_absent, version_of
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel


class RegisteredModels:
    """Base of `Registry` with the operations that only read."""

    def __init__(self, store: Store | str) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.uri = tracking_uri(self.store.root)
        self.embedded = is_embedded(self.store.root)  # the database lies in the root and serves no other

    @property
    def client(self) -> MlflowClient:
        return client_of(self.uri)

    def existing(self, name: str, number: int) -> Version | None:
        """The version; None if MLflow has no such version."""
        return self.version(name, number) if self.exists(name, number) else None

    def state(self, name: str) -> State:
        return Ledger(self.store, name).state()

    def history(self, name: str) -> list[Line]:
        """Every line of the ledger, oldest first."""
        return list(self.state(name).lines)

    def models(self) -> list[str]:
        """Names with a version; a name without one is reserved by an unfinished night."""
        return sorted(model.name for model in self.client.search_registered_models() if model.latest_versions)

    def version(self, name: str, number: int) -> Version:
        """Raises RegistryError with the existing versions."""
        item = unless_absent(lambda: self.client.get_model_version(name, str(number)))
        if item is None:
            existing = ", ".join(str(version.version) for version in self.versions(name)) or "none"
            raise RegistryError(f"{name} has no version {number}; there are: {existing}")
        return version_of(item, self.aliases(name))

    def versions(self, name: str) -> list[Version]:
        """Versions, newest first; none for an unknown name."""
        quoted = name.replace("'", "")
        items = self.client.search_model_versions(f"name = '{quoted}'")
        aliases = self.aliases(name) if items else {}
        return sorted((version_of(item, aliases) for item in items), key=lambda version: -version.version)

    def registered(self, name: str) -> RegisteredModel | None:
        return unless_absent(lambda: self.client.get_registered_model(name))

    def aliases(self, name: str) -> dict[str, int]:
        model = self.registered(name)
        return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}

    def exists(self, name: str, number: int) -> bool:
        return unless_absent(lambda: self.client.get_model_version(name, str(number))) is not None
