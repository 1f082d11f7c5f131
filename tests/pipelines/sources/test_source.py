"""Sources: every kind lists and reads alike; what could do harm is refused."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources import archive, download
from pipelines.sources.archive import ArchiveError, unpack
from pipelines.sources.open import open_source, read_audio
from pipelines.sources.source import Source, SourceError
from pipelines.storage.roots import s3_filesystem
from pipelines.storage.store import Store
from tests.support.buckets import new_bucket

CONTENT = {"a/one.txt": b"1", "a/b/two.txt": b"22", "three.txt": b"333"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_CACHE", str(tmp_path / "cache"))


class Server:
    """An HTTP server that answers ranges, and hangs up after `cut` bytes as often as it is told."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []  # bytes after which each coming GET breaks off
        self.requests: list[tuple[str, str | None]] = []  # method, Range
        handler = functools.partial(_Handler, self)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: Server, *rest: Any) -> None:
        self.owner = server
        super().__init__(*rest)

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        asked = self.headers.get("Range")
        self.owner.requests.append((self.command, asked))
        data = self.owner.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.headers.get("If-Range") == etag else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", etag)
        self.end_headers()
        if body:
            cut = self.owner.cuts.pop(0) if self.owner.cuts else None
            self.wfile.write(data[first:] if cut is None else data[first : first + cut])
            self.close_connection = cut is not None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def _folder(tmp_path: Path) -> str:
    for name, data in CONTENT.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(tmp_path / "folder")


def _tar(tmp_path: Path, suffix: str = ".tar.gz") -> str:
    path = tmp_path / f"packed{suffix}"
    with tarfile.open(path, "w:" + suffix.rpartition(".")[2].replace("tgz", "gz").replace("tar", "")) as tar:
        for name, data in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def _zip(tmp_path: Path) -> str:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/", "")
        for name, data in CONTENT.items():
            packed.writestr(name, data)
    return str(path)


def _s3(tmp_path: Path) -> str:
    bucket = new_bucket()
    for name, data in CONTENT.items():
        s3_filesystem().pipe_file(f"{bucket}/corpus/{name}", data)
    return f"{bucket}/corpus"


def _s3_tar(tmp_path: Path) -> str:
    bucket = new_bucket()
    s3_filesystem().put_file(_tar(tmp_path), f"{bucket}/packed.tar.gz")
    return f"{bucket}/packed.tar.gz"


KINDS: dict[str, Callable[[Path], str]] = {
    "folder": _folder,
    "tar.gz": _tar,
    "tar": lambda path: _tar(path, ".tar"),
    "tar.xz": lambda path: _tar(path, ".tar.xz"),
    "zip": _zip,
    "s3": _s3,
    "s3 archive": _s3_tar,
}


def _same_content(source: Source) -> None:
    assert [(file.path, file.size) for file in source.files()] == [
        ("a/b/two.txt", 2),
        ("a/one.txt", 1),
        ("three.txt", 3),
    ]
    for name, data in CONTENT.items():
        assert source.read(name) == data
        with source.open(name) as stream:
            assert stream.read() == data
        assert source.stamp(name)
    assert source.stamp("absent") == ""
    assert source.resolve("a/b", "../one.txt") == "a/one.txt"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_lists_and_reads_alike(kind: str, tmp_path: Path, store: Store) -> None:
    uri = KINDS[kind](tmp_path)
    source = open_source(uri)
    _same_content(source)
    assert open_source(uri).fingerprint() == source.fingerprint()
    recording = source.recording("a/one.txt")
    if source.permanent:
        assert recording.uri is not None
        assert read_audio(recording.uri, store) == b"1"
    else:
        assert recording.load is not None
        assert recording.load() == b"1"
        assert recording.name == f"{uri}!/a/one.txt"


