"""The model registry: packages, aliases, the ledger behind them, and loading a model by name.

    registry = Registry(store)
    candidate = registry.register("assistant", folder, run)                # models:/assistant/4, alias @challenger
    line = registry.settle("assistant", candidate.version, decision, expects=3)   # promotes or keeps, by the decision
    registry.rollback("assistant", reason="complaints", by="ana")
    predictor = registry.load("models:/assistant@champion")

A model is a folder: the Predictor's safetensors and JSON, `mtl`, and packaged_model.py. MLflow keeps it and two
aliases, @champion and @challenger; who was champion when stands in the ledger, and the aliases follow it.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation.gates import Decision
from pipelines.registry.ledger import Action, Ledger, Line, State
from pipelines.registry.package import (
    PackageError,
    adapter_file,
    describe,
    predictor_folder,
    save_package,
)
from pipelines.registry.tracking import (
    Run,
    as_default,
    client_of,
    experiment_named,
    provenance,
    quiet_mlflow,
    refuse_served,
    tracking_uri,
)
from pipelines.roots import cache_folder
from pipelines.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from mtl.predictor import Predictor
    from pipelines.store import Manifest

CHAMPION, CHALLENGER = "champion", "challenger"
_TAG_CHARACTERS = 5000
_MODELS_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


class RegistryError(RuntimeError):
    """What was asked of the registry cannot be; the message says why and what there is instead."""


class Overtaken(RegistryError):
    """Another promotion or rollback came first: judge again, against the champion that reigns now."""


@dataclass(frozen=True)
class Version:
    """A registered model. metrics: percent, on the test rows, as recorded; tags: its lineage."""

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


class Registry:
    """The models of one store, in the MLflow that goes with its root."""

    def __init__(self, store: Store | str) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.uri = tracking_uri(self.store.root)

    @property
    def client(self) -> MlflowClient:
        return client_of(self.uri)

    def register(
        self,
        name: str,
        folder: Path | str,
        run: Run | None = None,
        manifests: Iterable[Manifest] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Packages a Predictor folder as the next version of `name`; it becomes the challenger.

        The same weights and vocabularies, registered again from the same run, are the version that is there.
        """
        folder = Path(folder)
        described = describe(folder)
        for version in self.versions(name):
            if version.address == described.address and version.run_id == (run.run_id if run else None):
                return version
        labels = {
            "motet.address": described.address,
            "motet.parameters": str(described.parameters),
            "motet.tasks": ",".join(described.tasks),
            **lineage(manifests),
            **provenance(),
            **(tags or {}),
        }

        def save(package: Path, model_id: str, run_id: str | None) -> None:
            save_package(folder, package, model_id, run_id)

        made = self.create(name, save, run, labels)
        self.client.set_registered_model_alias(name, CHALLENGER, str(made))
        return self.version(name, made)

    def create(
        self, name: str, save: Callable[[Path, str, str | None], None], run: Run | None, labels: Mapping[str, str]
    ) -> int:
        """A new version of `name`, without an alias, around a package that `save` writes."""
        model_id = self._store_package(name, save, run, labels)
        self._ensure_name(name)
        with as_default(self.uri):  # where MLflow looks the model's id up
            made = self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run.run_id if run else None,
                tags=dict(labels),
                model_id=model_id,
            )
        return int(made.version)

    def settle(
        self,
        name: str,
        version: int,
        decision: Decision,
        expects: int | None,
        rows: str | None = None,
        by: str = "gate",
    ) -> Line:
        """Records the gate's decision and acts on it.

        expects: the champion it was made against. rows: identity of the test rows.

        Raises:
            Overtaken: the champion changed since; nothing was promoted, the line is kept.
        """
        action: Action = "promote" if decision.promote else "keep"
        self.version(name, version)
        line = Ledger(self.store, name).append(
            action, version, expects, decision.reason, by, rows=rows, decision=decision.to_json()
        )
        return self._follow(name, line)

    def promote(self, name: str, version: int, reason: str, by: str) -> Line:
        """A person's own promotion, gate or no gate.

        Raises:
            RegistryError: no such version, or it is the champion already. Overtaken: somebody else came first.
        """
        self.version(name, version)
        ledger = Ledger(self.store, name)
        champion = ledger.state().champion
        if champion == version:
            raise RegistryError(f"{name} version {version} is the champion already")
        return self._follow(name, ledger.append("promote", version, champion, reason, by))

    def rollback(self, name: str, reason: str, by: str) -> Line:
        """Makes the champion before this one champion again; the one that leaves becomes the challenger.

        Raises:
            RegistryError: there was no champion before, or its version was deleted from MLflow.
        """
        ledger = Ledger(self.store, name)
        state = ledger.state()
        if state.champion is None or state.previous is None:
            had = f"version {state.champion} is its first champion" if state.champion else "it has no champion"
            raise RegistryError(f"{name} cannot be rolled back: {had}; see `motet history`")
        self.version(name, state.previous)
        line = self._follow(name, ledger.append("rollback", state.previous, state.champion, reason, by))
        self.client.set_registered_model_alias(name, CHALLENGER, str(state.champion))
        return line

    def champion(self, name: str) -> Version | None:
        """By the ledger, which the alias follows."""
        number = self.state(name).champion
        return self.version(name, number) if number is not None else None

    def state(self, name: str) -> State:
        return Ledger(self.store, name).state()

    def history(self, name: str) -> list[Line]:
        """Every line of the ledger, oldest first."""
        return list(self.state(name).lines)

    def looks(self, name: str, rows: str | None, version: int | None = None) -> int:
        """Which challenger of the champion on these test rows `version` is, from 1; for `gates.decide`."""
        return self.state(name).challenges(rows, besides=version) + 1

    def record(self, version: Version, metrics: Mapping[str, float], run: Run | None = None) -> None:
        """Keeps the packaged model's own test figures with its version, and as test/<metric> with its run."""
        numbers = {metric: round(float(value), 4) for metric, value in metrics.items()}
        self.client.set_model_version_tag(
            version.name, str(version.version), "motet.metrics", _short(json.dumps(numbers))
        )
        if run:
            run.log({f"test/{metric}": value for metric, value in numbers.items()}, step=0)

    def models(self) -> list[str]:
        return sorted(model.name for model in self.client.search_registered_models())

    def version(self, name: str, number: int) -> Version:
        """Raises RegistryError naming the versions there are."""
        mlflow = quiet_mlflow()
        try:
            return _version(self.client.get_model_version(name, str(number)), self._aliases(name))
        except mlflow.exceptions.MlflowException:
            there = ", ".join(str(version.version) for version in self.versions(name)) or "none"
            raise RegistryError(f"{name} has no version {number}; there are: {there}") from None

    def versions(self, name: str) -> list[Version]:
        """Newest first; none when the name is not known."""
        quoted = name.replace("'", "")
        found = self.client.search_model_versions(f"name = '{quoted}'")
        aliases = self._aliases(name) if found else {}
        return sorted((_version(item, aliases) for item in found), key=lambda version: -version.version)

    def leaderboard(self, name: str, metric: str | None = None, lower_is_better: bool = True) -> list[Version]:
        """Versions by a recorded metric, best first, those without it last; the newest first without a metric."""
        found = self.versions(name)
        if metric is None:
            return found
        sign = 1 if lower_is_better else -1
        return sorted(found, key=lambda version: sign * version.metrics.get(metric, sign * float("inf")))

    def load(self, uri: str, device: str | None = None) -> Predictor:
        """See `load`. A user's adapter comes with the base that it was made for."""
        from mtl.predictor import Predictor

        if self.adapter(uri) is None:
            return Predictor.load(self.folder(uri), device)
        from pipelines.personal.adapters import load_with_own_base

        return load_with_own_base(self, uri, device)

    def adapter(self, uri: str) -> Path | None:
        """The file of a user's adapter behind models:/name@alias, models:/name/3 or a package, if it is one."""
        return adapter_file(self._package(uri))

    def named(self, uri: str) -> Version:
        """What the registry knows of models:/name@alias or models:/name/3. Raises RegistryError."""
        found = self._find(_matched(uri))
        return self.version(found.name, int(found.version))

    def folder(self, uri: str) -> Path:
        """The Predictor folder behind models:/name@alias, models:/name/3, a packaged model's folder, or itself.

        Raises:
            RegistryError: no such model, alias or folder.
        """
        return _inside(self._package(uri))

    def _package(self, uri: str) -> Path:
        return self._local_package(self._find(_matched(uri))) if uri.startswith("models:/") else Path(uri)

    def _find(self, match: re.Match[str]) -> ModelVersion:
        mlflow = quiet_mlflow()
        name, alias, number = match["name"], match["alias"], match["version"]
        try:
            if alias:
                return self.client.get_model_version_by_alias(name, alias)
            return self.client.get_model_version(name, number)
        except mlflow.exceptions.MlflowException:
            versions = self.versions(name)
            if not versions:
                known = ", ".join(self.models()) or "none yet; `motet nightly` makes the first"
                raise RegistryError(f"no model is named {name!r} in {self.uri}; there are: {known}") from None
            aliases = sorted(self._aliases(name)) or ["none"]
            raise RegistryError(
                f"{match[0]} is not there; {name} has versions {versions[-1].version} to {versions[0].version} "
                f"and the aliases {', '.join(aliases)}"
            ) from None

    def _local_package(self, found: ModelVersion) -> Path:
        """The package's folder: where it lies, or a copy kept by model id."""
        import mlflow

        source = str(found.source)
        model_id = source.removeprefix("models:/")
        location = source if model_id == source else str(self.client.get_logged_model(model_id).artifact_location)
        refuse_served(location, self.uri)
        if location.startswith(("file:", "/")):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=self.uri))
        copy = cache_folder() / "packages" / hashlib.sha256(f"{self.uri} {location}".encode()).hexdigest()[:32]
        if not copy.is_dir():
            with tempfile.TemporaryDirectory(dir=_made(copy.parent)) as fresh:
                place = mlflow.artifacts.download_artifacts(
                    artifact_uri=location, tracking_uri=self.uri, dst_path=fresh
                )
                with suppress(OSError):  # another process was first, with the same content
                    Path(place).rename(copy)
        return copy

    def _store_package(
        self, name: str, save: Callable[[Path, str, str | None], None], run: Run | None, labels: Mapping[str, str]
    ) -> str:
        """Uploads the package as an MLflow model and returns its id."""
        from mlflow.entities import LoggedModelOutput

        base, _, _ = name.partition(".")  # a user's adapter lies in its base's experiment
        experiment = run.experiment_id if run else experiment_named(self.client, base, self.store.root)
        logged = self.client.create_logged_model(
            experiment,
            name=name.replace(".", "-"),
            source_run_id=run.run_id if run else None,
            tags=dict(labels),
            model_type="speech",
        )
        with tempfile.TemporaryDirectory() as scratch:
            package = Path(scratch) / "package"
            save(package, logged.model_id, run.run_id if run else None)
            self.client.log_model_artifacts(logged.model_id, str(package))
        self.client.finalize_logged_model(logged.model_id, "READY")
        if run:
            self.client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return logged.model_id

    def _ensure_name(self, name: str) -> None:
        mlflow = quiet_mlflow()
        try:
            self.client.create_registered_model(name, description="Trained and promoted by Motet.")
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _follow(self, name: str, line: Line) -> Line:
        """Sets the aliases from the ledger, whoever wrote last; then says whether the line took effect."""
        ledger = Ledger(self.store, name)
        while True:
            state = ledger.state()
            if state.champion is not None:
                self.client.set_registered_model_alias(name, CHAMPION, str(state.champion))
                if self._aliases(name).get(CHALLENGER) == state.champion:
                    self.client.delete_registered_model_alias(name, CHALLENGER)
            if ledger.state().number == state.number:  # else a line was added meanwhile, and its writer may be done
                break
        if not line.effective:
            raise Overtaken(
                f"{name} version {line.version} was judged against champion {line.expects or 'none'}, "
                f"but {state.champion or 'none'} reigns now; evaluate and decide again (line {line.number} is kept)"
            )
        return line

    def _aliases(self, name: str) -> dict[str, int]:
        mlflow = quiet_mlflow()
        try:
            return {alias: int(number) for alias, number in self.client.get_registered_model(name).aliases.items()}
        except mlflow.exceptions.MlflowException:
            return {}


