"""Ownership of registered models: a model belongs to the root whose ledger its aliases follow.

    ownership.check(registry, "assistant")        # raises RegistryError if it belongs to another root
    ownership.claim(registry, "assistant")        # also reserves the name for this root
    ownership.adopt(registry, "assistant", "the old disk is lost", "ana")

Several roots may share one MLflow. Each has an id (root.json); a registered model has tags with the id of its root and
with the last ledger line that its aliases were set from. A copy of a root has the same id, but not the lines that were
added since, and is refused.
"""

from __future__ import annotations

import json
import socket
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.core.environment import quiet_mlflow
from pipelines.registry.deleted_versions import BY, stored_copy
from pipelines.registry.ledger import ALL, Ledger, Line, State
from pipelines.registry.models import RegisteredModels
from pipelines.registry.version import CHAMPION, RegistryError
from pipelines.storage.roots import open_root
from pipelines.storage.store import Store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel

IDENTITY = "root.json"
ROOT_TAG, LOCATION_TAG, LEDGER_TAG = "motet.root", "motet.root_location", "motet.ledger"
DESCRIPTION = "Trained and promoted by Motet."


def identity(store: Store) -> str:
    """The root's id, created on first use; it stays the same when the root is moved."""
    if not store.exists(IDENTITY):
        content = {"id": uuid.uuid4().hex, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        open_root(store.root).create(IDENTITY, json.dumps(content, indent=1).encode())
    return str(json.loads(store.read_bytes(IDENTITY))["id"])


def location(store: Store) -> str:
    """Location of the root, as shown in messages."""
    return store.root if "://" in store.root else f"{socket.gethostname()}:{store.root}"


def check(registry: RegisteredModels, name: str) -> None:
    """Raises RegistryError if this root must not change the registered model `name`."""
    _check(registry, name, registry.registered(name))


def claim(registry: RegisteredModels, name: str) -> None:
    """Reserves the name for this root. Raises RegistryError if it belongs to another."""
    model = registry.registered(name)
    _check(registry, name, model)
    if model is None:
        _create(registry, name)
    elif not _tag(registry, model):
        return
    check(registry, name)  # of two roots that claim at the same time, one sees the other's tag


def _check(registry: RegisteredModels, name: str, model: RegisteredModel | None) -> None:
    state = registry.state(name)
    if model is None:
        if state.current and not _has_experiment(registry, name):
            raise RegistryError(
                f"the ledger of {name} in {location(registry.store)} has {len(state.current)} lines, and this MLflow "
                f"has neither a model nor an experiment of that name. Is MLFLOW_TRACKING_URI the one that it was "
                f"trained with? `motet adopt {name}` starts anew here, without a champion"
            )
        return
    owner = model.tags.get(ROOT_TAG)
    objection = _unowned(registry, model, state) if owner is None else _owned(registry, model, state, owner)
    if objection:
        raise RegistryError(f"{objection}. {_advice(name)}")


def adopt(registry: RegisteredModels, name: str, reason: str, by: str) -> Line:
    """Makes this root the owner of a registered model; its ledger continues from @champion in MLflow.

    Raises:
        RegistryError: neither MLflow nor the ledger knows the name.
    """
    model, ledger = registry.registered(name), Ledger(registry.store, name)
    if model is None and not ledger.state().lines:
        known = ", ".join(registry.models()) or "none yet"
        raise RegistryError(f"no model is named {name!r} in this MLflow; there are: {known}")
    champion = registry.aliases(name).get(CHAMPION, 0)
    while True:
        line = ledger.append("adopt", champion, ledger.state().champion, reason, by)
        if line.effective:
            break
    if model is None:
        _create(registry, name)
    else:
        _tag(registry, model)
        mark(registry, name, line)
    return line


def mark(registry: RegisteredModels, name: str, line: Line) -> None:
    """Tags the registered model with the ledger line that its aliases follow."""
    registry.client.set_registered_model_tag(name, LEDGER_TAG, f"{line.number}:{line.address}")


def _owned(registry: RegisteredModels, model: RegisteredModel, state: State, owner: str) -> str | None:
    """Why a model with the tag of a root must not be changed; None if it may."""
    owner_location = model.tags.get(LOCATION_TAG, "unknown location")
    here = location(registry.store)
    if owner != identity(registry.store):
        return (
            f"{model.name} in this MLflow belongs to another root, {owner_location} (id {owner[:8]}), whose ledger "
            f"says who is champion; this one is {here} (id {identity(registry.store)[:8]})"
        )
    followed = model.tags.get(LEDGER_TAG)
    if followed and followed not in {f"{line.number}:{line.address}" for line in _followable(state)}:
        return (
            f"line {followed.partition(':')[0]} of the ledger of {model.name}, which @champion follows in this MLflow, "
            f"is not in {here}: this is a copy of the root {owner_location} or an older state of it, and the "
            "other has gone on"
        )
    return None


def _unowned(registry: RegisteredModels, model: RegisteredModel, state: State) -> str | None:
    """Why a model without the tag of a root must not be changed; None if it may."""
    if registry.embedded:
        return None  # the database is in this root
    name, champion = model.name, dict(model.aliases).get(CHAMPION)
    versions = registry.versions(name)
    if champion is None:
        trained = (f"train/{version.tags.get('motet.night')}/result.json" for version in versions)
        if state.current or not versions or any(registry.store.exists(key) for key in trained):
            return None
        return f"{name} in this MLflow has {len(versions)} versions, and none was made by {location(registry.store)}"
    number = int(champion)
    copy = stored_copy(registry.store, name, number)
    registered_address = next((version.address for version in versions if version.version == number), "")
    promoted = {line.version for line in state.current if line.effective and line.action in ("promote", "rollback")}
    if number in promoted and (copy is None or copy.address == registered_address):
        return None
    recorded = f"champion {state.champion}" if state.champion is not None else "no champion"
    return (
        f"@champion of {name} in this MLflow is version {number}, and the ledger in {location(registry.store)} has "
        f"{recorded}: another root made that model"
    )


def _advice(name: str) -> str:
    return (
        "Give your recipe another name (name: …), use the other root (--root), set MLFLOW_TRACKING_URI to an MLflow "
        f"of your own, or take the model over for good: `motet adopt {name}`"
    )


def _followable(state: State) -> tuple[Line, ...]:
    """The lines that this MLflow may follow: the current ones and the adoption or deletion before them."""
    return state.lines[max(0, len(state.lines) - len(state.current) - 1) :]


def _has_experiment(registry: RegisteredModels, name: str) -> bool:
    """Whether this MLflow holds the model's runs: then the model was deleted; else this is another MLflow."""
    return registry.client.get_experiment_by_name(name.partition(".")[0]) is not None


def _create(registry: RegisteredModels, name: str) -> None:
    ledger = Ledger(registry.store, name)
    if ledger.state().current:
        ledger.append("lost", ALL, ledger.state().champion, "the registered model is not in MLflow any more", BY)
    tags = {ROOT_TAG: identity(registry.store), LOCATION_TAG: location(registry.store)}
    mlflow = quiet_mlflow()
    try:
        registry.client.create_registered_model(name, tags, DESCRIPTION)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tag(registry: RegisteredModels, model: RegisteredModel) -> bool:
    """Writes the root's id and location; returns whether any was missing."""
    tags = {ROOT_TAG: identity(registry.store), LOCATION_TAG: location(registry.store)}
    missing = {tag: value for tag, value in tags.items() if model.tags.get(tag) != value}
    for tag, value in missing.items():
        registry.client.set_registered_model_tag(model.name, tag, value)
    return bool(missing)