def test_a_url_is_fetched_once_and_again_only_when_it_changed(server: Server, tmp_path: Path) -> None:
    server.files["/data/packed.tar.gz"] = Path(_tar(tmp_path)).read_bytes()
    url = f"{server.url}/data/packed.tar.gz"
    source = open_source(url)
    before = source.fingerprint()
    assert [method for method, _ in server.requests] == ["HEAD"]
    _same_content(source)
    _same_content(open_source(url))
    assert [method for method, _ in server.requests].count("GET") == 1
    server.files["/data/packed.tar.gz"] = Path(_tar(tmp_path, ".tar.xz")).read_bytes()
    assert open_source(url).fingerprint() != before
    _same_content(open_source(url))
    assert [method for method, _ in server.requests].count("GET") == 2


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: Server) -> None:
    data = os.urandom(3_000_000)
    server.files["/x.bin"] = data
    server.cuts = [1_000_000, 500_000]
    path = download.download(f"{server.url}/x.bin", hashlib.sha256(data).hexdigest())
    assert path.read_bytes() == data
    ranges = [asked for method, asked in server.requests if method == "GET"]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_download_goes_on_in_another_process_but_not_with_another_file(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = os.urandom(200_000), os.urandom(200_000)
    checksum = hashlib.sha256(new).hexdigest()
    server.files["/x.bin"] = old
    server.cuts = [100_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(download.DownloadError, match="broke off"):
        download.download(f"{server.url}/x.bin", checksum)
    server.files["/x.bin"] = new  # If-Range no longer holds: the server sends all of it
    assert download.download(f"{server.url}/x.bin", checksum).read_bytes() == new


def test_a_download_with_the_wrong_checksum_is_removed(server: Server, tmp_path: Path) -> None:
    server.files["/x.tar"] = b"something else"
    source = open_source(f"{server.url}/x.tar", "0" * 64)
    with pytest.raises(SourceError, match=r"sha256 is .*, expected 000"):
        source.files()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".json"] == []


def test_a_checksum_makes_the_server_unnecessary_once_fetched(server: Server, tmp_path: Path) -> None:
    data = Path(_zip(tmp_path)).read_bytes()
    server.files["/x.zip"] = data
    checksum = hashlib.sha256(data).hexdigest()
    _same_content(open_source(f"{server.url}/x.zip", checksum))
    server.close()
    _same_content(open_source(f"{server.url}/x.zip", checksum.upper()))


def test_a_url_that_cannot_be_had_says_why(server: Server) -> None:
    with pytest.raises(SourceError, match="404"):
        open_source(f"{server.url}/absent.tar")
    server.files["/x.tar"] = b"not a tar archive"
    with pytest.raises(SourceError, match="damaged"):
        open_source(f"{server.url}/x.tar").files()


@pytest.mark.parametrize("pack", [_tar, _zip])
def test_a_local_archive_must_match_its_checksum(pack: Callable[[Path], str], tmp_path: Path) -> None:
    path = Path(pack(tmp_path))
    _same_content(open_source(str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(SourceError, match="sha256"):
        open_source(str(path), "1" * 64).files()


def _hostile_tar(tmp_path: Path, **fields: Any) -> Path:
    path = tmp_path / "hostile.tar"
    member = tarfile.TarInfo(fields.pop("name", "x"))
    for field, value in fields.items():
        setattr(member, field, value)
    with tarfile.open(path, "w") as tar:
        good = tarfile.TarInfo("good.txt")
        good.size = 1
        tar.addfile(good, io.BytesIO(b"x"))
        tar.addfile(member, io.BytesIO(b"\0" * member.size) if member.size else None)
    return path


def _hostile_zip(tmp_path: Path, name: str, mode: int = 0o100644, data: bytes = b"x") -> Path:
    path = tmp_path / "hostile.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        member = zipfile.ZipInfo(name)
        member.filename = name  # as it is, without the writer's clean-up
        member.external_attr = mode << 16
        member.compress_type = zipfile.ZIP_DEFLATED
        packed.writestr("good.txt", b"x")
        packed.writestr(member, data)
    return path


NAMES_THAT_LEAVE = ["../x", "a/../../x", "/etc/x", "a\\..\\..\\x", "C:/x", ".."]


@pytest.mark.parametrize("name", NAMES_THAT_LEAVE)
@pytest.mark.parametrize("pack", ["tar", "zip"])
def test_paths_that_leave_the_folder_are_refused(pack: str, name: str, tmp_path: Path) -> None:
    path = _hostile_tar(tmp_path, name=name, size=1) if pack == "tar" else _hostile_zip(tmp_path, name)
    with pytest.raises(ArchiveError, match=r"refused, .* leads out of the folder"):
        unpack(path, tmp_path / "below" / "out")
    assert list((tmp_path / "below").iterdir()) == []
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize(
    ("kind", "word"),
    [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.FIFOTYPE, "special"), (tarfile.CHRTYPE, "special")],
)
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, word: str, tmp_path: Path) -> None:
    path = _hostile_tar(tmp_path, type=kind, linkname="/etc/passwd")
    with pytest.raises(ArchiveError, match=f"refused, 'x' is a {word}"):
        unpack(path, tmp_path / "below" / "out")
    assert list((tmp_path / "below").iterdir()) == []


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="refused, 'x' is a link"):
        unpack(_hostile_zip(tmp_path, "x", 0o120777, b"/etc/passwd"), tmp_path / "out")


