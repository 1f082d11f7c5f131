"""Batches for training: length buckets, temperature sampling, ranks, and a state that resumes in mid-epoch.

    loader = Loader(dataset, codec, recipe.loader, hop_ms=10, micro_batches=4, rank=0, world_size=2)
    for step in loader:                  # the rest of this epoch
        for micro_batch in step:         # this rank's: 2 of the 4
            for batch in micro_batch:    # one of each input group that has rows

Everything follows from (seed, pass, batch). Steps are planned for all ranks together, so that their batches do not
depend on the number of ranks, and the state is an epoch and a step. batch_plan.py plans the batches of a group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from mtl.audio.augmentation import spec_augment, speed
from mtl.groups import input_columns
from mtl.inputs.batch import Batch, Example, collate
from mtl.inputs.codec import Codec
from mtl.inputs.slot_substitution import SlotValues
from mtl.spec import AUDIO, TEXT, first_with_answer, label_columns, task
from pipelines import recipe
from pipelines.data.batch_plan import Group, Planned, budget_of, cut, groups_of, rows_by_group
from pipelines.data.dataset import Dataset
from pipelines.recipe.address import stated
from pipelines.storage.store import fingerprint
from pipelines.utterances.row_groups import group_names

# Columns that are encoded, beside those of tasks and of input groups.
ENCODED = ("id", "corpus", "text", "tokens", "slots", "speaker", "language", "context")
PROSODY = ("phones", "durations", "pitch", "energy")
EVALUATION_SLACK = 0.3  # share of padding at which a batch is closed although the budget has room
CACHED_EXAMPLES = 50_000  # encoded rows, about 3 kB each without inputs of added groups


class LoaderError(ValueError):
    """Settings that do not fit together, or a state of another loader."""


class Loader:
    """Micro-batches of one rank.

    micro_batches: of a step, over all ranks and accumulation; a multiple of `world_size`.

    Raises:
        LoaderError: the dataset is empty, or the micro-batches cannot be divided evenly.
    """

    def __init__(
        self,
        dataset: Dataset,
        codec: Codec,
        config: recipe.Loader,
        hop_ms: float,
        micro_batches: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        if not 0 <= rank < world_size or micro_batches % world_size:
            raise LoaderError(
                f"{micro_batches} micro-batches a step cannot be dealt evenly to rank {rank} of {world_size}; "
                "expected a multiple of the number of workers (trainer.micro_batches)"
            )
        if not len(dataset):
            raise LoaderError(f"{dataset!r} has no rows to train on; is the split empty?")
        self.config = config
        self.micro_batches, self.rank, self.world_size, self.seed = micro_batches, rank, world_size, seed
        self.groups = groups_of(dataset.rows, config, hop_ms, seed)
        self.epoch = 0
        self.step = 0  # steps of this epoch that are done
        self._encoder = _Encoder(dataset, codec)
        self._values = self._encoder.slot_values() if config.substitute else None
        self._identity = fingerprint(dataset.identity, stated(config), hop_ms, micro_batches, seed)
        self._starts = [0]  # micro-batches before each epoch, for the groups that wrap around
        self._largest = max(self.groups, key=lambda group: group.count(0))

    def steps(self, epoch: int) -> int:
        """Optimiser steps of an epoch: one pass over the group with the most batches. The others wrap around."""
        return -(-self._largest.count(epoch) // self.micro_batches)

    def __iter__(self) -> Iterator[list[tuple[Batch, ...]]]:
        """Steps from where this epoch stands to its end; then the loader stands at the next epoch."""
        while self.step < self.steps(self.epoch):
            batches = self._step(self.epoch, self.step)
            self.step += 1  # before the yield: a state that is saved during a step counts it as done
            yield batches
        self.epoch, self.step = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "step": self.step, "identity": self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state` was saved, at any world size.

        Raises:
            LoaderError: other data, configuration, seed or number of micro-batches.
        """
        if state["identity"] != self._identity:
            raise LoaderError(
                "the loader's state was saved with other data, loader settings, seed or micro_batches "
                f"(identity {state['identity']}, now {self._identity}); resume with the same recipe and data, "
                "or start anew"
            )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])

    def _planned(self, group: Group, epoch: int, number: int) -> Planned:
        """The group's batch in micro-batch `number` of an epoch."""
        if group is self._largest:
            # Each epoch begins with a new pass; the last step is completed from the following pass.
            return group.at(epoch, number)
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + self.steps(len(self._starts) - 1) * self.micro_batches)
        return group.at(0, self._starts[epoch] + number)

    def _step(self, epoch: int, step: int) -> list[tuple[Batch, ...]]:
        """This rank's micro-batches of a step, each with one batch per group."""
        mine = range(step * self.micro_batches + self.rank, (step + 1) * self.micro_batches, self.world_size)
        return [tuple(self._batch(self._planned(group, epoch, number)) for group in self.groups) for number in mine]

    def _batch(self, planned: Planned) -> Batch:
        config = self.config
        if self._values and self._encoder.groups[planned.rows[0]] == TEXT:
            generator = np.random.default_rng((self.seed, 2, planned.pass_number, planned.number))
            sentences = self._encoder.examples(planned.rows)
            return collate([self._values.exchange(sentence, config.substitute, generator) for sentence in sentences])
        batch = self._encoder.batch(planned.rows, planned.speeds)
        if batch.features is not None and batch.feature_lengths is not None and config.time_masks + config.freq_masks:
            generator = np.random.default_rng((self.seed, 1, planned.pass_number, planned.number))
            spec_augment(
                batch.features, batch.feature_lengths, generator,
                config.time_masks, config.time_mask_fraction, config.freq_masks, config.freq_mask_bins,
            )  # fmt: skip
        return batch


