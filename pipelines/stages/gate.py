"""The gate: decides whether a version is promoted, records the decision in the ledger, and sets the aliases."""

from __future__ import annotations

from typing import Any

from pipelines.core.stage import Stage
from pipelines.registry.registry import CHALLENGER, Overtaken, Registry, RegistryError
from pipelines.stages.context import Context, manifests, stored_recipe
from pipelines.stages.held_out import HeldOutScores, compared, current_champion, judged
from pipelines.stages.outcome import state_of
from pipelines.stages.train import RECIPE_TAG

ATTEMPTS = 3  # of a comparison, if the champion changes meanwhile


def _gate(context: Context, by: str = "nightly", again: bool = False) -> tuple[str, dict[str, Any]]:
    """Decides on the registered version. Value: promoted, reason, champion (compared with), decision.

    again: ignore an earlier decision on this version.

    Raises:
        Overtaken: the champion changed faster than the comparison took, several times in a row.
    """
    held_out, registry, name = HeldOutScores(context), context.registry, context.recipe.name
    version: int = context.values["register"]
    line = None if again else judged(registry, name, version)
    for attempt in range(1, ATTEMPTS + 1):
        if line is not None:
            break
        registry.claim(name)
        expects = registry.state(name).champion
        decision, rows = held_out.compare(version, current_champion(registry, name, version, again))
        try:
            line = registry.settle(name, version, decision, expects, rows, by)
        except Overtaken:  # compare with the new champion
            if attempt == ATTEMPTS:
                raise
    assert line is not None, "the loop ends with a line or raises"
    promoted = line.action == "promote"
    value = {"promoted": promoted, "reason": line.reason, "champion": compared(line), "decision": line.decision}
    return f"{state_of(promoted)}: {line.reason}", value


def _promote(
    context: Context, model: str, version: int, force: bool, reason: str, by: str
) -> tuple[str, dict[str, Any]]:
    """Runs the gate again on a version, or with `force` promotes it. Value: as of the gate.

    Raises:
        RegistryError: no such version, it is the champion already, or its data no longer exist.
    """
    registry = context.registry
    registry.check(model)
    candidate, champion = registry.version(model, version), registry.champion(model)
    if champion is not None and champion.version == version:
        raise RegistryError(f"{model} version {version} is the champion already")
    if not force:
        return "", GATE.run(_context_of(context, version, candidate), by, True).value
    line = registry.promote(model, version, reason, by)
    value = {"promoted": True, "reason": line.reason, "champion": line.expects, "decision": None}
    return f"{candidate.uri} by {by}: {reason}", value


def _context_of(context: Context, number: int, candidate: Any) -> Context:
    """The recipe and the data that a version was trained with."""
    store = context.store
    key = candidate.tags.get(RECIPE_TAG)
    if not key or not store.exists(key):
        raise RegistryError(f"{candidate.uri} was not trained by a night of {store.root}; use `--force` to promote it")
    refs = list(candidate.datasets.items())
    tables = [ref for ref in refs if ref[0].startswith("utterances/")]
    features = [ref for ref in refs if ref not in tables]
    judging = Context(store, stored_recipe(store, key), manifests(store, tables), manifests(store, features))
    judging.values["register"] = number
    return judging


def challenger(root: str, model: str) -> int:
    """The version with the alias @challenger. Raises RegistryError when there is none."""
    registry = Registry(root)
    for version in registry.versions(model):
        if CHALLENGER in version.aliases:
            return version.version
    raise RegistryError(f"{model} has no challenger in {registry.uri}; name a version, see `motet leaderboard {model}`")


GATE = Stage("gate", _gate, inputs=("register",), kinds=("ledger",))
PROMOTION = Stage("promotion", _promote, label="promote", kinds=("ledger",))
