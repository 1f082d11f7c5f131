"""Forced alignment: the end of each phone, for recordings whose corpus does not give it.

    manifests = align(utterances, features, spec, store)        # dataset alignment/<spec>/<corpus>, a row per recording

The aligner (mtl/tts/aligner.py) is trained on the corpus itself and stored with the alignments. A
new night aligns only new recordings, and trains another aligner only if there are new phones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from mtl.audio.features import hop_length, window_length
from mtl.tts.aligner import Aligner, Fitting, fit_aligner
from pipelines import recipe
from pipelines.core.progress import Report
from pipelines.data.dataset import Dataset, open_dataset
from pipelines.recipe.address import stated
from pipelines.sources.segments import one_thread
from pipelines.storage.store import Checksum, DamagedPart, Manifest, Store, fingerprint, usable_table

logger = logging.getLogger(__name__)

VERSION = 1  # raise when the same recordings and phones are aligned differently
FIT_ROWS = 2000  # to train an aligner on, the first by hash: one to two hours

ALIGNED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # of the utterance
        pa.field("key", pa.string(), nullable=False),  # of the recording and its phones
        pa.field("ends", pa.list_(pa.float64()), nullable=False),  # of each phone, in s from `start`
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
    """One manifest per utterance manifest; without files if there is no recording to align.

    features: of the same corpora. A recording with fewer frames than phones is skipped, and counted in meta["short"].
    """
    by_corpus = {manifest.dataset.rpartition("/")[2]: manifest for manifest in features}
    manifests = []
    for manifest in utterances:
        corpus = manifest.dataset.rpartition("/")[2]
        dataset = _unaligned(open_dataset(store, [manifest], [by_corpus[corpus]]))
        fit = partial(_fit, spec=spec, fitting=fitting, progress=progress)
        manifests.append(_align(manifest, dataset, dataset_name(spec, corpus), spec, store, fit))
    return manifests


def ends_of(durations: np.ndarray, spec: recipe.Features) -> list[float]:
    """Ends in s, from numbers of frames: half a hop after the middle of a phone's last frame."""
    hop, window = hop_length(spec), window_length(spec)
    return ((np.cumsum(durations) * hop + (window - hop) / 2) / spec.sample_rate).tolist()


def _unaligned(dataset: Dataset) -> Dataset:
    """Recordings with phones and without their ends."""
    rows = dataset.rows
    has_phones = pc.and_(pc.is_valid(rows["audio"]), pc.is_valid(rows["phones"]))
    return dataset.select(np.flatnonzero(pc.and_(has_phones, pc.is_null(rows["phone_ends"])).to_numpy()))


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
    ends = {(row["id"], row["key"]): row["ends"] for row in usable_table(store, latest, ALIGNED).to_pylist()}
    long_enough = [row["frames"] >= len(row["phones"]) for row in rows]
    new = [i for i, row in enumerate(rows) if long_enough[i] and (row["id"], keys[i]) not in ends]
    weights = latest.meta.get("aligner") if latest is not None else None
    aligner = _usable_aligner(store, latest, weights, faults)
    checksums: dict[str, Checksum] = {}
    if new or (weights and aligner is None):
        phones = sorted({phone for row in rows for phone in row["phones"]})
        if aligner is None or not set(phones) <= set(aligner[0]):
            weights = f"{name}/aligner-{fingerprint(dataset.identity, phones)}.safetensors"
            if weights in faults or not store.exists(weights):
                checksums[weights] = store.put_bytes(weights, fit(rows, dataset, phones))
            aligner = _read(store.read_bytes(weights))
        ends |= {(rows[i]["id"], keys[i]): one for i, one in _aligned(aligner, rows, new, dataset, spec)}
    pairs = [(row["id"], key) for row, key in zip(rows, keys, strict=True)]
    aligned = [{"id": id_, "key": key, "ends": ends[id_, key]} for id_, key in pairs if (id_, key) in ends]
    files: tuple[str, ...] = ()
    if aligned:
        files = (f"{name}/{fingerprint(address, weights)}.parquet", str(weights))
        checksums[files[0]] = store.write_table(files[0], pa.Table.from_pylist(aligned, schema=ALIGNED))
    meta = {"rows": len(aligned), "aligned": len(new), "short": long_enough.count(False), "aligner": weights}
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
    """Trains an aligner; returns its weights and phones as safetensors."""
    order = sorted(range(len(rows)), key=lambda i: fingerprint(rows[i]["id"]))[:FIT_ROWS]
    examples = [(_phone_ids(rows[i], phones), mel) for i, mel in zip(order, dataset.features(order), strict=True)]
    report = progress or (lambda done, total, label: None)
    with one_thread():
        aligner = fit_aligner(
            examples, len(phones), spec.bins, fitting, lambda done, total: report(done, total, "alignment")
        )
    metadata = {"phones": json.dumps(phones), "bins": str(spec.bins), "width": str(fitting.width)}
    return save({name: tensor.contiguous() for name, tensor in aligner.state_dict().items()}, metadata)


def _usable_aligner(
    store: Store, latest: Manifest | None, key: str | None, faults: Mapping[str, str]
) -> tuple[list[str], Aligner] | None:
    """The phones and aligner of the last version; None if there is none or its file is damaged."""
    if latest is None or key is None or key in faults:
        return None
    try:
        return _read(store.read_bytes(key, latest))
    except DamagedPart as error:
        logger.warning("%s", error)
    except (SafetensorError, ValueError, KeyError) as error:  # a truncated file in a version without checksums
        logger.warning("%s", store.damaged(key, latest, f"it cannot be read ({error})"))
    return None


def _read(data: bytes) -> tuple[list[str], Aligner]:
    """The phones of a stored aligner, in the order of their ids, and the aligner."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    phones: list[str] = json.loads(header["phones"])
    aligner = Aligner(len(phones), int(header["bins"]), int(header["width"]))
    aligner.load_state_dict(load(data))
    return phones, aligner.eval()


def _aligned(
    aligner: tuple[list[str], Aligner],
    rows: list[dict[str, Any]],
    new: list[int],
    dataset: Dataset,
    spec: recipe.Features,
) -> Iterator[tuple[int, list[float]]]:
    """Position and ends of each new row."""
    phones, model = aligner
    with one_thread(), torch.no_grad():
        for i, mel in zip(new, dataset.features(new), strict=True):
            yield i, ends_of(model.durations(_phone_ids(rows[i], phones), mel), spec)


def _phone_ids(row: Mapping[str, Any], phones: Sequence[str]) -> np.ndarray:
    """Ids of the phones in an aligner, from 2 on."""
    ids = {phone: number for number, phone in enumerate(phones, start=2)}
    return np.asarray([ids[phone] for phone in row["phones"]], dtype=np.int64)
