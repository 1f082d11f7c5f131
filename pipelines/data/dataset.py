"""Rows of the utterance tables with their features: planning reads columns, training reads mapped memory.

    dataset = open_dataset(store, utterances, features).split("train")
    dataset.rows["frames"]                       # -1 for rows of text alone
    first, second = dataset.features([0, 17])     # (T, F) float16 views, nothing copied

Parts are uncompressed Parquet files that are memory-mapped (from S3: after a copy to the local
cache), so that random access takes microseconds and several workers share the same pages of memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from pipelines import recipe
from pipelines.data import features as extraction
from pipelines.data.features import LOGMEL, PITCH, WAVEFORM
from pipelines.data.prosody import MEASURED, PROSODY
from pipelines.storage.store import Manifest, Store, fingerprint, first_table
from pipelines.utterances.schema import conform

LENGTH_BYTES = 4  # before each value of a Parquet page of byte arrays
MAX_PAGE_HEADER = 1024  # bytes; it is about 30 where no statistics are written
POSITIONS = [pa.field("frames", pa.int32()), pa.field("part", pa.int32()), pa.field("position", pa.int32())]
SOUND = [pa.field(f"{kind}_{name}", pa.int32()) for kind in ("wave", "pitch") for name in ("part", "position")]
COLUMNS = (LOGMEL.column, WAVEFORM.column, PITCH.column)
NOTHING = np.empty(0, dtype=np.uint8)
PHONE_COLUMNS = [PROSODY.field(name).with_nullable(True) for name in ("durations", *MEASURED)]


class DatasetError(ValueError):
    """Utterances and features that do not belong together."""


class Dataset:
    """Utterance rows and the positions of their features. Picklable: each worker maps the parts itself.

    rows: utterance_schema() with `frames`, `part` (index into `parts`) and `position` (row in the part), -1 each in a
        row without audio; durations, pitch and energy of its phones, null if not measured; `wave_part`,
        `wave_position`, `pitch_part` and `pitch_position`, null without waveform or pitch.
    identity: equal for equal rows and features.
    spec: settings of the features; None if no corpus has audio.
    manifests: of each part, for the checksum when it is mapped.
    """

    def __init__(
        self,
        store: Store,
        rows: pa.Table,
        parts: Sequence[str],
        identity: str,
        spec: recipe.Features | None,
        manifests: Mapping[str, Manifest] | None = None,
    ) -> None:
        self.store = store
        self.rows = rows
        self.parts = tuple(parts)
        self.identity = identity
        self.spec = spec
        self.manifests = manifests or {}
        self._places: dict[str, tuple[np.ndarray, np.ndarray]] = {}
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
            DatasetError: a row has no audio. DamagedPart: a part's bytes are not those that its manifest lists.
        """
        mels = [row.view(LOGMEL.dtype).reshape(-1, self.bins) for row in self._rows(indices, "", self.bins)]
        if not all(map(len, mels)):
            raise DatasetError("a row of text alone has no features; its part is -1")
        return mels

    @cached_property
    def sounds(self) -> bool:
        """Whether the dataset has waveforms of recordings."""
        return self.rows["wave_part"].null_count < len(self.rows)

    def waveforms(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """(N,) int16 of each row at spec.sample_rate: views as of `features`; empty if not stored."""
        return [row.view(WAVEFORM.dtype) for row in self._rows(indices, "wave_", 1)]

    def pitches(self, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """(T,) float16 Hz of each row, 0 where unvoiced: views as of `features`; empty if not stored."""
        return [row.view(PITCH.dtype) for row in self._rows(indices, "pitch_", 1)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_places": {}}

    def __repr__(self) -> str:
        return f"Dataset({len(self.rows)} rows, {len(self.parts)} parts, {self.identity})"

    def _with(self, rows: pa.Table, identity: str) -> Dataset:
        return Dataset(self.store, rows, self.parts, identity, self.spec, self.manifests)

    def _rows(self, indices: Sequence[int] | np.ndarray, prefix: str, values: int) -> list[np.ndarray]:
        """The bytes of each row at `<prefix>part` and `<prefix>position`, empty if these are null.

        values: numbers per frame.
        """
        if prefix not in self._places:
            columns = self.rows[f"{prefix}part"], self.rows[f"{prefix}position"]
            self._places[prefix] = pc.fill_null(columns[0], -1).to_numpy(), pc.fill_null(columns[1], -1).to_numpy()
        parts, positions = self._places[prefix]
        chosen = np.asarray(indices, dtype=np.int64)
        content = []
        for part, position in zip(parts[chosen].tolist(), positions[chosen].tolist(), strict=True):
            if part < 0:
                content.append(NOTHING)
                continue
            if part not in self._mapped:
                key = self.parts[part]
                self._mapped[part] = _map(self.store, key, values, self.manifests.get(key))
            content.append(self._mapped[part].row(position))
        return content


def by_hash(ids: Sequence[str]) -> list[int]:
    """Positions in the order of the hash of their ids, which does not depend on other rows."""
    hashes = [hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in ids]
    return sorted(range(len(ids)), key=hashes.__getitem__)


def open_dataset(store: Store, utterances: Sequence[Manifest], features: Sequence[Manifest]) -> Dataset:
    """All rows of the utterance manifests, each joined to its features by digest.

    features: of the same corpora; among them may be manifests of prosody.measure, joined by id, and of waveforms.

    Raises:
        DatasetError: a recording has no features, or the features differ in their settings.
        DamagedPart: a table's bytes are not those that its manifest lists.
    """
    rows = pa.concat_tables([conform(first_table(store, manifest)) for manifest in utterances])
    kinds: dict[str, list[Manifest]] = {LOGMEL.name: [], WAVEFORM.name: [], PITCH.name: [], "prosody": []}
    for manifest in features:
        kinds[manifest.dataset.partition("/")[0]].append(manifest)
    mels, sounds, pitch_lines, prosody = kinds.values()
    index, waves, pitches = (
        pa.concat_tables([extraction.INDEX.empty_table(), *(extraction.index(store, manifest) for manifest in some)])
        for some in (mels, sounds, pitch_lines)
    )
    parts = [part for table in (index, waves, pitches) for part in table["part"].unique().to_pylist()]
    matches = pc.index_in(rows["digest"], index["digest"])
    missing = rows.filter(pc.and_(pc.is_valid(rows["audio"]), pc.is_null(matches)))
    if len(missing):
        raise DatasetError(
            f"{len(missing)} of {len(rows)} rows have no features, for instance {missing['id'][0].as_py()}; "
            "extract features from the same utterance manifests first"
        )
    names = pa.array(parts, pa.string())
    columns = index["frames"], pc.index_in(index["part"], names), index["position"]
    for field, column in zip(POSITIONS, columns, strict=True):
        rows = rows.append_column(field, pc.fill_null(pc.cast(column, pa.int32()).take(matches), -1))
    rows = _with_prosody(rows, [first_table(store, manifest) for manifest in prosody if manifest.files])
    for fields, table in ((SOUND[:2], waves), (SOUND[2:], pitches)):
        matches = pc.index_in(rows["digest"], table["digest"])
        for field, column in zip(fields, (pc.index_in(table["part"], names), table["position"]), strict=True):
            rows = rows.append_column(field, pc.cast(column, pa.int32()).combine_chunks().take(matches))
    joined = [(manifest.dataset, manifest.address) for manifest in (*mels, *prosody, *sounds, *pitch_lines)]
    identity = fingerprint([manifest.address for manifest in utterances], joined)
    listed = {part: manifest for manifest in (*mels, *sounds, *pitch_lines) for part in manifest.files}
    return Dataset(store, rows.combine_chunks(), parts, identity, _spec(mels), listed)


def _with_prosody(rows: pa.Table, measured: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(measured) if measured else PROSODY.empty_table()
    matches = pc.index_in(rows["id"], table["id"])
    for field in PHONE_COLUMNS:
        rows = rows.append_column(field, table[field.name].combine_chunks().take(matches))
    return rows


def _spec(features: Sequence[Manifest]) -> recipe.Features | None:
    """The settings that all the features share."""
    specs = {recipe.Features(**manifest.meta["spec"]) for manifest in features if manifest.files}
    if len(specs) > 1:
        raise DatasetError(f"features made with different settings cannot be mixed: {sorted(map(str, specs))}")
    return next(iter(specs), None)


@dataclass(frozen=True)
class _Part:
    """Bytes of a part, with the offset and size of each row."""

    content: np.ndarray  # (bytes,) uint8
    starts: np.ndarray  # (rows,) int64
    sizes: np.ndarray  # (rows,) int64, bytes

    def row(self, position: int) -> np.ndarray:
        """(bytes,) uint8, a view."""
        start = self.starts[position]
        return self.content[start : start + self.sizes[position]]


def _map(store: Store, key: str, values: int, manifest: Manifest | None) -> _Part:
    """The memory-mapped part, after its checksum was compared with the manifest's.

    Raises:
        DamagedPart: they differ, or the part of a manifest without checksums cannot be read.
    """
    path = store.fetch(key, manifest)
    try:
        return _mapped(path, values)
    except (pa.ArrowInvalid, OSError) as error:
        if manifest is None:
            raise
        detail = f"it cannot be read as Parquet ({error})"
    raise store.damaged(key, manifest, detail)


def _mapped(path: Path, values: int) -> _Part:
    """values: of two bytes, in a frame.

    features.py writes every row group's features uncompressed, in one page, and such a page ends with the rows
    themselves, each behind its length in four bytes (Parquet's PLAIN encoding of BYTE_ARRAY): so counting back from
    its end finds them all. A part that something else has rewritten in another layout is read into memory instead.
    """
    file = pq.ParquetFile(path)
    sizes = file.read(columns=["frames"])["frames"].to_numpy().astype(np.int64) * values * 2
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
    """Offsets of the rows of one row group; None if the layout is not that of features.py."""
    end = column.data_page_offset + column.total_compressed_size
    starts = end - np.cumsum((sizes + LENGTH_BYTES)[::-1])[::-1] + LENGTH_BYTES
    header = starts[0] - LENGTH_BYTES - column.data_page_offset
    if column.path_in_schema not in COLUMNS or column.compression != "UNCOMPRESSED" or not 0 < header < MAX_PAGE_HEADER:
        return None
    for start, size in ((starts[0], sizes[0]), (starts[-1], sizes[-1])):
        if int.from_bytes(content[start - LENGTH_BYTES : start].tobytes(), "little") != size:
            return None
    return starts


def _in_memory(file: pq.ParquetFile) -> _Part:
    name = file.schema_arrow.names[-1]
    rows = file.read(columns=[name]).combine_chunks()[name].chunk(0)
    _, offsets, values = rows.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64, count=len(rows) + 1, offset=8 * rows.offset)
    return _Part(np.frombuffer(values, dtype=np.uint8), starts[:-1], np.diff(starts))