def load(uri: str, root: str | None = None, device: str | None = None) -> Predictor:
    """A Predictor from models:/name@champion, models:/name/3, or a folder (which needs no root).

    Raises:
        RegistryError: nothing there, with what there is instead.
    """
    from mtl.predictor import Predictor

    if root is None:
        if uri.startswith("models:/"):
            raise RegistryError(f"{uri} is looked up in the registry of a root, and none was given")
        return Predictor.load(_inside(Path(uri)), device)
    return Registry(root).load(uri, device)


def _matched(uri: str) -> re.Match[str]:
    match = _MODELS_URI.match(uri)
    if match is None:
        raise RegistryError(f"{uri!r} names no model; expected models:/NAME@champion, models:/NAME/3 or a folder")
    return match


def lineage(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The tag that names the datasets a model was made from."""
    return {"motet.datasets": _short(json.dumps({manifest.dataset: manifest.address for manifest in manifests}))}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _inside(folder: Path) -> Path:
    try:
        return predictor_folder(folder)
    except PackageError as error:
        raise RegistryError(str(error)) from None


def _version(item: ModelVersion, aliases: Mapping[str, int]) -> Version:
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


def _json(text: str | None) -> dict[str, Any]:
    try:
        return json.loads(text or "{}")
    except json.JSONDecodeError:
        return {}


def _short(text: str) -> str:
    if len(text) > _TAG_CHARACTERS:
        raise RegistryError(
            f"a tag of {len(text)} characters is more than MLflow keeps ({_TAG_CHARACTERS}): {text[:80]}…"
        )
    return text
