"""What a trained model shows of itself: its sharing mode's picture, and what can be read from each of its layers.

    found = read(store, interpreted(store, version.address, lambda: predictor, valid, recipe))
    found["pictures"]["audio"]["gates"], found["probes"][0]["layers"][0]["accuracy"]

On rows of the valid split, at most `interpret.rows` of recordings and as many of sentences, which the model has never
trained on. Plain data, kept in the store under the model's and the rows' address: it is made once. Six tasks on three
shared blocks take about a minute of one core; encoders of their own for each task take as many times that.

Probes (mtl.analysis.inspection) ask each layer for the speaker, among speakers that the probe knows, in other
utterances; for the
emotion, in speakers that it does not know; and for the phone, in one frame in the middle of it, of unknown speakers.
Phones are the synthesiser's own in the embedded corpus. Elsewhere the frames are those of the characters or pieces on
the model's own CTC path of the true text, which flatters its last layers a little.
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

VERSION = 1  # bump when the same model on the same rows would show something else
FRAMES = 2000  # of all recordings together, for the probe of phones
LEAST = 10  # items to be asked about: a probe's figure on fewer says nothing
SYNTHETIC = "espeak"


@dataclass
class Seen:
    """States of items (recordings, or frames) by layer, and who or what each item is."""

    states: dict[Layer, list[torch.Tensor]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # positions in the dataset

    def add(self, states: Mapping[Layer, torch.Tensor], labels: Sequence[str], rows: Sequence[int]) -> None:
        for layer, found in states.items():
            self.states.setdefault(layer, []).append(found)
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
    """The key of what `interpret` finds for the model with this address on a sample of these rows: made and kept."""
    chosen = dataset.select(sample(dataset.rows, recipe.interpret.rows))
    spec = asdict(chosen.spec) if chosen.spec else None
    parts = (address, rows_identity(chosen), recipe.interpret.probes, spec, features.VERSION, VERSION)
    key = f"interpretations/{fingerprint(*parts)}.json"
    if not store.exists(key):
        store.put_bytes(key, json.dumps(interpret(load(), chosen, recipe, report)).encode())
    return key


def read(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read_bytes(key))
    return found


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
    """Everything, as plain data: mode, tasks, rows, pictures by input group, probes, and what could not be probed."""
    model = predictor.model.eval()  # and so forgets what its pictures were of
    rows = dataset.rows.to_pylist()
    names = Names(predictor, rows, phones_of(recipe) if recipe.interpret.probes else {})
    pictures: dict[str, dict[str, Any]] = {}
    heard, frames = Seen(), Seen()
    done, group = 0, "audio"
    for indices, batch in evaluation_batches(dataset, predictor.codec, recipe.loader):
        if batch.group != group:  # recordings come first
            model.eval()
            group = batch.group
        view = inspect(model, batch)
        if recipe.interpret.probes and group == "audio":
            heard.add(view.pooled(), [rows[i]["id"] for i in indices], indices.tolist())
            picked = list(names.frames(view, batch, indices))
            if picked:
                at, places, labels = zip(*picked, strict=True)
                frames.add(view.at(at, places), labels, [int(indices[row]) for row in at])
        pictures[group] = {name: picture.tolist() for name, picture in model.trunk.diagnostics().items()}
        done += len(indices)
        if report:
            report(done, len(rows), "looking")
    found = {"mode": model.config.sharing.mode, "tasks": list(model.config.tasks), "rows": len(rows)}
    probes, skipped = probed(heard, frames, rows, names.kind) if recipe.interpret.probes else ([], {})
    return {**found, "pictures": _plain(pictures), "probes": probes, "skipped": skipped}


class Names:
    """What is said in which frame: by the synthesiser's phones where they are known, else on the model's CTC path."""

    def __init__(self, predictor: Predictor, rows: list[dict[str, Any]], phones: Mapping[str, Any]) -> None:
        self.predictor, self.rows, self.phones = predictor, rows, phones
        units = "character" if isinstance(predictor.codec.units, Characters) else "piece"
        self.kind = "phone" if phones else units
        heard = sum(row["audio"] is not None for row in rows)
        self.each = -(-FRAMES // max(1, heard))

    def frames(self, view: Activations, batch: Batch, indices: np.ndarray) -> Iterator[tuple[int, int, str]]:
        """(row of the batch, frame, label), at most `each` of a row."""
        spoken = self._phones(view, indices) if self.phones else self._units(view, batch)
        for row, found in enumerate(spoken):
            order = Random(self.rows[indices[row]]["id"]).sample(range(len(found)), min(self.each, len(found)))
            yield from ((row, *found[i]) for i in sorted(order))

    def _phones(self, view: Activations, indices: np.ndarray) -> Iterator[list[tuple[int, str]]]:
        for length, index in zip(view.lengths.tolist(), indices, strict=True):
            said = self.phones.get(self.rows[index]["id"], ())
            middles = [
                (int((start + end) / 2 / self.predictor.seconds_per_state), symbol) for symbol, start, end in said
            ]
            yield [(frame, symbol) for frame, symbol in middles if frame < length]

    def _units(self, view: Activations, batch: Batch) -> Iterator[list[tuple[int, str]]]:
        model = self.predictor.model
        if model.recogniser is None or model.recogniser not in view.head_inputs:
            return
        recogniser = model.task(model.recogniser)
        assert isinstance(recogniser, Transcript)
        with torch.no_grad():
            log_probs = recogniser.log_probs(view.head_inputs[model.recogniser])
        units, unit_lengths = recogniser.targets(batch)
        spans = viterbi(log_probs, view.lengths, units, unit_lengths)
        for row, (numbers, length) in enumerate(zip(units.tolist(), unit_lengths.tolist(), strict=True)):
            pieces = model.codec.units.pieces(numbers[:length])
            placed = zip(pieces, spans[row, :length].tolist(), strict=True)
            yield [((first + last - 1) // 2, piece) for piece, (first, last) in placed if first >= 0 and piece.strip()]


def phones_of(recipe: Recipe) -> dict[str, Any]:
    """Phonemes with their times of every valid recording of the embedded corpus; empty without one."""
    found: dict[str, Any] = {}
    for corpus in recipe.corpora:
        if corpus.kind == SYNTHETIC:
            from pipelines.corpora.espeak import phonemes_of

            found |= {f"{corpus.name}/{name}": phones for name, phones in phonemes_of(corpus, "valid")}
    return found


def probed(
    heard: Seen, frames: Seen, rows: Sequence[Mapping[str, Any]], kind: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A probe of every layer for each target, and why there is none for the others."""
    probes, skipped = [], {}
    for target, seen, labels in (
        ("speaker", heard, [rows[i].get("speaker") for i in heard.rows]),
        ("emotion", heard, [rows[i].get("emotion") for i in heard.rows]),
        (kind, frames, list(frames.labels)),
    ):
        kept = [i for i, label in enumerate(labels) if label is not None]
        names = [str(labels[i]) for i in kept]
        split = _split(target, names, [rows[seen.rows[i]] for i in kept])
        if isinstance(split, str):
            skipped[target] = split
            continue
        train, test = ([kept[i] for i in side] for side in (split.train, split.test))
        probes.append({"target": target, **_of_layers(seen, [str(label) for label in labels], train, test)})
    return probes, skipped


