"""Which tasks help which: relative gains with bootstrap intervals, and how to group tasks into models.

    drawn = resampled(counts, metrics)                      # {key: (1 + R,) values}, the first as observed
    gain = relative_gain(drawn["joint"], drawn["single"], "lower")
    estimate(gain)                                          # 6.2 %, 95 % between 1.1 % and 10.9 %
    groupings(tasks, gain_of, closed)                       # the best way to serve the tasks with 1, 2, ... K models

delta_m is that of Maninis et al. 2019 (arXiv:1904.08918), as surveyed by Vandenhende et al. 2021: the mean over
tasks of the change in the task's own metric relative to its single-task model, in percent, positive for better.
Grouping follows Standley et al. 2020 (arXiv:1905.07553) and Fifty et al. 2021 (arXiv:2109.04617): all ways are tried,
and a model may train tasks that it does not serve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np

from mtl.metrics.scoring import Metric

RESAMPLES = 1000
CONFIDENCE = 0.95
_WEIGHTS_AT_ONCE = 10_000_000  # of a chunk of resamples: 80 MB
Key = TypeVar("Key", bound=Hashable)
Tasks = frozenset[str]


@dataclass(frozen=True)
class Estimate:
    """A value as observed, with its two-sided bootstrap interval; NaN where nothing could be computed."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def resampled(
    counts: Mapping[Key, np.ndarray], metrics: Mapping[Key, Metric], resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, np.ndarray]:
    """Each metric's mean over seeds, (1 + R,): as observed, then in R resamples; NaN without a labelled item.

    counts (S, N, C): of S seeds on N rows, the same seeds and rows under every key, zeros where a row is not labelled.
    Seeds and rows are drawn independently with replacement (the pigeonhole bootstrap, Owen 2007), and alike for all
    keys, so that whatever two keys have in common drops out of their difference. Of S seeds the spread is found too
    small by sqrt((S - 1) / S), as with any bootstrap; one seed says nothing about other seeds.
    """
    seeds, rows, _ = next(iter(counts.values())).shape
    rng = np.random.default_rng(seed)
    picks = np.vstack([np.arange(seeds), rng.integers(0, seeds, (resamples, seeds))])
    found: dict[Key, list[np.ndarray]] = {key: [] for key in counts}
    size = max(1, min(resamples, _WEIGHTS_AT_ONCE // rows))
    for start in range(0, resamples + 1, size):
        chosen = picks[start : start + size]
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=len(chosen)).astype(np.float64)
        if start == 0:
            weights[0] = 1.0
        for key, table in counts.items():
            values = np.stack([metrics[key].value(weights @ one) for one in table])  # (S, R)
            found[key].append(values[chosen, np.arange(len(chosen))[:, None]].mean(axis=1))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def relative_gain(value: np.ndarray, base: np.ndarray, better: Literal["lower", "higher"]) -> np.ndarray:
    """100 x (value - base) / base, negated where lower is better; NaN where the base is zero: nothing to divide by."""
    sign = 1.0 if better == "higher" else -1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = sign * 100.0 * (value - base) / base
    return np.where(np.isfinite(gain), gain, np.nan) + 0.0  # no negative zero is shown


def estimate(draws: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Of draws (1 + R,); resamples without a value are left out."""
    usable = draws[1:][np.isfinite(draws[1:])]
    if not len(usable) or not math.isfinite(draws[0]):
        return Estimate(math.nan, math.nan, math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(usable, [tail, 1 - tail])
    return Estimate(float(draws[0]), float(low), float(high))


@dataclass(frozen=True)
class Model:
    """One model of a grouping: the tasks that users get from it, and all that it trains on."""

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
    """The best grouping with one model, with two, … with one a task: exhaustive, so meant for few tasks.

    gain(trained, task): draws (1 + R,) of the task's gain when `trained` are trained together, zero for the task alone;
    None where it is not known. closed(tasks): the tasks with all that they need. A number of models for which some
    gain is not known is left out. Of equals, the one that trains fewer tasks.
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


def suggested(found: Sequence[Grouping], confidence: float = CONFIDENCE) -> Grouping:
    """The fewest models that are not shown to be worse than the best grouping: every further model has its cost."""
    best = max(found, key=lambda grouping: float(grouping.draws[0]))
    return next(grouping for grouping in found if not estimate(best.draws - grouping.draws, confidence).low > 0)


def partitions(items: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """All ways to divide the items into blocks; items and blocks keep their order."""
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = tuple(item for item in rest if item not in others)
            for blocks in partitions(left):
                yield ((first, *others), *blocks)
