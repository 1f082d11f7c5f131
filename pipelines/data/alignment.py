"""Where each phone ends, for recordings whose corpus does not say: learned from the corpus itself, once, and kept.

    manifests = align(utterances, features, spec, store)        # dataset alignment/<spec>/<corpus>, one row a recording

The aligner (mtl/tts/aligner.py) is trained when a corpus has its first such recordings, and lies beside them
in the store.
A new night aligns what is new with the aligner that is there, and trains another only where new phones have come.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mtl.audio.features import hop_length, window_length
from mtl.tts.aligner import Aligner, Fitting, fit_aligner
from pipelines import recipe
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.recipe.address import stated
from pipelines.sources.segments import one_thread
from pipelines.storage.store import Checksum, DamagedPart, Manifest, Store, fingerprint, usable_table

if TYPE_CHECKING:
    from pipelines.core.progress import Report

logger = logging.getLogger(__name__)

VERSION = 1  # bump when the same recordings and phones would be aligned otherwise
FIT_ROWS = 2000  # that an aligner is trained on, the first by hash: an hour or two

ALIGNED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the utterance
        pa.field("key", pa.string(), nullable=False),  # of the recording and its phones
        pa.field("ends", pa.list_(pa.float64()), nullable=False),  # s from `start`, where each phone ends
    ]
)


def dataset_name(spec: recipe.Features, corpus: str) -> str:
    return f"alignment/{fingerprint('alignment', VERSION, stated(spec))}/{corpus}"


def align(
    utterances: Sequence[Manifest],
    features: Sequence[Manifest],
    spec: recipe.Features,
    store: Store,
    progress: Report | None = None,
    fitting: Fitting = Fitting(),
) -> list[Manifest]:
    """One manifest for each utterance manifest; one without files where no recording is to be aligned.

    features: of the same corpora. A recording with fewer frames than phones is left out, and counted in meta["short"].
    """
    corpora = {manifest.dataset.rpartition("/")[2]: manifest for manifest in features}
    found = []
    for manifest in utterances:
        corpus = manifest.dataset.rpartition("/")[2]
        dataset = open_dataset(store, [manifest], [corpora[corpus]])
        fit = partial(_fit, spec=spec, fitting=fitting, progress=progress)
        found.append(_align(manifest, _unaligned(dataset), dataset_name(spec, corpus), spec, store, fit))
    return found


def ends_of(durations: np.ndarray, spec: recipe.Features) -> list[float]:
    """Where phones of so many frames end, in s: half a hop behind the middle of their last frame."""
    hop, window = hop_length(spec), window_length(spec)
    return ((np.cumsum(durations) * hop + (window - hop) / 2) / spec.sample_rate).tolist()


def _unaligned(dataset: Dataset) -> Dataset:
    """Recordings with phones and without their ends."""
    rows = dataset.rows
    wanted = pc.and_(pc.and_(pc.is_valid(rows["audio"]), pc.is_valid(rows["phones"])), pc.is_null(rows["phone_ends"]))
    return dataset.select(np.flatnonzero(wanted.to_numpy()))


def _align(
    manifest: Manifest, dataset: Dataset, name: str, spec: recipe.Features, store: Store, fit: Callable[..., bytes]
) -> Manifest:
    rows = dataset.rows.select(["id", "digest", "phones", "frames"]).to_pylist()
    keys = [fingerprint(row["digest"], row["phones"]) for row in rows]
    address = fingerprint(sorted(zip((row["id"] for row in rows), keys, strict=True)))
    latest = store.latest(name)
    faults = store.faults(latest) if latest is not None else {}
    if latest is not None and latest.address == address and not faults:
        return latest
    old = usable_table(store, latest, ALIGNED).to_pylist()
    known = {(row["id"], row["key"]): row for row in old}
    long_enough = [row["frames"] >= len(row["phones"]) for row in rows]
    new = [i for i, row in enumerate(rows) if long_enough[i] and (row["id"], keys[i]) not in known]
    weights = latest.meta.get("aligner") if latest is not None else None
    trained = _usable_aligner(store, latest, weights, faults)
    checksums: dict[str, Checksum] = {}
    ends: dict[int, list[float]] = {}
    if new or (weights and trained is None):
        phones = sorted({phone for row in rows for phone in row["phones"]})
        if trained is None or not set(phones) <= set(trained[0]):
            weights = f"{name}/aligner-{fingerprint(dataset.identity, phones)}.safetensors"
            if weights in faults or not store.exists(weights):
                checksums[weights] = store.put_bytes(weights, fit(rows, dataset, phones))
            trained = _read(store.read_bytes(weights))
        ends = _aligned(trained, rows, new, dataset, spec)
    made = [
        {"id": row["id"], "key": keys[i], "ends": ends[i] if i in ends else known[row["id"], keys[i]]["ends"]}
        for i, row in enumerate(rows)
        if i in ends or (row["id"], keys[i]) in known
    ]
    files: tuple[str, ...] = ()
    if made:
        files = (f"{name}/{fingerprint(address, weights)}.parquet", str(weights))
        checksums[files[0]] = store.write_table(files[0], pa.Table.from_pylist(made, schema=ALIGNED))
    meta = {"rows": len(made), "aligned": len(new), "short": long_enough.count(False), "aligner": weights}
    checksums = {key: checksum for key, checksum in checksums.items() if key in files}
    return store.commit(name, address, files, {manifest.dataset: manifest.address}, meta, checksums)


def _fit(
    rows: list[dict[str, Any]],
    dataset: Dataset,
    phones: list[str],
    spec: recipe.Features,
    fitting: Fitting,
    progress: Report | None,
) -> bytes:
    """A new aligner of these recordings, as safetensors with its phones."""
    ids = {phone: number + 2 for number, phone in enumerate(phones)}
    order = sorted(range(len(rows)), key=lambda i: fingerprint(rows[i]["id"]))[:FIT_ROWS]
    heard = [(_numbers(rows[i], ids), mel) for i, mel in zip(order, dataset.features(order), strict=True)]
    report = progress or (lambda done, total, label: None)
    with one_thread():
        fitted = fit_aligner(
            heard, len(phones), spec.bins, fitting, lambda done, total: report(done, total, "alignment")
        )
    content = {"phones": json.dumps(phones), "bins": str(spec.bins), "width": str(fitting.width)}
    return save({name: tensor.contiguous() for name, tensor in fitted.state_dict().items()}, content)


def _usable_aligner(
    store: Store, latest: Manifest | None, key: str | None, faults: Mapping[str, str]
) -> tuple[list[str], Aligner] | None:
    """The aligner of the last version; None where there is none, or its file is damaged."""
    if latest is None or key is None or key in faults:
        return None
    try:
        return _read(store.read_bytes(key, latest))
    except DamagedPart as error:
        logger.warning("%s", error)
    except (SafetensorError, ValueError, KeyError) as error:  # truncated, in a version without checksums
        logger.warning("%s", store.damaged(key, latest, f"it cannot be read ({error})"))
    return None


def _read(data: bytes) -> tuple[list[str], Aligner]:
    """The phones of a stored aligner, in its order, and the aligner."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    phones: list[str] = json.loads(header["phones"])
    aligner = Aligner(len(phones), int(header["bins"]), int(header["width"]))
    aligner.load_state_dict(load(data))
    return phones, aligner.eval()


def _aligned(
    trained: tuple[list[str], Aligner],
    rows: list[dict[str, Any]],
    new: list[int],
    dataset: Dataset,
    spec: recipe.Features,
) -> dict[int, list[float]]:
    phones, aligner = trained
    ids = {phone: number + 2 for number, phone in enumerate(phones)}
    with one_thread(), torch.no_grad():
        return {
            i: ends_of(aligner.durations(_numbers(rows[i], ids), mel), spec)
            for i, mel in zip(new, dataset.features(new), strict=True)
        }


def _numbers(row: Mapping[str, Any], ids: Mapping[str, int]) -> np.ndarray:
    return np.asarray([ids[phone] for phone in row["phones"]], dtype=np.int64)
