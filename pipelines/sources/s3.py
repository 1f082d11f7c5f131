"""A corpus source in S3: a prefix, or one object."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Any

from pipelines.core.redaction import redact
from pipelines.sources.source import File, Source, SourceError
from pipelines.storage.roots import object_exists, s3_filesystem
from pipelines.storage.store import fingerprint


class S3Source(Source):
    """An s3:// prefix, or one object in it. It is listed once per ingest."""

    def __init__(self, uri: str) -> None:
        self.uri = redact(uri)
        self.name = PurePosixPath(uri.rstrip("/")).name
        self._folders: dict[str, dict[str, str]] = {}  # folder -> name -> ETag, of files beside a focus
        base = uri.removeprefix("s3://").rstrip("/")
        self.focus = None
        if not uri.endswith("/") and object_exists(self.fs, base):
            base, _, self.focus = base.rpartition("/")
        self.base = base

    @cached_property
    def fs(self) -> Any:
        return s3_filesystem()

    @cached_property
    def _listing(self) -> dict[str, File]:
        top = f"{self.base}/{self.focus}" if self.focus else self.base
        try:
            objects = self.fs.find(top, detail=True)
        except FileNotFoundError:
            objects = {}
        if not objects:
            raise SourceError(
                f"{self.uri}: no such object and nothing below it (endpoint {redact(self.fs.endpoint_url or 'AWS')})"
            )
        infos = {path[len(self.base) + 1 :]: info for path, info in objects.items() if info["type"] == "file"}
        return {path: File(path, info["size"], info["ETag"].strip('"')) for path, info in infos.items()}

    def files(self) -> list[File]:
        return sorted(self._listing.values(), key=lambda file: file.path)

    def read(self, path: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.base}/{path}"))

    def open(self, path: str) -> IO[bytes]:
        return self.fs.open(f"{self.base}/{path}", "rb")

    def stamp(self, path: str) -> str:
        if path in self._listing:
            return self._listing[path].stamp
        return self._stamp_beside(path) if self.focus is not None else ""

    def _stamp_beside(self, path: str) -> str:
        """ETag of an object that the manifest `focus` names. Lists each folder once."""
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            try:
                infos = self.fs.ls(f"{self.base}/{folder}".rstrip("/"), detail=True)
            except FileNotFoundError:
                infos = []
            self._folders[folder] = {i["name"].rpartition("/")[2]: i.get("ETag", "").strip('"') for i in infos}
        return self._folders[folder].get(name, "")

    def resolve(self, folder: str, name: str) -> str:
        prefix = f"s3://{self.base}/"
        return super().resolve("" if name.startswith(prefix) else folder, name.removeprefix(prefix))

    def locate(self, path: str) -> str:
        return f"s3://{self.base}/{path}"

    def fingerprint(self) -> str:
        return fingerprint([[file.path, file.size, file.stamp] for file in self.files()])
