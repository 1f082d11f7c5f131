"""Inspection of a trained model: activations of its sharing mode, and linear probes of every layer.

    content = read(store, interpreted(store, version.address, lambda: predictor, valid, recipe))
    content["pictures"]["audio"]["gates"], content["probes"][0]["layers"][0]["accuracy"]

It uses at most `interpret.rows` recordings and as many sentences of the valid split. The result is plain data, cached
in the store. Six tasks on three shared blocks take about a minute of one core; modes with an encoder per task take
that time for each task.

Probes (mtl.analysis.inspection) predict three labels: the speaker, on other utterances of the same speakers; the
emotion, on other speakers; and the phone in the middle frame of each phone, on other speakers. Phones are those of the
synthesiser in the embedded corpus. Otherwise the labels are the units (characters or pieces) on the model's own CTC
path of the true text, which favours its last layers a little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mtl.analysis.inspection import (
    Activations,
    Split,
    chance,
    inspect,
    numbered,
    probe,
    split_by_group,
    split_within_class,
)
from mtl.decoding.alignment import viterbi
from mtl.heads.transcript import Transcript
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import Batch
from mtl.sharing.base import Layer
from mtl.spec import tasks
from mtl.text.units import Characters
from pipelines.core.progress import Report
from pipelines.data import features
from pipelines.data.dataset import Dataset
from pipelines.data.loader import evaluation_batches
from pipelines.evaluation.evaluate import rows_identity
from pipelines.recipe import Recipe
from pipelines.storage.store import Store, fingerprint
from pipelines.training.prepare import sampled

VERSION = 1  # bump when the same model on the same rows would give another result
FRAMES = 2000  # of all recordings together, for the probe of phones
MIN_ITEMS = 10  # in the test part of a probe
SYNTHETIC = "espeak"


@dataclass
class ItemStates:
    """States of items (recordings or frames) by layer, with each item's label and position in the dataset."""

    states: dict[Layer, list[torch.Tensor]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def add(self, states: Mapping[Layer, torch.Tensor], labels: Sequence[str], rows: Sequence[int]) -> None:
        for layer, state in states.items():
            self.states.setdefault(layer, []).append(state)
        self.labels += labels
        self.rows += rows


def interpreted(
    store: Store,
    address: str,
    load: Callable[[], Predictor],
    dataset: Dataset,
    recipe: Recipe,
    report: Report | None = None,
) -> str:
    """Key in the store of `interpret` for the model with this address on a sample of these rows; computed once."""
    chosen = dataset.select(sample(dataset.rows, recipe.interpret.rows))
    spec = asdict(chosen.spec) if chosen.spec else None
    parts = (address, rows_identity(chosen), recipe.interpret.probes, spec, features.VERSION, VERSION)
    key = f"interpretations/{fingerprint(*parts)}.json"
    if not store.exists(key):
        store.put_bytes(key, json.dumps(interpret(load(), chosen, recipe, report)).encode())
    return key


def read(store: Store, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(store.read_bytes(key))
    return content


def sample(rows: pa.Table, most: int) -> list[int]:
    """Positions of at most so many recordings, and of as many sentences, by the hash of their ids."""
    text = pc.is_null(rows["audio"]).to_numpy()
    chosen: list[int] = []
    for positions in (np.flatnonzero(~text), np.flatnonzero(text)):
        if len(positions):
            share = min(1.0, most / len(positions))
            chosen += positions[sampled(rows.take(pa.array(positions)), share)].tolist()
    return chosen


def interpret(predictor: Predictor, dataset: Dataset, recipe: Recipe, report: Report | None = None) -> dict[str, Any]:
    """Plain data: mode, tasks, rows, pictures by input group, probes, and skipped (target -> reason)."""
    model = predictor.model.eval()  # resets the recorded activations
    rows = dataset.rows.to_pylist()
    labels = FrameLabels(predictor, rows, phones_of(recipe) if recipe.interpret.probes else {})
    pictures: dict[str, dict[str, Any]] = {}
    utterances, frames = ItemStates(), ItemStates()
    done, group = 0, "audio"
    for indices, batch in evaluation_batches(dataset, predictor.codec, recipe.loader):
        if batch.group != group:  # recordings come first
            model.eval()
            group = batch.group
        activations = inspect(model, batch)
        if recipe.interpret.probes and group == "audio":
            utterances.add(activations.pooled(), [rows[i]["id"] for i in indices], indices.tolist())
            chosen = list(labels.frames(activations, batch, indices))
            if chosen:
                at, numbers, names = zip(*chosen, strict=True)
                frames.add(activations.at(at, numbers), names, [int(indices[row]) for row in at])
        pictures[group] = {name: values.tolist() for name, values in model.trunk.diagnostics().items()}
        done += len(indices)
        if report:
            report(done, len(rows), "inspecting")
    probes, skipped = probed(utterances, frames, rows, labels.kind) if recipe.interpret.probes else ([], {})
    content = {"mode": model.config.sharing.mode, "tasks": list(model.config.tasks), "rows": len(rows)}
    return {**content, "pictures": _plain(pictures), "probes": probes, "skipped": skipped}


class FrameLabels:
    """Labels of frames: the synthesiser's phones where they are known, else units on the model's CTC path."""

    def __init__(self, predictor: Predictor, rows: list[dict[str, Any]], phones: Mapping[str, Any]) -> None:
        self.predictor, self.rows, self.phones = predictor, rows, phones
        units = "character" if isinstance(predictor.codec.units, Characters) else "piece"
        self.kind = "phone" if phones else units
        recordings = sum(row["audio"] is not None for row in rows)
        self.each = -(-FRAMES // max(1, recordings))

    def frames(self, activations: Activations, batch: Batch, indices: np.ndarray) -> Iterator[tuple[int, int, str]]:
        """(row of the batch, frame, label), at most `each` of a row."""
        rows = self._phones(activations, indices) if self.phones else self._units(activations, batch)
        for row, labelled in enumerate(rows):
            order = Random(self.rows[indices[row]]["id"]).sample(range(len(labelled)), min(self.each, len(labelled)))
            yield from ((row, *labelled[i]) for i in sorted(order))

    def _phones(self, activations: Activations, indices: np.ndarray) -> Iterator[list[tuple[int, str]]]:
        step = self.predictor.seconds_per_state
        for length, index in zip(activations.lengths.tolist(), indices, strict=True):
            phones = self.phones.get(self.rows[index]["id"], ())
            middles = [(int((start + end) / 2 / step), symbol) for symbol, start, end in phones]
            yield [(frame, symbol) for frame, symbol in middles if frame < length]

    def _units(self, activations: Activations, batch: Batch) -> Iterator[list[tuple[int, str]]]:
        model = self.predictor.model
        if model.recogniser is None or model.recogniser not in activations.head_inputs:
            return
        recogniser = model.task(model.recogniser)
        assert isinstance(recogniser, Transcript)
        with torch.no_grad():
            log_probs = recogniser.log_probs(activations.head_inputs[model.recogniser])
        units, unit_lengths = recogniser.targets(batch)
        spans = viterbi(log_probs, activations.lengths, units, unit_lengths)
        for row, (numbers, length) in enumerate(zip(units.tolist(), unit_lengths.tolist(), strict=True)):
            pieces = model.codec.units.pieces(numbers[:length])
            aligned = zip(pieces, spans[row, :length].tolist(), strict=True)
            yield [((first + last - 1) // 2, piece) for piece, (first, last) in aligned if first >= 0 and piece.strip()]


def phones_of(recipe: Recipe) -> dict[str, Any]:
    """Phonemes with times of every valid recording of the embedded corpus; empty for other corpora."""
    phones_by_id: dict[str, Any] = {}
    for corpus in recipe.corpora:
        if corpus.kind == SYNTHETIC:
            from pipelines.corpora.espeak import phonemes_of

            phones_by_id |= {f"{corpus.name}/{name}": phones for name, phones in phonemes_of(corpus, "valid")}
    return phones_by_id


def probed(
    utterances: ItemStates, frames: ItemStates, rows: Sequence[Mapping[str, Any]], kind: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Probes of every layer for each target, and the reason for each target without one."""
    probes, skipped = [], {}
    for target, items, labels in (
        ("speaker", utterances, [rows[i].get("speaker") for i in utterances.rows]),
        ("emotion", utterances, [rows[i].get("emotion") for i in utterances.rows]),
        (kind, frames, list(frames.labels)),
    ):
        labelled = [i for i, label in enumerate(labels) if label is not None]
        split = _split(target, [str(labels[i]) for i in labelled], [rows[items.rows[i]] for i in labelled])
        if isinstance(split, str):
            skipped[target] = split
            continue
        train, test = ([labelled[i] for i in side] for side in (split.train, split.test))
        probes.append({"target": target, **_of_layers(items, [str(label) for label in labels], train, test)})
    return probes, skipped


def _split(target: str, labels: list[str], rows: Sequence[Mapping[str, Any]]) -> Split | str:
    """Training and test items of a probe, or why there are none."""
    if not labels:
        return "no valid recording has this label"
    if target in [spec.name for spec in tasks() if spec.open_set]:
        split = split_within_class(labels, [row["id"] for row in rows])
    else:
        by_speaker = split_by_group([str(row["speaker"] or row["id"]) for row in rows])
        if by_speaker is None:
            return "all valid recordings are of one speaker, but the probe is tested on other speakers"
        split = by_speaker.of_known(labels)
    if len(split.test) < MIN_ITEMS or len({labels[i] for i in split.test}) < 2:
        return f"too few valid recordings: {len(split.test)} test items, expected {MIN_ITEMS} of two classes"
    return split


def _of_layers(items: ItemStates, labels: list[str], train: list[int], test: list[int]) -> dict[str, Any]:
    numbers, classes = numbered([labels[i] for i in (*train, *test)])
    y, test_y = numbers[: len(train)], numbers[len(train) :]
    layers = []
    for layer, parts in items.states.items():
        x = torch.cat(parts)
        result = probe(x[train], y, x[test], test_y, len(classes))
        layers.append({"path": layer.path, "label": layer.label, **asdict(result)})
    sizes = {"classes": len(classes), "train": len(train), "test": len(test)}
    return {**sizes, "chance": chance(y, test_y), "layers": layers}


def _plain(content: Any) -> Any:
    """Rounded values; null for NaN, which JSON lacks."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return None if math.isnan(content) else round(content, 5)
    return content
