"""Scores of checkpoints: which weights may be shipped, and how Ray Train ranks them.

    score({"epoch": 3.0, "valid/transcript/wer": 18.5}, recipe)     # 18.5; None if these weights may not be shipped
    ranked({}, recipe)                                              # {"score": 1.8e308}: a checkpoint in mid-epoch

Ray Train keeps the two checkpoints with the best score and the latest one. One without a score counts as minus
infinity in either order, so with "min" Ray ranks it best (Ray 2.60). Every checkpoint therefore has a score.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

from mtl.metrics.scoring import METRICS
from pipelines.recipe import Recipe
from pipelines.training.checkpoints import SCORE, Row

# Score of checkpoints that may not be shipped. Finite, because Ray writes infinity and NaN as null into its
# snapshot, which a resumed run cannot compare.
WORST = {"max": -sys.float_info.max, "min": sys.float_info.max}


def order(recipe: Recipe) -> Literal["max", "min"]:
    """Whether a higher or a lower score is the better one."""
    return "max" if METRICS[recipe.gates.primary].better == "higher" else "min"


def score(metrics: Mapping[str, float], recipe: Recipe) -> float | None:
    """The primary metric of an epoch whose weights may be shipped, else None.

    None in mid-epoch (no metrics), without a finite value, and before the last stage of a curriculum, where some heads
    are untrained.
    """
    value = metrics.get(f"valid/{recipe.gates.primary}", math.nan)
    first = sum(stage.epochs for stage in recipe.trainer.curriculum) + 1  # epoch in which all tasks train
    return value if math.isfinite(value) and metrics["epoch"] >= first else None


def ranked(metrics: Row, recipe: Recipe) -> Row:
    """The metrics with the score that Ray compares checkpoints by."""
    value = score(metrics, recipe)
    return {**metrics, SCORE: WORST[order(recipe)] if value is None else value}


def unranked(metrics: Mapping[str, Any]) -> Row:
    """The metrics without the score; empty in mid-epoch."""
    return {name: value for name, value in metrics.items() if name != SCORE}
