"""Which rows train, which validate, which test: settled by what a row is, never by what else is in the corpus.

A speaker's (or sentence's) name is hashed to a number in [0, 1) and compared with the cumulative fractions. So new
data never moves old rows, champion and candidate meet on the same test rows, and no speaker is in two splits.
The price: with a handful of speakers a split can be empty or lopsided. `options.splits: {speaker: split}` in the
recipe puts named speakers where one wants them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.recipe import Corpus, Fractions, Recipe
from pipelines.utterances.schema import SPLITS

if TYPE_CHECKING:
    from pipelines.storage.store import Manifest


class SplitError(ValueError):
    """`options.splits` of a corpus is not a mapping of speakers to splits, or a split that is needed has no rows."""


def position(kind: str, name: str) -> float:
    """A number in [0, 1) that is this name's for ever. `kind` keeps a speaker "go" and a sentence "go" apart."""
    digest = hashlib.sha256(f"{kind}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_at(place: float, fractions: Fractions) -> str:
    """The split that a position in [0, 1) falls into: train first, then valid, then test."""
    if place < fractions.train:
        return "train"
    # Written so that valid = 0 or test = 0 stay empty whatever the sums round to.
    if fractions.test == 0 or (fractions.valid > 0 and place < fractions.train + fractions.valid):
        return "valid" if fractions.valid > 0 else "train"
    return "test"


def settle(corpus: Corpus, own: str | None, speaker: str | None, text: str | None, digest: str | None) -> str:
    """The split of a row: the override of its speaker, else the release's own (split_by "release"), else by hash.

    own: the split that the corpus states. A row without speaker goes by its sentence, and one without a sentence
    by its recording's digest; with split_by "sentence" the sentence comes before the speaker.
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
    given = corpus.options.get("splits") or {}
    wrong = f"corpora.{corpus.name}.options.splits"
    if not isinstance(given, Mapping):
        raise SplitError(f"{wrong} is {given!r}, expected a mapping of speakers to one of {', '.join(SPLITS)}")
    for speaker, split in given.items():
        if split not in SPLITS:
            raise SplitError(f"{wrong}.{speaker} is {split!r}, expected one of {', '.join(SPLITS)}")
    # YAML reads a speaker 1089 as a number.
    return {str(speaker): split for speaker, split in given.items()}


def require_rows(recipe: Recipe, tables: Sequence[Manifest], split: str) -> None:
    """Checks that some corpus has rows in the split: before training, not when the model is to be scored.

    tables: the utterance manifest of each corpus. Their meta may lack the counts, which then are not known.

    Raises:
        SplitError: no corpus has; the message gives the counts and what to set.
    """
    counts = {table.dataset.split("/", 1)[1]: table.meta.get("splits") for table in tables}
    if not counts or any(splits is None or splits.get(split) for splits in counts.values()):
        return
    listed = "; ".join(f"corpus {name!r} has {described(splits or {})}" for name, splits in counts.items())
    name = next(iter(counts))
    raise SplitError(
        f"recipe {recipe.name!r}: no {split} row to score a model on: {listed}. Rows without a split of their own are "
        f"dealt by speaker, so that few speakers leave a split empty: set corpora.{name}.split_by=sentence, other "
        f"corpora.{name}.fractions, or corpora.{name}.options.splits={{SPEAKER: {split}}}"
    )


def described(splits: Mapping[str, int]) -> str:
    """'100 train, 17 valid, 13 test'"""
    return ", ".join(f"{splits.get(split, 0):,} {split}" for split in SPLITS)
