"""Cross-validation folds of speakers: one fold is the valid split, all other rows train."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.dataset import Dataset


class FoldError(ValueError):
    """Speakers that cannot be divided into the recipe's folds."""


def speakers_of(rows: pa.Table) -> list[str]:
    """Speakers of recordings, "<corpus>/<name>", sorted."""
    return sorted(set(_speakers(rows).drop_null().to_pylist()))


def held_out(dataset: Dataset, number: int, folds: int) -> Dataset:
    """The dataset with the speakers of fold `number` (from 0) as valid split; all other rows train.

    Every `folds`-th speaker by name is in the same fold. Rows without a speaker train in every fold.

    Raises:
        FoldError: no such fold, or fewer speakers than folds.
    """
    known = speakers_of(dataset.rows)
    if not 0 <= number < folds <= len(known):
        raise FoldError(
            f"fold {number} of {folds}, and {len(known)} speakers: expected 0 <= number < folds <= speakers"
        )
    in_fold = pc.is_in(_speakers(dataset.rows), pa.array(known[number::folds], pa.string()))
    splits = pc.if_else(in_fold, "valid", "train").cast(dataset.rows.schema.field("split").type)
    column = dataset.rows.schema.get_field_index("split")
    rows = dataset.rows.set_column(column, dataset.rows.schema.field("split"), splits)
    return dataset.relabelled(rows, f"fold {number} of {folds}")


def _speakers(rows: pa.Table) -> pa.ChunkedArray:
    """(N,) "<corpus>/<speaker>" of recordings; null for text and unknown speakers."""
    names = pc.binary_join_element_wise(rows["corpus"], rows["speaker"], "/")
    return pc.if_else(pc.is_valid(rows["audio"]), names, pa.scalar(None, pa.string()))
