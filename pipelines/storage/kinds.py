"""All kinds of dataset. The kind is the first part of a dataset's name, such as "features" in features/1f0c/calls.

`Store.commit` rejects other kinds, so that the garbage collector (garbage.py) covers all datasets.
"""

from __future__ import annotations

from pipelines.storage.roots import StoreError

# Kinds whose unreferenced objects below `<name>/` are garbage, because they can be derived again.
DERIVED = ("alignment", "features", "pitch", "prosody", "quarantine", "recordings", "utterances", "waveforms")
KINDS = (*DERIVED, "ledger", "models", "nights")
AUDIO = "audio"  # copies of recordings; not a dataset, but referenced by utterance tables
# Folders from which unreferenced objects are deleted. Checkpoints, reports and MLflow's files are never collected.
COLLECTED = (f"{AUDIO}/", *(f"{kind}/" for kind in DERIVED))


def check_kind(dataset: str) -> None:
    """Raises StoreError for a dataset of a kind that is not listed."""
    kind, _, name = dataset.partition("/")
    if kind not in KINDS or not name:
        raise StoreError(
            f"{dataset!r} is not a dataset of a known kind; expected KIND/NAME with KIND one of {', '.join(KINDS)}. "
            "Add a new kind to KINDS in pipelines/storage/kinds.py"
        )
