"""Result of a finished training: its best weights as a Predictor in the store, and its metrics.

The best epoch is chosen among all whole checkpoints of the run, including those from before a restart.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mtl.inference.predictor import Predictor
from mtl.inputs.codec import Codec
from mtl.models.joint import build_model
from mtl.training.fit import final_weights
from pipelines.data.dataset import open_dataset
from pipelines.recipe import Recipe
from pipelines.storage.roots import sha256
from pipelines.storage.store import Store, fingerprint
from pipelines.training.checkpoint_scores import order, score
from pipelines.training.checkpoints import Row, Saved, local_folder, read, survey
from pipelines.training.prepare import Job, beam_config, labelled, language_model, model_config

logger = logging.getLogger(__name__)


class Incomplete(RuntimeError):
    """The last epoch of a training that has ended is in no whole checkpoint; it must be trained again."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    model_key: prefix of the Predictor folder in the store; files: the keys below it.
    metrics: of the epoch whose weights were kept, in mtl.training.fit's names. history: all epochs.
    """

    name: str
    model_key: str
    files: tuple[str, ...]
    metrics: Row
    history: list[Row]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def finished(store: Store, name: str) -> TrainResult | None:
    """The result of the finished run of this name; None if there is none."""
    key = f"train/{name}/result.json"
    if not store.exists(key):
        return None
    try:
        content = json.loads(store.read_bytes(key))
        return TrainResult(**{**content, "files": tuple(content["files"])})
    except (KeyError, TypeError, ValueError) as error:
        logger.warning(
            "%s/%s is damaged and counts as absent, so %s is trained again: %r", store.root, key, name, error
        )
        return None


def keep(job: Job, codec: Codec, name: str) -> TrainResult:
    """Stores the weights with the best primary metric on valid, or the last weights if no epoch has a score.

    Raises:
        Incomplete: no whole checkpoint of the last epoch.
    """
    chosen, history = best(_whole(job, name), job.recipe)
    model = build_model(model_config(job.recipe), codec)
    with local_folder(job.store, chosen.key) as folder:
        model.load_state_dict(final_weights(read(folder)[0]))
    with tempfile.TemporaryDirectory() as scratch:
        dataset = labelled(open_dataset(job.store, job.utterances, job.features), job.recipe)
        language = language_model(job.recipe, dataset, codec)
        Predictor(model, job.recipe.features, language, beam_config(job.recipe), job.recipe.decoding.reread).save(
            scratch
        )
        files = sorted(path for path in Path(scratch).iterdir() if path.is_file())
        address = fingerprint([[path.name, sha256(path)] for path in files])
        key = f"models/{address}"
        stored = {f"{key}/{path.name}": job.store.put_file(path, f"{key}/{path.name}") for path in files}
    job.store.commit(
        f"models/{job.recipe.name}",
        address,
        files=stored,
        checksums=stored,
        parents={manifest.dataset: manifest.address for manifest in (*job.utterances, *job.features)},
        meta={"name": name, "recipe": job.recipe.address(), "metrics": chosen.row},
    )
    return TrainResult(name, key, tuple(stored), chosen.row, history)


def best(whole: Sequence[Saved], recipe: Recipe) -> tuple[Saved, list[Row]]:
    """The checkpoint to ship, and the history of all epochs. whole: the newest first.

    Of equal scores, the later epoch is chosen, as Ray does for the checkpoints that it keeps. If no epoch has a score,
    the newest checkpoint is chosen.
    """
    sign = -1 if order(recipe) == "max" else 1
    scores = {saved.key: score(saved.row, recipe) for saved in whole}
    scored = [saved for saved in whole if scores[saved.key] is not None]
    if not scored:
        return whole[0], whole[0].history
    chosen = min(scored, key=lambda saved: (sign * (scores[saved.key] or 0.0), -saved.row["epoch"]))
    return chosen, whole[0].history


def _whole(job: Job, name: str) -> list[Saved]:
    whole, damaged = survey(job.store, name)
    for reason in damaged.values():
        logger.warning("training %s: a damaged checkpoint is ignored in the choice of the best epoch: %s", name, reason)
    if not whole or whole[0].row.get("epoch") != job.recipe.trainer.epochs:
        reached = f"its newest is {whole[0].key}, step {whole[0].step}" if whole else "none is whole"
        raise Incomplete(
            f"training {name} ended without a whole checkpoint of epoch {job.recipe.trainer.epochs} in "
            f"{job.store.root}/train/{name}: {reached}"
        )
    return whole
