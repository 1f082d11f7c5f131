"""What is wrong between a root's ledgers and MLflow; nothing is changed.

for problem in problems(registry, "assistant"):
    print(problem)
"""

from __future__ import annotations

from pipelines.registry import losses, ownership
from pipelines.registry.registry import CHAMPION, Registry, RegistryError

LEDGERS = "ledger/"


def names(registry: Registry) -> list[str]:
    """Models that the root has a ledger of."""
    datasets = (dataset for dataset in registry.store.datasets() if dataset.startswith(LEDGERS))
    return [dataset.removeprefix(LEDGERS) for dataset in datasets]


def problems(registry: Registry, name: str) -> list[str]:
    """A sentence for each; of a model without a ledger in this root there is nothing to say."""
    state = registry.state(name)
    if not state.lines:
        return []
    try:
        ownership.check(registry, name)
    except RegistryError as error:
        return [str(error)]
    if warning := losses.warning(registry.store, name, state):
        return [warning]
    champion = registry.champion(name)
    if state.champion is not None and (champion is None or champion.version != state.champion):
        left = f"version {champion.version} is the newest champion left" if champion else "no earlier champion is left"
        return [
            f"{name}: version {state.champion}, the champion, was deleted from MLflow; {left}. "
            "The next night notes it in the ledger"
        ]
    alias = registry.aliases(name).get(CHAMPION)
    if state.champion is not None and alias != state.champion:
        where = "is missing in MLflow" if alias is None else f"is on version {alias} in MLflow"
        return [f"{name}: @champion {where}; the next night sets it on version {state.champion}, as the ledger says"]
    return []
