"""Speakers dealt into folds: those of one fold are the valid split, all others train."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.dataset import Dataset


class FoldError(ValueError):
    """Speakers that cannot be dealt as a recipe asks; the message says what there is."""


def speakers_of(rows: pa.Table) -> list[str]:
    """Who speaks in recordings, "<corpus>/<name>", in order."""
    return sorted(set(_speakers(rows).drop_null().to_pylist()))


def held_out(dataset: Dataset, number: int, folds: int) -> Dataset:
    """The dataset in which the speakers of fold `number`, from 0, are the valid split, and all other rows train.

    Speakers are dealt in the order of their names, one after the other. What nobody speaks trains in every fold.

    Raises:
        FoldError: no such fold, or fewer speakers than folds.
    """
    known = speakers_of(dataset.rows)
    if not 0 <= number < folds <= len(known):
        raise FoldError(
            f"fold {number} of {folds}, and {len(known)} speakers: expected 0 <= number < folds <= speakers"
        )
    mine = pc.is_in(_speakers(dataset.rows), pa.array(known[number::folds], pa.string()))
    splits = pc.if_else(mine, "valid", "train").cast(dataset.rows.schema.field("split").type)
    place = dataset.rows.schema.get_field_index("split")
    rows = dataset.rows.set_column(place, dataset.rows.schema.field("split"), splits)
    return dataset.relabelled(rows, f"fold {number} of {folds}")


def _speakers(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) "<corpus>/<speaker>" of recordings; null elsewhere, and where no speaker is known."""
    names = pc.binary_join_element_wise(rows["corpus"], rows["speaker"], "/")
    return pc.if_else(pc.is_valid(rows["audio"]), names, pa.scalar(None, pa.string()))
