"""Every kind of dataset that the store knows: the first part of a dataset's name, as "features" in features/1f0c/calls.

`Store.commit` refuses a kind that is not listed here, so that the garbage collector (garbage.py) knows them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.storage.roots import StoreError


@dataclass(frozen=True)
class DatasetKind:
    """collected: objects below `<name>/` that no manifest reaches are garbage; they can be derived again."""

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
AUDIO = "audio"  # copies of recordings; no dataset of their own, reached through utterance tables
# Folders whose objects live only as long as a manifest reaches them. Whatever else a root holds (checkpoints, reports,
# MLflow's files) is not the garbage collector's to judge.
COLLECTED = (f"{AUDIO}/", *(f"{kind.name}/" for kind in KINDS if kind.collected))


def check_kind(dataset: str) -> None:
    """Raises StoreError for a dataset of a kind that is not listed."""
    kind, _, name = dataset.partition("/")
    known = [one.name for one in KINDS]
    if kind not in known or not name:
        raise StoreError(
            f"{dataset!r} is not a dataset that garbage collection knows; expected KIND/NAME with KIND one of "
            f"{', '.join(known)}. Add a new kind to KINDS in pipelines/storage/kinds.py"
        )
