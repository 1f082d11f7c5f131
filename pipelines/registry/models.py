"""The registered models of a root, for reading: versions, aliases, and the state of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.core.environment import quiet_mlflow
from pipelines.registry.ledger import Ledger, Line, State
from pipelines.registry.tracking import client_of, is_embedded, tracking_uri
from pipelines.registry.version import RegistryError, Version, is_absent, version_of
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
        mlflow = quiet_mlflow()
        try:
            return version_of(self.client.get_model_version(name, str(number)), self.aliases(name))
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            existing = ", ".join(str(version.version) for version in self.versions(name)) or "none"
            raise RegistryError(f"{name} has no version {number}; there are: {existing}") from None

    def versions(self, name: str) -> list[Version]:
        """Versions, newest first; none for an unknown name."""
        quoted = name.replace("'", "")
        items = self.client.search_model_versions(f"name = '{quoted}'")
        aliases = self.aliases(name) if items else {}
        return sorted((version_of(item, aliases) for item in items), key=lambda version: -version.version)

    def registered(self, name: str) -> RegisteredModel | None:
        mlflow = quiet_mlflow()
        try:
            return self.client.get_registered_model(name)
        except mlflow.exceptions.MlflowException as error:
            if is_absent(error):
                return None
            raise

    def aliases(self, name: str) -> dict[str, int]:
        model = self.registered(name)
        return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}

    def exists(self, name: str, number: int) -> bool:
        mlflow = quiet_mlflow()
        try:
            self.client.get_model_version(name, str(number))
        except mlflow.exceptions.MlflowException as error:
            if not is_absent(error):
                raise
            return False
        return True