@pytest.mark.parametrize("pack", ["tar.gz", "zip"])
def test_implausible_expansion_is_refused(pack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "ALWAYS_ALLOWED", 1 << 20)
    zeros = b"\0" * (16 << 20)  # deflate makes about a thousandth of it
    if pack == "zip":
        path = _hostile_zip(tmp_path, "zeros", data=zeros)
    else:
        path = tmp_path / "bomb.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("zeros")
            member.size = len(zeros)
            tar.addfile(member, io.BytesIO(zeros))
    with pytest.raises(ArchiveError, match="refused, expands to more than"):
        unpack(path, tmp_path / "below" / "out")
    assert list((tmp_path / "below").iterdir()) == []


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    with pytest.raises(ArchiveError, match="more than 2 members"):
        unpack(Path(_zip(tmp_path)), tmp_path / "out")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"two members are named 'good.txt'"):
        unpack(_hostile_tar(tmp_path, name="./good.txt", size=1), tmp_path / "out")


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip"])
def test_damaged_archives_are_told(kind: str, tmp_path: Path) -> None:
    path = Path(KINDS[kind](tmp_path))
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"damaged|cannot be unpacked"):
        open_source(str(path)).files()


def test_what_is_not_there_or_not_known_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match="unknown scheme 'ftp'"):
        open_source("ftp://host/x")
    with pytest.raises(SourceError, match="nothing below it"):
        open_source(f"{new_bucket()}/absent").files()


def test_a_listing_changes_with_its_files(tmp_path: Path) -> None:
    source = open_source(_folder(tmp_path))
    before = source.fingerprint()
    (tmp_path / "folder" / "three.txt").write_bytes(b"longer")
    changed = source.fingerprint()
    (tmp_path / "folder" / "new.txt").write_bytes(b"")
    assert len({before, changed, source.fingerprint()}) == 3


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    folder = Path(_folder(tmp_path))
    (folder / "a" / "circle").symlink_to(folder)
    (folder / "again.txt").symlink_to(folder / "three.txt")
    (folder / "broken.txt").symlink_to(folder / "nowhere")
    assert "again.txt" in [file.path for file in open_source(str(folder)).files()]


@pytest.mark.parametrize("kind", ["tar.gz", "s3"])
def test_what_others_filled_may_not_point_outside(kind: str, tmp_path: Path) -> None:
    source = open_source(KINDS[kind](tmp_path))
    for name in ("/etc/passwd", "../../x", "file:///etc/passwd", "../..", "a\\b", "a\0"):
        with pytest.raises(SourceError, match=r"leads out|no file name"):
            source.resolve("a", name)


def test_a_file_alone_is_a_source_that_knows_its_neighbours(tmp_path: Path) -> None:
    source = open_source(_folder(tmp_path) + "/three.txt")
    assert source.focus == "three.txt"
    assert [file.path for file in source.files()] == ["three.txt"]
    assert source.stamp("a/one.txt")
    bucket = open_source(_s3(tmp_path) + "/three.txt")
    assert bucket.focus == "three.txt"
    assert bucket.stamp("a/one.txt")
    assert bucket.stamp("a/absent.txt") == ""
