"""The manifest of a dataset version: a small JSON document that lists files and their checksums."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.storage.checksums import Checksum


@dataclass(frozen=True)
class Manifest:
    """One version of a dataset.

    address: hash of the inputs; equal addresses mean equal content. files: keys of the store.
    parents: dataset -> address, of the inputs. checksums: key -> checksum; a file without one is not verified.
    """

    dataset: str
    version: int
    address: str
    created: str
    files: tuple[str, ...] = ()
    parents: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, Checksum] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """First part of the dataset's name."""
        return self.dataset.partition("/")[0]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises ValueError, TypeError or KeyError if the data is not a manifest."""
        content = json.loads(data)
        if not isinstance(content, dict):
            raise TypeError(f"a manifest is {type(content).__name__}, expected a JSON object")
        checksums = {key: Checksum(**listed) for key, listed in content.get("checksums", {}).items()}
        return cls(**{**content, "files": tuple(content["files"]), "checksums": checksums})