def _split(target: str, labels: list[str], rows: Sequence[Mapping[str, Any]]) -> Split | str:
    """Who is learned from and who is asked about, or why that cannot be."""
    if not labels:
        return "no valid recording says it"
    if target in [spec.name for spec in tasks() if spec.open_set]:
        split = split_within_class(labels, [row["id"] for row in rows])
    else:
        apart = split_by_group([str(row["speaker"] or row["id"]) for row in rows])
        if apart is None:
            return "all valid recordings are of one speaker, and it is tested on speakers that it does not know"
        split = apart.of_known(labels)
    if len(split.test) < LEAST or len({labels[i] for i in split.test}) < 2:
        return f"too few valid recordings: {len(split.test)} items to ask about, expected {LEAST} of two classes"
    return split


def _of_layers(seen: Seen, labels: list[str], train: list[int], test: list[int]) -> dict[str, Any]:
    numbers, classes = numbered([labels[i] for i in (*train, *test)])
    y, test_y = numbers[: len(train)], numbers[len(train) :]
    layers = []
    for layer, parts in seen.states.items():
        x = torch.cat(parts)
        found = probe(x[train], y, x[test], test_y, len(classes))
        layers.append(
            {"path": layer.path, "label": layer.label, "accuracy": found.accuracy, "shuffled": found.shuffled}
        )
    return {
        "classes": len(classes),
        "train": len(train),
        "test": len(test),
        "chance": chance(y, test_y),
        "layers": layers,
    }


def _plain(content: Any) -> Any:
    """Rounded; JSON has no NaN, so what was not seen is null."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if isinstance(content, float):
        return None if math.isnan(content) else round(content, 5)
    return content
