"""Size and SHA-256 of stored files: computed when a file is written, verified when it is first read.

    expected = checksum_of(data)                # recorded in the dataset's manifest
    actual = mismatch(path, expected)           # None if the file has the expected content

A memory-mapped part is hashed once per process, when its first row is read: 21 ms for 14 MB (0.7
GB/s, one core with SHA instructions), compared with 0.6 ms for mapping it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import kinds
from pipelines.storage.kinds import DERIVED
from pipelines.storage.roots import StoreError, sha256

AUDIO = f"{kinds.AUDIO}/"  # copies of recordings; their names begin with AUDIO_DIGITS hex digits of their SHA-256
AUDIO_DIGITS = 32

# (device, inode, size, mtime) -> SHA-256 of files that this process has read. Renaming a file changes none of these.
_hashed: dict[tuple[int, int, int, int], str] = {}


class DamagedPart(StoreError):
    """A stored file that is missing or differs from its checksum."""


@dataclass(frozen=True)
class Checksum:
    """size: in bytes. sha256: in hex."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes with SHA-256 {self.sha256[:16]}…"


def checksum_of(content: bytes | Path) -> Checksum:
    """Checksum of bytes or of a local file."""
    if isinstance(content, Path):
        return Checksum(content.stat().st_size, sha256(content))
    return Checksum(len(content), hashlib.sha256(content).hexdigest())


def mismatch(path: Path, expected: Checksum) -> Checksum | None:
    """The checksum of a local file if it differs from the expected one; cached until the file changes."""
    info = path.stat()
    key = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    if key not in _hashed:
        _hashed[key] = sha256(path)
    actual = Checksum(info.st_size, _hashed[key])
    return None if actual == expected else actual


def names_its_content(key: str) -> bool:
    """Whether the key is that of a recording's copy, which can be verified by its name."""
    stem = key.rpartition("/")[2].partition(".")[0]
    return key.startswith(AUDIO) and len(stem) == AUDIO_DIGITS and set(stem) <= set("0123456789abcdef")


def is_named_content(key: str, sha256_hex: str) -> bool:
    """Whether a recording's copy has the SHA-256 in its name."""
    return key.rpartition("/")[2].startswith(sha256_hex[:AUDIO_DIGITS])


def remedy(kind: str) -> str:
    """Advice for the user about a damaged file of a dataset of this kind."""
    if kind in ("quarantine", "recordings", "utterances"):
        return "run the night (or `motet ingest`) again: it reads the corpus from its source again"
    if kind in DERIVED:
        return "run the night again: it creates the file again"
    if kind == "models":
        return "train again with `motet nightly RECIPE --again`, or restore the file from a backup"
    return "restore the file from a backup; `motet fsck` lists all damage"