def evaluation_batches(dataset: Dataset, codec: Codec, config: recipe.Loader) -> Iterator[tuple[np.ndarray, Batch]]:
    """Every row once, with indices into the dataset, group by group and longest first, without augmentation."""
    encoder = _Encoder(dataset, codec)
    for name, members, lengths in rows_by_group(dataset.rows):
        order = np.argsort(-lengths, kind="stable")
        budget = budget_of(name, config, dataset.hop_ms)
        for rows in cut(lengths[order], budget, EVALUATION_SLACK, members[order]):
            yield rows, encoder.batch(rows, None)


class _Encoder:
    """Rows of a dataset as batches; encoded rows are cached."""

    def __init__(self, dataset: Dataset, codec: Codec) -> None:
        self.dataset, self.codec = dataset, codec
        self.groups = group_names(dataset.rows)
        columns = (*ENCODED, *(column.name for column in (*label_columns(), *input_columns())), *PROSODY)
        self.labels = dataset.rows.select(columns)
        self.cache: dict[int, Example] = {}

    def batch(self, rows: np.ndarray, speeds: np.ndarray | None) -> Batch:
        """Rows of one group. Features are float16 as stored, float32 after speed perturbation."""
        examples = self.examples(rows)
        if self.groups[rows[0]] != AUDIO:
            return collate(examples)
        features = self.dataset.features(rows)
        if speeds is not None and self.dataset.spec is not None:
            spec = self.dataset.spec
            features = [speed(f, factor, spec).numpy() for f, factor in zip(features, speeds.tolist(), strict=True)]
        if not self.dataset.sounds:
            return collate(examples, features)
        return collate(examples, features, self.dataset.waveforms(rows), self.dataset.pitches(rows))

    def examples(self, rows: np.ndarray) -> list[Example]:
        examples = {row: self.cache[row] for row in rows.tolist() if row in self.cache}
        missing = [row for row in rows.tolist() if row not in examples]
        if missing:
            for row, content in zip(missing, self.labels.take(pa.array(missing)).to_pylist(), strict=True):
                examples[row] = self.codec.encode(content)
                if len(self.cache) < CACHED_EXAMPLES:
                    self.cache[row] = examples[row]
        return [examples[row] for row in rows.tolist()]

    def slot_values(self) -> SlotValues | None:
        """Of all rows with slots, recordings included; None without a task that tags words."""
        tagger = first_with_answer(self.codec.labels, "tags")
        if tagger is None:
            return None
        rows = np.flatnonzero(self.labels[task(tagger).label].is_valid().to_numpy())
        examples = (example for part in np.array_split(rows, len(rows) // 1000 + 1) for example in self.examples(part))
        return SlotValues(examples, tagger, self.codec.labels[tagger])
