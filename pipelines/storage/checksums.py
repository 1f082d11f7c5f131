"""Size and SHA-256 of stored files: computed when a file is written, checked when it is first read.

    expected = checksum_of(data)                # listed by the manifest of the dataset
    actual = mismatch(path, expected)           # None where the file has the listed bytes

A mapped part is hashed once in each process, when its first row is read: 21 ms for 14 MB (0.7 GB/s, one core with SHA
instructions), against 0.6 ms to map it. Rows are read at no further cost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import kinds
from pipelines.storage.kinds import KINDS
from pipelines.storage.roots import StoreError, sha256

# Kinds of dataset (first part of the name) whose files a later run makes anew when they are not there.
REMADE = tuple(kind.name for kind in KINDS if kind.collected)
AUDIO = f"{kinds.AUDIO}/"  # copies of recordings; the name of each begins with its SHA-256
AUDIO_DIGITS = 32  # hex digits of it

# (device, inode, size, mtime) -> SHA-256 of files that this process has read; a rename changes none of them.
_hashed: dict[tuple[int, int, int, int], str] = {}


class DamagedPart(StoreError):
    """A stored file that is missing, or whose bytes are not those that its manifest lists."""


@dataclass(frozen=True)
class Checksum:
    """size: in bytes. sha256: in hex."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes with SHA-256 {self.sha256[:16]}…"


def checksum_of(content: bytes | Path) -> Checksum:
    """Of bytes, or of a local file's content."""
    if isinstance(content, Path):
        return Checksum(content.stat().st_size, sha256(content))
    return Checksum(len(content), hashlib.sha256(content).hexdigest())


def mismatch(path: Path, expected: Checksum) -> Checksum | None:
    """What a local file holds instead of the expected bytes; None where it holds these.

    The result is remembered until the file's size, time or inode changes.
    """
    info = path.stat()
    key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    if key not in _hashed:
        _hashed[key] = sha256(path)
    actual = Checksum(info.st_size, _hashed[key])
    return None if actual == expected else actual


def names_its_content(key: str) -> bool:
    """Whether the key is that of a recording's copy, which can be checked without a manifest."""
    stem = key.rpartition("/")[2].partition(".")[0]
    return key.startswith(AUDIO) and len(stem) == AUDIO_DIGITS and set(stem) <= set("0123456789abcdef")


def is_named_content(key: str, sha256_hex: str) -> bool:
    """Whether a recording's copy holds the bytes that its name stands for."""
    return key.rpartition("/")[2].startswith(sha256_hex[:AUDIO_DIGITS])


def remedy(kind: str) -> str:
    """What a person does about a damaged file of a dataset of this kind."""
    if kind in ("quarantine", "recordings", "utterances"):
        return "run the night (or `motet ingest`) again: it reads the corpus from its source again"
    if kind in REMADE:
        return "run the night again: it makes the file anew"
    if kind == "models":
        return "train again with `motet nightly RECIPE --again`, or restore the file from a backup"
    return "restore the file from a backup; `motet fsck` lists all damage"
