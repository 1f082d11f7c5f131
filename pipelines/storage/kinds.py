"""All kinds of dataset. The kind is the first part of a dataset's name, such as "features" in features/1f0c/calls.

`Store.commit` rejects other kinds, so that the garbage collector (garbage.py) covers all datasets.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.storage.roots import StoreError


@dataclass(frozen=True)
class DatasetKind:
    """collected: unreferenced objects below `<name>/` are garbage, because they can be derived again."""

    name: str
    collected: bool


KINDS = (
    DatasetKind("alignment", collected=True),
    DatasetKind("features", collected=True),
    DatasetKind("ledger", collected=False),
    DatasetKind("models", collected=False),
    DatasetKind("nights", collected=False),
    DatasetKind("pitch", collected=True),
    DatasetKind("prosody", collected=True),
    DatasetKind("quarantine", collected=True),
    DatasetKind("recordings", collected=True),
    DatasetKind("utterances", collected=True),
    DatasetKind("waveforms", collected=True),
)
AUDIO = "audio"  # copies of recordings; not a dataset, but referenced by utterance tables
# Folders from which unreferenced objects are deleted. Checkpoints, reports and MLflow's files are never collected.
COLLECTED = (f"{AUDIO}/", *(f"{kind.name}/" for kind in KINDS if kind.collected))


def check_kind(dataset: str) -> None:
    """Raises StoreError for a dataset of a kind that is not listed."""
    kind, _, name = dataset.partition("/")
    kinds = [kind.name for kind in KINDS]
    if kind not in kinds or not name:
        raise StoreError(
            f"{dataset!r} is not a dataset of a known kind; expected KIND/NAME with KIND one of {', '.join(kinds)}. "
            "Add a new kind to KINDS in pipelines/storage/kinds.py"
        )
