"""What a user's adapter is made from: the base, the user's utterances, and voices to tell the user from others by.

base, predictor = base_of(registry, "assistant")
given = enrol(store, predictor, "ana.jsonl")
voice, mean = voices(registry, base, predictor, given.utterances)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mtl.spec import first_open_set, first_with_answer
from pipelines.recipe import Features
from pipelines.storage.store import Store, fingerprint

if TYPE_CHECKING:
    import torch

    from mtl.inference.enrolment import Utterance
    from mtl.inference.predictor import Predictor
    from pipelines.data.dataset import Dataset
    from pipelines.registry.registry import Registry, Version
    from pipelines.storage.store import Manifest

FEWEST = 5  # utterances: of fewer, hardly anything is left to judge by
VOICES = 60  # training speakers whose voices make the mean voice
VOICES_EACH = 2  # utterances of each
_NAME = re.compile(r"[\w-][\w.-]*")


class PersonaliseError(ValueError):
    """Utterances or a model that no adapter can be made of; the message says what was expected."""


@dataclass(frozen=True)
class Enrolled:
    """A user's utterances: rows of the utterance table, and the same as the recogniser is fed."""

    speaker: str
    manifest: Manifest
    dataset: Dataset
    rows: list[dict[str, Any]]
    utterances: list[Utterance]


def base_of(registry: Registry, model: str) -> tuple[Version, Predictor]:
    """A registered model that transcribes, by its name, models:/NAME/3 and the like. Raises PersonaliseError."""
    from pipelines.adhoc.prediction import model_uri
    from pipelines.personalisation.adapters import BASE_TAG

    uri = model_uri(registry, model)
    if not uri.startswith("models:/"):
        raise PersonaliseError(f"{model} is a folder; an adapter names its base, so expected a model of the registry")
    base = registry.named(uri)
    if registry.adapter(uri) is not None:
        raise PersonaliseError(f"{model} is a user's adapter itself; name its base, {base.tags.get(BASE_TAG)}")
    predictor = registry.load(base.uri)
    tasks = predictor.model.config.tasks
    if first_with_answer(tasks, "text") is None:
        raise PersonaliseError(f"{base.uri} has the tasks {', '.join(tasks)}; an adapter needs one with 'transcript'")
    return base, predictor


def enrol(store: Store, predictor: Predictor, source: str, speaker: str | None = None) -> Enrolled:
    """Reads a manifest (pipelines/corpora/manifest.py) of one user. Raises PersonaliseError, IngestError."""
    import numpy as np

    from mtl.inference.enrolment import Utterance
    from pipelines.adhoc.prediction import ingest_one
    from pipelines.data.dataset import open_dataset
    from pipelines.data.features import extract

    # A name that no recipe's corpus has: what one user says must not become what nights train on.
    corpus = {"name": f"personal-{fingerprint(str(source))}", "kind": "manifest", "source": str(source)}
    manifest = ingest_one(store.root, corpus, ["quality.max_quarantined=0"])
    features = extract([manifest], Features(**asdict(predictor.features)), store, parallel="local")
    dataset = open_dataset(store, [manifest], features)
    rows = dataset.rows.to_pylist()
    chosen = [n for n, row in enumerate(rows) if row["audio"] is not None and row["text"]]
    name = _one_speaker(rows, source, speaker)
    if len(chosen) < FEWEST:
        raise PersonaliseError(
            f"{source} holds {len(rows)} utterances, {len(chosen)} of them with sound and transcript; expected at "
            f"least {FEWEST}, better 10 to 20"
        )
    dataset = dataset.select(chosen)
    heard = [np.asarray(array, dtype=np.float32) for array in dataset.features(range(len(chosen)))]
    rows = [rows[n] for n in chosen]
    utterances = [Utterance(x, predictor.codec.encode(row)) for x, row in zip(heard, rows, strict=True)]
    return Enrolled(name, manifest, dataset, rows, utterances)


def _one_speaker(rows: Sequence[dict[str, Any]], source: str, given: str | None) -> str:
    names = sorted({row["speaker"] for row in rows if row["speaker"] is not None})
    if len(names) > 1:
        raise PersonaliseError(
            f"{source} holds {len(names)} speakers ({', '.join(names[:5])}{' …' if names[5:] else ''}); an adapter is "
            "one person's: give a manifest for each"
        )
    name = given or (names[0] if names else None)
    if name is None:
        raise PersonaliseError(f"{source} does not say who speaks; add a column 'speaker', or give --speaker NAME")
    if not _NAME.fullmatch(name):
        raise PersonaliseError(
            f"the speaker {name!r} cannot be part of a model's name; give --speaker with letters, digits, '.', '_', '-'"
        )
    return name


def voices(
    registry: Registry, base: Version, predictor: Predictor, utterances: Sequence[Utterance]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The user's voice and the mean voice of the base's training speakers, (E,) each.

    (1,) and (0,) where the base embeds no voices, or its training rows are not in this store any more.
    """
    import torch

    mean = strangers(registry, base, predictor)
    if mean is None:
        return torch.ones(1), torch.zeros(1)
    return mean_voice(predictor, [utterance.features for utterance in utterances]), mean


def strangers(registry: Registry, base: Version, predictor: Predictor) -> torch.Tensor | None:
    """The mean voice (E,) of the base's training speakers."""
    training = _training_rows(registry, base) if first_open_set(predictor.model.config.tasks) else None
    if training is None:
        return None
    theirs = training.features(_some_of_each(training))
    return mean_voice(predictor, [array.astype("float32") for array in theirs])


def _training_rows(registry: Registry, base: Version) -> Dataset | None:
    """Rows with a voice among those that the base was trained on; None where they are gone."""
    import pyarrow.compute as pc

    from pipelines.data.dataset import DatasetError, open_dataset
    from pipelines.nightly import manifests

    refs = list(base.datasets.items())
    try:
        tables = manifests(registry.store, [ref for ref in refs if ref[0].startswith("utterances/")])
        features = manifests(registry.store, [ref for ref in refs if ref[0].startswith("features/")])
        dataset = open_dataset(registry.store, tables, features).split("train") if tables and features else None
    except (LookupError, DatasetError, OSError):
        return None
    if dataset is None:
        return None
    voiced = pc.and_(pc.is_valid(dataset.rows["audio"]), pc.is_valid(dataset.rows["speaker"])).to_numpy()
    return dataset.select(voiced.nonzero()[0]) if voiced.any() else None


def _some_of_each(dataset: Dataset) -> list[int]:
    """Positions of a few rows of each of some speakers, the same every time."""
    found: dict[str, list[int]] = {}
    for position, speaker in enumerate(dataset.rows["speaker"].to_pylist()):
        found.setdefault(speaker, []).append(position)
    chosen = sorted(found, key=lambda name: fingerprint("voice", name))[:VOICES]
    return [position for name in chosen for position in found[name][:VOICES_EACH]]


def mean_voice(predictor: Predictor, features: Sequence[Any]) -> torch.Tensor:
    """The mean of the recordings' embeddings, (E,)."""
    import numpy as np
    import torch

    from mtl.inputs.batch import collate

    greedy, found = predictor.listening(greedy=True), []
    for array in features:  # one at a time: no padding to pay for
        batch = collate([predictor.codec.encode({})], [array])
        voice = greedy.predict_batch(batch)[0].voice
        assert voice is not None, "the model has a speaker task"
        found.append(voice)
    return torch.from_numpy(np.mean(found, axis=0, dtype=np.float64)).float()
