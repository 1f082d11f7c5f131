"""Rows of the utterance tables with their features: planning reads columns, training reads mapped memory.

    dataset = open_dataset(store, utterances, features).split("train")
    dataset.rows["frames"]                       # -1 for rows of text alone
    first, second = dataset.features([0, 17])     # (T, F) float16 views, nothing copied

Parts are Parquet in the store, uncompressed, and mapped as they lie (from S3: as they lie in the machine's cache), so
that a random row costs microseconds, nothing is read twice, and several workers share the same pages of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pipelines import recipe
from pipelines.data import features as extraction
from pipelines.data.prosody import MEASURED, PROSODY
from pipelines.data.table import UTTERANCES, conform
from pipelines.store import Manifest, Store, fingerprint

LENGTH_BYTES = 4  # before each value of a Parquet page of byte arrays
MAX_PAGE_HEADER = 1024  # bytes; it is about 30 where no statistics are written
PLACES = [pa.field("frames", pa.int32()), pa.field("part", pa.int32()), pa.field("position", pa.int32())]
SAID = [PROSODY.field(name).with_nullable(True) for name in ("durations", *MEASURED)]
ROWS = pa.schema([*UTTERANCES, *PLACES, *SAID])


class DatasetError(ValueError):
    """Utterances and features that do not belong together."""


class Dataset:
    """Utterance rows and where their features lie. Picklable: a worker maps the parts for itself.

    rows: table.UTTERANCES with `frames`, `part` (index into `parts`) and `position` (row in the part),
        -1 each in a row without audio, and how its phones are said, null where that was not measured.
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
        self._mapped: dict[int, _Part] = {}

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
        """(T, F) float16 of each row: read-only views of mapped files, at any address (copy before torch sees them).

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
            self._mapped[part] = _map(self.store, self.parts[part], self.bins)
        return self._mapped[part].row(position, self.bins)


def by_hash(ids: Sequence[str]) -> list[int]:
    """Positions in the order of the ids' hash: an order that says nothing, and that other rows do not change."""
    hashes = [hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in ids]
    return sorted(range(len(ids)), key=hashes.__getitem__)


def open_dataset(store: Store, utterances: Sequence[Manifest], features: Sequence[Manifest]) -> Dataset:
    """All rows of the utterance manifests, each joined to its features by digest.

    features: of the same corpora; among them may be manifests of prosody.measure, joined by id.

    Raises:
        DatasetError: a recording has no features, or the features differ in their settings.
    """
    rows = pa.concat_tables([conform(store.read_table(manifest.files[0])) for manifest in utterances])
    said = [manifest for manifest in features if manifest.dataset.startswith("prosody/")]
    features = [manifest for manifest in features if manifest not in said]
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
    rows = _with_prosody(rows, [store.read_table(manifest.files[0]) for manifest in said if manifest.files])
    identity = fingerprint([m.address for m in utterances], [(m.dataset, m.address) for m in (*features, *said)])
    return Dataset(store, rows.combine_chunks(), parts, identity, _spec(features))


def _with_prosody(rows: pa.Table, measured: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(measured) if measured else PROSODY.empty_table()
    found = pc.index_in(rows["id"], table["id"])
    for field in SAID:
        rows = rows.append_column(field, table[field.name].combine_chunks().take(found))
    return rows


def _spec(features: Sequence[Manifest]) -> recipe.Features | None:
    """The settings that all the features share."""
    found = {recipe.Features(**manifest.meta["spec"]) for manifest in features if manifest.files}
    if len(found) > 1:
        raise DatasetError(f"features made with different settings cannot be mixed: {sorted(map(str, found))}")
    return next(iter(found), None)


@dataclass(frozen=True)
class _Part:
    """A part's bytes, and where each row's features lie in them."""

    content: np.ndarray  # (bytes,) uint8
    starts: np.ndarray  # (rows,) int64
    sizes: np.ndarray  # (rows,) int64, bytes

    def row(self, position: int, bins: int) -> np.ndarray:
        """(T, F) float16, a view."""
        start = self.starts[position]
        return self.content[start : start + self.sizes[position]].view("<f2").reshape(-1, bins)


def _map(store: Store, key: str, bins: int) -> _Part:
    """The part, mapped where it lies. Its pages are not checked: each is read from disk when a row on it is.

    features.py writes every row group's features uncompressed, in one page, and such a page ends with the rows
    themselves, each behind its length in four bytes (Parquet's PLAIN encoding of BYTE_ARRAY): so counting back from
    its end finds them all. A part that something else has rewritten in another layout is read into memory instead.
    """
    path = store.fetch(key)
    file = pq.ParquetFile(path)
    sizes = file.read(columns=["frames"])["frames"].to_numpy().astype(np.int64) * bins * 2
    # torch maps a file without keeping it open, as Python and Arrow do: thousands of parts would need as many handles.
    content = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
    content.flags.writeable = False
    groups, first = [], 0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        starts = _starts(group.column(group.num_columns - 1), sizes[first : first + group.num_rows], content)
        if starts is None:
            return _in_memory(file)
        groups.append(starts)
        first += group.num_rows
    return _Part(content, np.concatenate(groups), sizes)


def _starts(column: Any, sizes: np.ndarray, content: np.ndarray) -> np.ndarray | None:
    """Where the rows of one row group begin, or None when its features are not laid out as features.py does it."""
    end = column.data_page_offset + column.total_compressed_size
    starts = end - np.cumsum((sizes + LENGTH_BYTES)[::-1])[::-1] + LENGTH_BYTES
    header = starts[0] - LENGTH_BYTES - column.data_page_offset
    if column.path_in_schema != "logmel" or column.compression != "UNCOMPRESSED" or not 0 < header < MAX_PAGE_HEADER:
        return None
    for start, size in ((starts[0], sizes[0]), (starts[-1], sizes[-1])):
        if int.from_bytes(content[start - LENGTH_BYTES : start].tobytes(), "little") != size:
            return None
    return starts


def _in_memory(file: pq.ParquetFile) -> _Part:
    logmel = file.read(columns=["logmel"]).combine_chunks()["logmel"].chunk(0)
    _, offsets, values = logmel.buffers()
    places = np.frombuffer(offsets, dtype=np.int64, count=len(logmel) + 1, offset=8 * logmel.offset)
    return _Part(np.frombuffer(values, dtype=np.uint8), places[:-1], np.diff(places))
