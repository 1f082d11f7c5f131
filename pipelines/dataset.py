"""Rows of the utterance tables with their features: planning reads columns, training reads mapped memory.

    dataset = open_dataset(store, utterances, features).split("train")
    dataset.rows["frames"]                       # -1 for rows of text alone
    first, second = dataset.features([0, 17])     # (T, F) float16 views, nothing copied

Parts are Parquet in the store. A machine that trains turns each of them, once, into an Arrow file in its cache folder
and maps it, so that a random row costs microseconds and several workers share the same pages.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import features as extraction
from pipelines import recipe
from pipelines.roots import cache_folder
from pipelines.store import Manifest, Store, fingerprint
from pipelines.table import UTTERANCES

CACHE_DAYS = 14.0  # a cached part that nobody opened for so long is deleted
PLACES = [pa.field("frames", pa.int32()), pa.field("part", pa.int32()), pa.field("position", pa.int32())]
ROWS = pa.schema([*UTTERANCES, *PLACES])


class DatasetError(ValueError):
    """Utterances and features that do not belong together."""


class Dataset:
    """Utterance rows and where their features lie. Picklable: a worker maps the parts for itself.

    rows: table.UTTERANCES with `frames`, `part` (index into `parts`) and `position` (row in the part),
        -1 each in a row without audio.
    identity: equal for equal rows and features.
    spec: what the features were made with; None where no corpus has audio.
    """

    def __init__(
        self, store: Store, rows: pa.Table, parts: Sequence[str], identity: str, spec: recipe.Features | None
    ) -> None:
        self.store = store
        self.rows = rows
        self.parts = tuple(parts)
        self.identity = identity
        self.spec = spec
        self._places: tuple[np.ndarray, np.ndarray] | None = None
        self._mapped: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bins(self) -> int:
        """Mel bins; 0 without audio."""
        return self.spec.bins if self.spec else 0

    @property
    def hop_ms(self) -> float:
        return self.spec.hop_ms if self.spec else 10.0

    def split(self, name: str) -> Dataset:
        """The rows of one split, in their order."""
        rows = self.rows.filter(pc.equal(self.rows["split"], name)).combine_chunks()
        return self._with(rows, fingerprint(self.identity, "split", name))

    def select(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """Those rows, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return self._with(self.rows.take(pa.array(chosen)), fingerprint(self.identity, "select", chosen.tolist()))

    def relabelled(self, rows: pa.Table, change: str) -> Dataset:
        """The same recordings with other labels, for instance some set to null; `change` says which, for `identity`.

        Raises:
            DatasetError: `rows` has other columns, or not the same recordings in the same order.
        """
        if rows.schema.names != self.rows.schema.names or not rows["id"].equals(self.rows["id"]):
            raise DatasetError(f"relabelled {self!r} with {len(rows)} rows of other utterances or columns")
        return self._with(rows, fingerprint(self.identity, "relabelled", change))

    def features(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """(T, F) float16 of each row: read-only views of mapped files.

        Raises:
            DatasetError: a row has no audio.
        """
        if self._places is None:
            self._places = self.rows["part"].to_numpy(), self.rows["position"].to_numpy()
        parts, positions = self._places
        chosen = np.asarray(indices, dtype=np.int64)
        return [self._view(part, position) for part, position in zip(parts[chosen], positions[chosen], strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_places": None}

    def __repr__(self) -> str:
        return f"Dataset({len(self.rows)} rows, {len(self.parts)} parts, {self.identity})"

    def _with(self, rows: pa.Table, identity: str) -> Dataset:
        return Dataset(self.store, rows, self.parts, identity, self.spec)

    def _view(self, part: int, position: int) -> np.ndarray:
        if part < 0:
            raise DatasetError("features were asked for a row of text alone; its part is -1")
        if part not in self._mapped:
            self._mapped[part] = _map(self.store, self.parts[part])
        values, offsets = self._mapped[part]
        return values[offsets[position] : offsets[position + 1]].reshape(-1, self.bins)


def open_dataset(store: Store, utterances: Sequence[Manifest], features: Sequence[Manifest]) -> Dataset:
    """All rows of the utterance manifests, each joined to its features by digest.

    Raises:
        DatasetError: a recording has no features, or the features differ in their settings.
    """
    rows = pa.concat_tables([store.read_table(manifest.files[0]).cast(UTTERANCES) for manifest in utterances])
    places = pa.concat_tables([extraction.index(store, manifest) for manifest in features])
    parts = places["part"].unique().to_pylist()
    found = pc.index_in(rows["digest"], places["digest"])
    missing = rows.filter(pc.and_(pc.is_valid(rows["audio"]), pc.is_null(found)))
    if len(missing):
        raise DatasetError(
            f"{len(missing)} of {len(rows)} rows have no features, for instance {missing['id'][0].as_py()}; "
            "extract features from the same utterance manifests first"
        )
    numbers = pc.index_in(places["part"], pa.array(parts, pa.string()))
    for field, column in zip(PLACES, (places["frames"], numbers, places["position"]), strict=True):
        rows = rows.append_column(field, pc.fill_null(pc.cast(column, pa.int32()).take(found), -1))
    identity = fingerprint([m.address for m in utterances], [(m.dataset, m.address) for m in features])
    return Dataset(store, rows.combine_chunks(), parts, identity, _spec(features))


def _spec(features: Sequence[Manifest]) -> recipe.Features | None:
    """The settings that all the features share."""
    found = {recipe.Features(**manifest.meta["spec"]) for manifest in features if manifest.files}
    if len(found) > 1:
        raise DatasetError(f"features made with different settings cannot be mixed: {sorted(map(str, found))}")
    return next(iter(found), None)


def _map(store: Store, key: str) -> tuple[np.ndarray, np.ndarray]:
    """All values of a part, (sum of frames x bins,) float16, and the offsets (rows + 1,) of its rows in them."""
    path = _cached(store, key)
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    logmel = batch.column("logmel")
    _, offsets, values = logmel.buffers()
    places = np.frombuffer(offsets, dtype=np.int64, count=len(logmel) + 1, offset=8 * logmel.offset)
    return np.frombuffer(values, dtype="<f2"), places // 2


def _cached(store: Store, key: str) -> Path:
    """The part as an Arrow file of one batch, made if this machine has not got it yet."""
    folder = cache_folder() / "parts" / fingerprint(store.root)
    path = folder / f"{key}.arrow"
    try:
        os.utime(path)  # marks it as wanted
        return path
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    _forget_unused(folder)
    table = store.read_table(key).combine_chunks()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(1, len(table)))
        os.replace(temporary, path)  # two workers may both make it; either copy will do
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _forget_unused(folder: Path) -> None:
    oldest = time.time() - CACHE_DAYS * 86400
    for path in folder.rglob("*.arrow*"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:  # another worker was quicker
            continue
