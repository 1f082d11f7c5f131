"""Assigns rows to train, valid and test by the row alone, independently of the rest of the corpus.

The name of the speaker (or sentence) is hashed to a number in [0, 1) and compared with the
cumulative fractions. So new data never moves old rows, champion and candidate are compared on the
same test rows, and no speaker is in two splits. With few speakers, a split may be small or empty;
`options.splits: {speaker: split}` in the recipe then assigns speakers to splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pipelines.recipe import Corpus, Fractions, Recipe
from pipelines.storage.store import Manifest
from pipelines.utterances.schema import SPLITS


class SplitError(ValueError):
    """`options.splits` is not a mapping of speakers to splits, or a required split has no rows."""


def position(kind: str, name: str) -> float:
    """The hash of a name as a number in [0, 1). kind: "speaker", "sentence" or "recording"."""
    digest = hashlib.sha256(f"{kind}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_at(position: float, fractions: Fractions) -> str:
    """The split of a position in [0, 1): train first, then valid, then test."""
    if position < fractions.train:
        return "train"
    # A fraction of 0 stays empty, whatever the sums round to.
    if fractions.test == 0 or (fractions.valid > 0 and position < fractions.train + fractions.valid):
        return "valid" if fractions.valid > 0 else "train"
    return "test"


def assign_split(corpus: Corpus, own: str | None, speaker: str | None, text: str | None, digest: str | None) -> str:
    """The split of a row: by the override of its speaker, else the release (split_by "release"), else a hash.

    own: the split in the release. The hash is of the speaker, else the sentence, else the
    recording's digest; with split_by "sentence", of the sentence first.
    """
    override = overrides(corpus).get(speaker or "")
    if override is not None:
        return override
    if corpus.split_by == "release" and own is not None:
        return own
    names = {"speaker": speaker, "sentence": text, "recording": digest}
    order = ("sentence", "speaker", "recording") if corpus.split_by == "sentence" else tuple(names)
    kind = next((kind for kind in order if names[kind] is not None), "recording")
    return split_at(position(kind, names[kind] or ""), corpus.fractions)


def overrides(corpus: Corpus) -> Mapping[str, str]:
    """`options.splits`, checked. Raises SplitError."""
    splits = corpus.options.get("splits") or {}
    where = f"corpora.{corpus.name}.options.splits"
    if not isinstance(splits, Mapping):
        raise SplitError(f"{where} is {splits!r}, expected a mapping of speakers to one of {', '.join(SPLITS)}")
    for speaker, split in splits.items():
        if split not in SPLITS:
            raise SplitError(f"{where}.{speaker} is {split!r}, expected one of {', '.join(SPLITS)}")
    # YAML reads a speaker 1089 as a number.
    return {str(speaker): split for speaker, split in splits.items()}


def require_rows(recipe: Recipe, tables: Sequence[Manifest], split: str) -> None:
    """Checks, before training, that some corpus has rows in the split.

    tables: the utterance manifest of each corpus; one whose meta lacks the counts passes.

    Raises:
        SplitError: no corpus has any; the message gives the counts and what to set.
    """
    counts = {table.dataset.split("/", 1)[1]: table.meta.get("splits") for table in tables}
    if not counts or any(splits is None or splits.get(split) for splits in counts.values()):
        return
    listed = "; ".join(f"corpus {name!r} has {described(splits or {})}" for name, splits in counts.items())
    name = next(iter(counts))
    raise SplitError(
        f"recipe {recipe.name!r}: no {split} row to score a model on: {listed}. Rows without a split of their own are "
        f"split by speaker, so with few speakers a split may be empty: set corpora.{name}.split_by=sentence, other "
        f"corpora.{name}.fractions, or corpora.{name}.options.splits={{SPEAKER: {split}}}"
    )


def described(splits: Mapping[str, int]) -> str:
    """'100 train, 17 valid, 13 test'"""
    return ", ".join(f"{splits.get(split, 0):,} {split}" for split in SPLITS)
