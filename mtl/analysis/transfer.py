"""Transfer between tasks: relative gains over single-task models, and groupings of tasks into models.

    draws = pigeonhole_bootstrap(counts, values)           # {key: (1 + R,) values}, the first as observed
    gain = relative_gain(draws["joint"], draws["single"], "lower")
    estimate(gain)                                          # 6.2 %, 95 % between 1.1 % and 10.9 %
    groupings(tasks, gain_of, closed)                       # the best grouping into 1, 2, ... K models

delta_m is that of Maninis et al. 2019 (arXiv:1904.08918), as surveyed by Vandenhende et al. 2021: the mean over
tasks of the change in the task's own metric relative to its single-task model, in percent, positive for better.
Grouping follows Standley et al. 2020 (arXiv:1905.07553) and Fifty et al. 2021 (arXiv:2109.04617): the search is
exhaustive, and a model may train tasks that it does not serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np

from mtl.metrics.bootstrap import CONFIDENCE, estimate

Tasks = frozenset[str]


def relative_gain(value: np.ndarray, base: np.ndarray, better: Literal["lower", "higher"]) -> np.ndarray:
    """100 x (value - base) / base, negated where lower is better; NaN if the base is zero."""
    sign = 1.0 if better == "higher" else -1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = sign * 100.0 * (value - base) / base
    return np.where(np.isfinite(gain), gain, np.nan) + 0.0  # without negative zero


@dataclass(frozen=True)
class Model:
    """One model of a grouping: the tasks that it serves, and those that it trains."""

    serves: tuple[str, ...]
    trains: tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """Every task served by one of the models. draws (1 + R,): the tasks' mean relative gain, percent."""

    models: tuple[Model, ...]
    draws: np.ndarray = field(repr=False, compare=False)


def groupings(
    tasks: Sequence[str], gain: Callable[[Tasks, str], np.ndarray | None], closed: Callable[[Tasks], Tasks]
) -> list[Grouping]:
    """The best grouping for each number of models from one to one per task. Exhaustive: meant for few tasks.

    gain(trained, task): draws (1 + R,) of the task's gain if `trained` are trained together, zero for the task alone;
    None if unknown. closed(tasks): the tasks with those that they depend on. A number of models with unknown gains is
    left out. Ties are resolved in favour of fewer trained tasks.
    """
    everything = [frozenset(chosen) for size in range(1, len(tasks) + 1) for chosen in combinations(tasks, size)]
    served: dict[Tasks, tuple[Tasks, np.ndarray]] = {}
    for trained in everything:  # the smaller sets first
        gains = {task: gain(trained, task) for task in trained} if closed(trained) == trained else {}
        for block in everything:
            parts = [gains.get(task) for task in block] if block <= trained else [None]
            known = [part for part in parts if part is not None and math.isfinite(part[0])]
            if len(known) == len(parts):
                total = np.sum(known, axis=0)
                if block not in served or total[0] > served[block][1][0] + 1e-9:
                    served[block] = trained, total
    best: dict[int, Grouping] = {}
    for blocks in partitions(tuple(tasks)):
        if not all(frozenset(block) in served for block in blocks):
            continue
        draws = np.sum([served[frozenset(block)][1] for block in blocks], axis=0) / len(tasks)
        if len(blocks) not in best or draws[0] > best[len(blocks)].draws[0] + 1e-9:
            models = tuple(
                Model(block, tuple(task for task in tasks if task in served[frozenset(block)][0])) for block in blocks
            )
            best[len(blocks)] = Grouping(models, draws)
    return [best[number] for number in sorted(best)]


def suggested(candidates: Sequence[Grouping], confidence: float = CONFIDENCE) -> Grouping:
    """The grouping with the fewest models that is not significantly worse than the best one."""
    best = max(candidates, key=lambda grouping: float(grouping.draws[0]))
    return next(grouping for grouping in candidates if not estimate(best.draws - grouping.draws, confidence).low > 0)


def partitions(items: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """All partitions of the items into blocks; items and blocks keep their order."""
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = tuple(item for item in rest if item not in others)
            for blocks in partitions(left):
                yield ((first, *others), *blocks)
