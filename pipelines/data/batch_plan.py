"""Batch plans of an input group: sampling over corpora, then buckets of similar length under a budget.

A pass draws rows of each corpus (temperature 1: every row once), sorts them by length with some noise, cuts the order
into batches of at most `budget` frames (words, states), padding included, and shuffles the batches. The noise is as
large as 5 % of padding allows. A plan follows from (seed, group, pass), so it is computed again rather than saved.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mtl.groups import groups
from mtl.spec import AUDIO, TEXT
from pipelines import recipe
from pipelines.utterances.row_groups import group_names, lengths_of

PADDING_LIMIT = 0.05  # share of a pass's frames that is padding
# (noise, slack): relative noise of the lengths before sorting; share of padding at which a batch is closed. Tried in
# this order until the pass is within the limit; the last always is.
ATTEMPTS = ((0.08, 0.15), (0.04, 0.15), (0.02, 0.15), (0.0, 0.15), (0.0, PADDING_LIMIT))
SPEED_STEP = 0.01  # grid of the speeds, so that resampling filters can be cached
PLANS_KEPT = 3  # passes
GROUP_KEYS = {AUDIO: 0, TEXT: 1}  # part of the seed of a group's batches; of others, a hash of the name


@dataclass(frozen=True)
class Planned:
    """A planned batch: rows of the dataset, and their speeds; None without speed perturbation."""

    rows: np.ndarray
    speeds: np.ndarray | None
    pass_number: int
    number: int


class Group:
    """Rows of one input group, cut into batches pass by pass.

    rows (N,): indices into the dataset. lengths (N,): frames, words or states of each. corpora
    (N,): numbers of their corpora.
    """

    def __init__(
        self,
        name: str,
        rows: np.ndarray,
        lengths: np.ndarray,
        corpora: np.ndarray,
        budget: float,
        temperature: float,
        speed: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ) -> None:
        self.name, self.rows, self.lengths = name, rows, np.maximum(lengths, 1)
        self.budget, self.speed = budget, speed
        self._key = (seed, 0, GROUP_KEYS[name] if name in GROUP_KEYS else zlib.crc32(name.encode()))
        self._members = [np.flatnonzero(corpora == corpus) for corpus in np.unique(corpora)]
        self._quotas = quotas([len(members) for members in self._members], temperature)
        self._plans: OrderedDict[int, list[Planned]] = OrderedDict()
        self._counts: dict[int, int] = {}

    def batches(self, pass_number: int) -> list[Planned]:
        """The batches of a pass, in training order."""
        if pass_number not in self._plans:
            self._plans[pass_number] = self._plan(pass_number)
            self._counts[pass_number] = len(self._plans[pass_number])
            while len(self._plans) > PLANS_KEPT:
                self._plans.popitem(last=False)
        return self._plans[pass_number]

    def count(self, pass_number: int) -> int:
        """Number of batches of a pass."""
        if pass_number not in self._counts:
            self.batches(pass_number)
        return self._counts[pass_number]

    def at(self, pass_number: int, number: int) -> Planned:
        """Batch `number`, counted from the beginning of a pass and through the following passes."""
        while number >= self.count(pass_number):
            number -= self.count(pass_number)
            pass_number += 1
        return self.batches(pass_number)[number]

    def _plan(self, pass_number: int) -> list[Planned]:
        generator = np.random.default_rng((*self._key, pass_number))
        chosen = self._draw(pass_number)
        speeds = self._speeds(len(chosen), generator)
        lengths = _perturbed(self.lengths[chosen], speeds)
        batches: list[np.ndarray] = []
        for noise, slack in ATTEMPTS:
            noisy = lengths * generator.uniform(1 - noise, 1 + noise, len(lengths))
            order = np.argsort(-noisy, kind="stable")
            batches = cut(lengths[order], self.budget, slack, order)
            if padding_of(lengths, batches) <= PADDING_LIMIT:
                break
        return [
            Planned(self.rows[chosen[batches[i]]], None if speeds is None else speeds[batches[i]], pass_number, number)
            for number, i in enumerate(generator.permutation(len(batches)))
        ]

    def _draw(self, pass_number: int) -> np.ndarray:
        """Positions of the rows in this pass, shuffled.

        Each corpus is an endless sequence of its permutations, of which every pass takes the next
        `quota`, so that all rows of a corpus are seen equally often at any temperature.
        """
        drawn = []
        for corpus, (members, quota) in enumerate(zip(self._members, self._quotas, strict=True)):
            size, first = len(members), pass_number * quota
            rounds = range(first // size, (first + quota - 1) // size + 1)
            stream = [np.random.default_rng((*self._key, corpus, 1, r)).permutation(size) for r in rounds]
            begin = first - rounds.start * size
            drawn.append(members[np.concatenate(stream)[begin : begin + quota]])
        return np.random.default_rng((*self._key, pass_number, 2)).permutation(np.concatenate(drawn))

    def _speeds(self, count: int, generator: np.random.Generator) -> np.ndarray | None:
        slowest, fastest = self.speed
        if slowest == fastest == 1.0:
            return None
        return np.round(generator.uniform(slowest, fastest, count) / SPEED_STEP) * SPEED_STEP


def quotas(sizes: Sequence[int], temperature: float) -> list[int]:
    """Rows of each corpus in a pass: in proportion to size ** (1 / temperature) (Arivazhagan et al. 2019).

    Temperature 1 takes every row once.
    """
    if temperature == 1:
        return list(sizes)
    shares = np.asarray(sizes, dtype=np.float64) ** (1 / temperature)
    return [max(1, round(share)) for share in sum(sizes) * shares / shares.sum()]


def cut(lengths: np.ndarray, budget: float, slack: float, order: np.ndarray) -> list[np.ndarray]:
    """Segments of `order` with count x longest within the budget and padding within the slack.

    lengths (N,): of the rows as ordered. A row that is longer than the budget is a batch of its own.
    """
    batches, start, longest, total = [], 0, 0, 0
    for position, length in enumerate(lengths.tolist()):
        longest, total = max(longest, length), total + length
        area = longest * (position - start + 1)
        if position > start and (area > budget or total < (1 - slack) * area):
            batches.append(order[start:position])
            start, longest, total = position, length, length
    batches.append(order[start:])
    return batches


def padding_of(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> float:
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - sum(int(lengths[batch].sum()) for batch in batches) / padded


def groups_of(rows: pa.Table, config: recipe.Loader, hop_ms: float, seed: int) -> list[Group]:
    """The input groups that a dataset's rows form."""
    corpora = rows["corpus"].combine_chunks().dictionary_encode().indices.to_numpy()
    names = rows["corpus"].unique().to_pylist()
    # Numbers in the order of names, so that the order of a recipe's corpora changes no batch.
    corpora = np.argsort(np.argsort(names))[corpora]
    formed = []
    for name, members, lengths in rows_by_group(rows):
        speed = (config.speed[0], config.speed[1]) if name == AUDIO else (1.0, 1.0)
        budget = budget_of(name, config, hop_ms)
        formed.append(Group(name, members, lengths, corpora[members], budget, config.temperature, speed, seed))
    return formed


def rows_by_group(rows: pa.Table) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, indices (M,) and lengths (M,) of each group's rows, of groups that have some; recordings come first."""
    names = group_names(rows)
    members = {one.name: np.flatnonzero(names == one.name) for one in groups()}
    return [(name, own, lengths_of(rows, name, own)) for name, own in members.items() if len(own)]


def budget_of(name: str, config: recipe.Loader, hop_ms: float) -> float:
    """Frames, words or states of a micro-batch of one group, padding counted."""
    return config.batch_seconds * 1000 / hop_ms if name == AUDIO else config.batch_tokens


def _perturbed(lengths: np.ndarray, speeds: np.ndarray | None) -> np.ndarray:
    """Frames after speed perturbation, as mtl.audio.augmentation computes them."""
    return lengths if speeds is None else np.maximum(1, np.rint(lengths / speeds)).astype(lengths.dtype)
