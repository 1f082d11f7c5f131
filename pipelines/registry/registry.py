"""The model registry: packages, aliases, the ledger behind them, and loading a model by name.

    registry = Registry(store)
    candidate = registry.register("assistant", folder, run)                # models:/assistant/4, alias @challenger
    line = registry.settle("assistant", candidate.version, decision, expects=3)   # promotes or not, by the decision
    registry.rollback("assistant", reason="complaints", by="ana")
    predictor = registry.load("models:/assistant@champion")

MLflow stores the package of a model (pipelines/packaging) and two aliases, @champion and @challenger. The ledger holds
the history of champions; the aliases are set from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.core import progress
from pipelines.packaging.package import (
    PackageError,
    adapter_file,
    describe,
    predictor_folder,
    save_package,
)
from pipelines.registry import deleted_versions, ownership
from pipelines.registry.artifacts import Save, local_package, store_package
from pipelines.registry.ledger import Action, Decision, Ledger, Line, State
from pipelines.registry.models import RegisteredModels
from pipelines.registry.tracking import (
    Run,
    as_default,
    experiment_named,
    home_folder,
    provenance,
)
from pipelines.registry.version import (
    CHALLENGER,
    CHAMPION,
    Overtaken,
    RegistryError,
    Version,
    lineage,
    parse_uri,
    tag_json,
    unless_absent,
)
from pipelines.storage.store import Manifest

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from mtl.inference.predictor import Predictor

__all__ = ["CHALLENGER", "CHAMPION", "Overtaken", "Registry", "RegistryError", "Version", "lineage"]


class Registry(RegisteredModels):
    """The models of one store, in the MLflow that belongs to its root."""

    def register(
        self,
        name: str,
        folder: Path | str,
        run: Run | None = None,
        manifests: Iterable[Manifest] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Version:
        """Packages a Predictor folder as the next version of `name`; it becomes the challenger.

        Weights that the same run has registered before give the existing version.
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

        number = self.create(name, save, run, labels)
        self.client.set_registered_model_alias(name, CHALLENGER, str(number))
        return self.version(name, number)

    def create(self, name: str, save: Save, run: Run | None, labels: Mapping[str, str]) -> int:
        """Number of a new version of `name`, without an alias, whose package `save` writes.

        Raises:
            RegistryError: the name belongs to another root.
        """
        ownership.claim(self, name)
        base, _, _ = name.partition(".")  # a user's adapter is in the experiment of its base
        experiment = run.experiment_id if run else experiment_named(self.client, base, self.store.root)
        model_id = store_package(self.client, experiment, name, save, run, labels)
        with as_default(self.uri):  # where MLflow looks up the model's id
            item = self.client.create_model_version(
                name,
                source=f"models:/{model_id}",
                run_id=run.run_id if run else None,
                tags=dict(labels),
                model_id=model_id,
            )
        return int(item.version)

    def check(self, name: str) -> None:
        """Raises RegistryError if the name belongs to another root; changes nothing."""
        ownership.check(self, name)

    def claim(self, name: str) -> list[str]:
        """Reserves the name for this root and sets its aliases from the ledger, before a training.

        Returns warnings: aliases that were moved, champions that were deleted.

        Raises:
            RegistryError: the name belongs to another root.
        """
        before = self.aliases(name).get(CHAMPION)
        ownership.claim(self, name)
        state = self.follow(name)
        notes = [note] if (note := deleted_versions.warning(self.store, name, state)) else []
        if state.deletion is None and state.champion is not None and before != state.champion:
            was = "was missing in MLflow" if before is None else f"was on version {before} in MLflow"
            notes.append(f"{name}: @champion {was}; it is on version {state.champion} again, as the ledger says")
        return notes

    def settle(
        self,
        name: str,
        version: int,
        decision: Decision,
        expects: int | None,
        rows: str | None = None,
        by: str = "gate",
    ) -> Line:
        """Records the gate's decision and promotes the version if it says so.

        expects: the champion of the comparison. rows: identity of the test rows.

        Raises:
            Overtaken: the champion has changed; nothing is promoted, the line stays.
            RegistryError: the name belongs to another root, or no such version.
        """
        action: Action = "promote" if decision.promote else "keep"
        self.version(name, version)
        self.claim(name)
        line = Ledger(self.store, name).append(
            action, version, expects, decision.reason, by, rows=rows, decision=decision.to_json()
        )
        return self._settled(name, line)

    def promote(self, name: str, version: int, reason: str, by: str) -> Line:
        """Promotes a version by the decision of a person, without the gate.

        Raises:
            RegistryError: no such version, or it is the champion already. Overtaken: the champion has changed.
        """
        self.version(name, version)
        self.claim(name)
        ledger = Ledger(self.store, name)
        champion = ledger.state().champion
        if champion == version:
            raise RegistryError(f"{name} version {version} is the champion already")
        return self._settled(name, ledger.append("promote", version, champion, reason, by))

    def rollback(self, name: str, reason: str, by: str) -> Line:
        """Makes the previous champion champion again; the current one becomes the challenger.

        Raises:
            RegistryError: no previous champion is in MLflow.
        """
        ownership.check(self, name)
        ledger = Ledger(self.store, name)
        state = ledger.state()
        if deleted_versions.record(ledger, state, lambda number: self.exists(name, number), spare=state.champion):
            state = ledger.state()
        if state.champion is None or state.previous is None:
            reason = f"version {state.champion} is its first champion" if state.champion else "it has no champion"
            raise RegistryError(f"{name} cannot be rolled back: {reason}; see `motet history`")
        line = self._settled(name, ledger.append("rollback", state.previous, state.champion, reason, by))
        if self.exists(name, state.champion):
            self.client.set_registered_model_alias(name, CHALLENGER, str(state.champion))
        return line

    def adopt(self, name: str, reason: str, by: str) -> Line:
        """Makes this root the owner of the name, and @champion of MLflow the champion of the ledger.

        Raises:
            RegistryError: no such model.
        """
        line = ownership.adopt(self, name, reason, by)
        self.follow(name)
        return line

    def champion(self, name: str) -> Version | None:
        """The newest champion of the ledger whose version is in MLflow."""
        champions = reversed(self.state(name).champions)
        return next((version for number in champions if (version := self.existing(name, number))), None)

    def n_comparisons(self, name: str, rows: str | None, version: int | None = None) -> int:
        """Number of candidates, with `version`, that were compared with the champion on these test rows."""
        return self.state(name).challenges(rows, besides=version) + 1

    def record(self, version: Version, metrics: Mapping[str, float], run: Run | None = None) -> None:
        """Stores test scores of the packaged model with its version, and as test/<metric> with its run."""
        numbers = {metric: round(float(value), 4) for metric, value in metrics.items()}
        self.client.set_model_version_tag(version.name, str(version.version), "motet.metrics", tag_json(numbers))
        if run:
            run.log({f"test/{metric}": value for metric, value in numbers.items()}, step=0)

    def leaderboard(self, name: str, metric: str | None = None, lower_is_better: bool = True) -> list[Version]:
        """Versions by a recorded metric, best first; newest first if no metric is given."""
        versions = self.versions(name)
        if metric is None:
            return versions
        sign = 1 if lower_is_better else -1
        return sorted(versions, key=lambda version: sign * version.metrics.get(metric, sign * float("inf")))

    def load(self, uri: str, device: str | None = None, base: str | None = None) -> Predictor:
        """A Predictor from models:/name@champion, models:/name/3, or a folder.

        A user's adapter is applied to `base`, by default the version that it was trained for.

        Raises:
            RegistryError: no such model; the message lists what exists.
            PersonalError: the adapter was trained for another version than `base`.
        """
        from pipelines.packaging import loading

        package = self._package(uri)
        adapter = adapter_file(package)
        if adapter is None:
            return loading.load_model(_inside(package), device)
        return loading.load_adapted(adapter, self.folder(base or loading.base_uri(adapter)), device)

    def adapter(self, uri: str) -> Path | None:
        """The file of a user's adapter at models:/name@alias, models:/name/3 or a package; None for a model."""
        return adapter_file(self._package(uri))

    def named(self, uri: str) -> Version:
        """The version at models:/name@alias or models:/name/3. Raises RegistryError."""
        item = self._find(parse_uri(uri))
        return self.version(item.name, int(item.version))

    def folder(self, uri: str) -> Path:
        """The Predictor folder of models:/name@alias, models:/name/3, a package, or a Predictor folder.

        Raises:
            RegistryError: no such model, alias or folder.
        """
        return _inside(self._package(uri))

    def _package(self, uri: str) -> Path:
        if not uri.startswith("models:/"):
            return Path(uri)
        return local_package(self.uri, home_folder(self.store.root), self._find(parse_uri(uri)))

    def _find(self, match: re.Match[str]) -> ModelVersion:
        name, alias, number = match["name"], match["alias"], match["version"]
        if alias:
            item = unless_absent(lambda: self.client.get_model_version_by_alias(name, alias), alias=True)
        else:
            item = unless_absent(lambda: self.client.get_model_version(name, number))
        if item is not None:
            return item
        if alias == CHAMPION and (champion := self.champion(name)):
            note = f"{match[0]} is missing in MLflow: using version {champion.version}, the newest one left"
            progress.current().line("registry", note)
            return self.client.get_model_version(name, str(champion.version))
        versions = self.versions(name)
        if not versions:
            known = ", ".join(self.models()) or "none yet; `motet nightly` makes the first"
            raise RegistryError(f"no model is named {name!r} in {self.uri}; there are: {known}")
        aliases = sorted(self.aliases(name)) or ["none"]
        raise RegistryError(
            f"{match[0]} is not there; {name} has versions {versions[-1].version} to {versions[0].version} "
            f"and the aliases {', '.join(aliases)}"
        )

    def follow(self, name: str) -> State:
        """Sets the aliases from the ledger, after a line for each deleted champion."""
        ledger = Ledger(self.store, name)
        while True:
            state = ledger.state()
            if deleted_versions.record(ledger, state, lambda number: self.exists(name, number)):
                continue
            aliases = self.aliases(name)
            if state.champion is not None:
                self.client.set_registered_model_alias(name, CHAMPION, str(state.champion))
                if aliases.get(CHALLENGER) == state.champion:
                    self.client.delete_registered_model_alias(name, CHALLENGER)
            if state.lines:
                ownership.mark(self, name, state.lines[-1])
            if ledger.state().number == state.number:  # else another process added a line meanwhile
                return state

    def _settled(self, name: str, line: Line) -> Line:
        """Sets the aliases; raises Overtaken if the line had no effect."""
        state = self.follow(name)
        if not line.effective:
            raise Overtaken(
                f"{name} version {line.version} was judged against champion {line.expects or 'none'}, "
                f"but {state.champion or 'none'} is champion now; evaluate and decide again (line {line.number} stays)"
            )
        return line


def _inside(folder: Path) -> Path:
    try:
        return predictor_folder(folder)
    except PackageError as error:
        raise RegistryError(str(error)) from None
