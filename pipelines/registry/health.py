"""Checks a root's ledgers against MLflow; changes nothing.

for problem in problems(registry, "assistant"):
    print(problem)
"""

from __future__ import annotations

from pipelines.registry import deleted_versions, ownership
from pipelines.registry.registry import CHAMPION, Registry, RegistryError

LEDGERS = "ledger/"


def names(registry: Registry) -> list[str]:
    """Models with a ledger in the root."""
    datasets = (dataset for dataset in registry.store.datasets() if dataset.startswith(LEDGERS))
    return [dataset.removeprefix(LEDGERS) for dataset in datasets]


def problems(registry: Registry, name: str) -> list[str]:
    """One sentence per problem; none for a model without a ledger in this root."""
    state = registry.state(name)
    if not state.lines:
        return []
    try:
        ownership.check(registry, name)
    except RegistryError as error:
        return [str(error)]
    if warning := deleted_versions.warning(registry.store, name, state):
        return [warning]
    champion = registry.champion(name)
    if state.champion is not None and (champion is None or champion.version != state.champion):
        newest = (
            f"version {champion.version} is the newest champion left" if champion else "no earlier champion is left"
        )
        return [
            f"{name}: version {state.champion}, the champion, was deleted from MLflow; {newest}. "
            "The next night notes it in the ledger"
        ]
    alias = registry.aliases(name).get(CHAMPION)
    if state.champion is not None and alias != state.champion:
        where = "is missing in MLflow" if alias is None else f"is on version {alias} in MLflow"
        return [f"{name}: @champion {where}; the next night sets it on version {state.champion}, as the ledger says"]
    return []
