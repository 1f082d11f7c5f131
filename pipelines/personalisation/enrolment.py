"""Data for a user's adapter: the base model, the user's utterances, and reference voices of other speakers.

base, predictor = base_of(registry, "assistant")
user = enrol(registry.store, predictor, "ana.jsonl")
voice, mean = voices(registry, base, predictor, user.utterances)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from mtl.inference.enrolment import Utterance
from mtl.inference.predictor import Predictor
from mtl.inputs.batch import collate
from mtl.spec import first_open_set, first_with_answer
from pipelines.adhoc.prediction import ingest_one, model_uri
from pipelines.data.dataset import Dataset, DatasetError, open_dataset
from pipelines.data.features import extract
from pipelines.recipe import Features
from pipelines.registry.adapters import BASE_TAG
from pipelines.registry.registry import Registry, Version
from pipelines.stages.context import manifests
from pipelines.storage.store import Manifest, Store, fingerprint

MIN_UTTERANCES = 5  # cross-fitting on fewer is not informative
VOICES = 60  # training speakers in the mean voice
VOICES_EACH = 2  # utterances of each
_NAME = re.compile(r"[\w-][\w.-]*")


class PersonaliseError(ValueError):
    """Utterances or a model that cannot be used for an adapter; the message says what was expected."""


@dataclass(frozen=True)
class Enrolled:
    """A user's utterances: as rows of the utterance table, and as inputs of the recogniser."""

    speaker: str
    manifest: Manifest
    dataset: Dataset
    rows: list[dict[str, Any]]
    utterances: list[Utterance]


def base_of(registry: Registry, model: str) -> tuple[Version, Predictor]:
    """A registered model that transcribes, by its name, models:/NAME/3 and the like. Raises PersonaliseError."""
    uri = model_uri(registry, model)
    if not uri.startswith("models:/"):
        raise PersonaliseError(f"{model} is a folder; expected a model of the registry as the base")
    base = registry.named(uri)
    if registry.adapter(uri) is not None:
        raise PersonaliseError(f"{model} is itself an adapter; name its base, {base.tags.get(BASE_TAG)}")
    predictor = registry.load(base.uri)
    tasks = predictor.model.config.tasks
    if first_with_answer(tasks, "text") is None:
        raise PersonaliseError(f"{base.uri} has the tasks {', '.join(tasks)}; an adapter needs one with 'transcript'")
    return base, predictor


def enrol(store: Store, predictor: Predictor, source: str, speaker: str | None = None) -> Enrolled:
    """Reads a manifest (pipelines/corpora/manifest.py) of one user. Raises PersonaliseError, IngestError."""
    # A name that no recipe's corpus has: nights must not train on the utterances of a user.
    corpus = {"name": f"personal-{fingerprint(str(source))}", "kind": "manifest", "source": str(source)}
    manifest = ingest_one(store.root, corpus, ["quality.max_quarantined=0"])
    features = extract([manifest], Features(**asdict(predictor.features)), store, parallel="local")
    dataset = open_dataset(store, [manifest], features)
    rows = dataset.rows.to_pylist()
    chosen = [n for n, row in enumerate(rows) if row["audio"] is not None and row["text"]]
    name = _one_speaker(rows, source, speaker)
    if len(chosen) < MIN_UTTERANCES:
        raise PersonaliseError(
            f"{source} has {len(rows)} utterances, {len(chosen)} of them with audio and transcript; expected at "
            f"least {MIN_UTTERANCES}, better 10 to 20"
        )
    dataset = dataset.select(chosen)
    arrays = [np.asarray(array, dtype=np.float32) for array in dataset.features(range(len(chosen)))]
    rows = [rows[n] for n in chosen]
    utterances = [Utterance(x, predictor.codec.encode(row)) for x, row in zip(arrays, rows, strict=True)]
    return Enrolled(name, manifest, dataset, rows, utterances)


def _one_speaker(rows: Sequence[dict[str, Any]], source: str, speaker: str | None) -> str:
    names = sorted({row["speaker"] for row in rows if row["speaker"] is not None})
    if len(names) > 1:
        raise PersonaliseError(
            f"{source} holds {len(names)} speakers ({', '.join(names[:5])}{' …' if names[5:] else ''}); an adapter is "
            "for one speaker: pass a manifest for each"
        )
    name = speaker or (names[0] if names else None)
    if name is None:
        raise PersonaliseError(f"{source} does not name the speaker; add a column 'speaker' or pass --speaker NAME")
    if not _NAME.fullmatch(name):
        raise PersonaliseError(
            f"the speaker {name!r} cannot be part of a model's name; pass --speaker with letters, digits, '.', '_', '-'"
        )
    return name


def voices(
    registry: Registry, base: Version, predictor: Predictor, utterances: Sequence[Utterance]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The user's voice and the mean voice of the base's training speakers, (E,) each.

    (1,) and (0,) if the base has no speaker embeddings, or the store no longer has its training rows.
    """
    mean = training_mean(registry, base, predictor)
    if mean is None:
        return torch.ones(1), torch.zeros(1)
    return mean_voice(predictor, [utterance.features for utterance in utterances]), mean


def training_mean(registry: Registry, base: Version, predictor: Predictor) -> torch.Tensor | None:
    """The mean voice (E,) of the base's training speakers."""
    training = _training_rows(registry, base) if first_open_set(predictor.model.config.tasks) else None
    if training is None:
        return None
    arrays = training.features(_some_of_each(training))
    return mean_voice(predictor, [array.astype("float32") for array in arrays])


def _training_rows(registry: Registry, base: Version) -> Dataset | None:
    """Training rows of the base with audio and speaker; None if the store no longer has them."""
    refs = list(base.datasets.items())
    try:
        tables = manifests(registry.store, [ref for ref in refs if ref[0].startswith("utterances/")])
        features = manifests(registry.store, [ref for ref in refs if ref[0].startswith("features/")])
        dataset = open_dataset(registry.store, tables, features).split("train") if tables and features else None
    except (LookupError, DatasetError, OSError):
        return None
    if dataset is None:
        return None
    spoken = pc.and_(pc.is_valid(dataset.rows["audio"]), pc.is_valid(dataset.rows["speaker"])).to_numpy()
    return dataset.select(spoken.nonzero()[0]) if spoken.any() else None


def _some_of_each(dataset: Dataset) -> list[int]:
    """Positions of VOICES_EACH rows of each of VOICES speakers, the same every time."""
    positions: dict[str, list[int]] = {}
    for position, speaker in enumerate(dataset.rows["speaker"].to_pylist()):
        positions.setdefault(speaker, []).append(position)
    chosen = sorted(positions, key=lambda name: fingerprint("voice", name))[:VOICES]
    return [position for name in chosen for position in positions[name][:VOICES_EACH]]


def mean_voice(predictor: Predictor, features: Sequence[Any]) -> torch.Tensor:
    """The mean of the recordings' embeddings, (E,)."""
    greedy, embeddings = predictor.with_options(greedy=True), []
    for array in features:  # one at a time, without padding
        batch = collate([predictor.codec.encode({})], [array])
        voice = greedy.predict_batch(batch)[0].voice
        assert voice is not None, "the model has a speaker task"
        embeddings.append(voice)
    return torch.from_numpy(np.mean(embeddings, axis=0, dtype=np.float64)).float()
