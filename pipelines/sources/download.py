"""One file over http(s), into the cache: resumed where it broke off, checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from pipelines.core.redaction import redact, scrub
from pipelines.storage.roots import cache_folder, sha256

TIMEOUT = httpx.Timeout(30.0)  # s without a byte, not for the whole file
ATTEMPTS = 5  # connections that may break before the download gives up


class DownloadError(RuntimeError):
    """A file that could not be fetched, or is not the one that was expected."""


def file_name(url: str) -> str:
    return Path(unquote(urlsplit(url).path)).name or "download"


def remote_stamp(url: str) -> str:
    """What changes when the file behind the URL does: its ETag, else its date and length.

    Raises:
        DownloadError: the server does not answer, or says none of the three.
    """
    try:
        with httpx.stream("HEAD", url, follow_redirects=True, timeout=TIMEOUT) as answer:
            answer.raise_for_status()
            stamp = _stamp(answer.headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{redact(url)}: {_describe(error)}") from error
    if not stamp:
        raise DownloadError(
            f"{redact(url)}: the server gives no ETag, date or length; set the corpus's checksum (sha256)"
        )
    return stamp


def download(url: str, checksum: str | None = None) -> Path:
    """The file behind the URL, in the cache.

    A download that broke off goes on where it stopped, when the server still has the same file.

    Raises:
        DownloadError: no answer after ATTEMPTS, or a content whose sha256 is not `checksum`.
    """
    version = checksum.lower() if checksum else remote_stamp(url)
    folder = cache_folder() / "downloads" / hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:32]
    target = folder / file_name(url)
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{target.name}.partial"
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(url, partial)
            break
        except (httpx.HTTPStatusError, httpx.InvalidURL) as error:
            raise DownloadError(f"{redact(url)}: {_describe(error)}") from error
        except httpx.HTTPError as error:
            if attempt == ATTEMPTS:
                raise DownloadError(
                    f"{redact(url)}: {_describe(error)}; broke off {ATTEMPTS} times, {partial} is kept"
                ) from error
    _verify(partial, checksum, url)
    os.replace(partial, target)
    return target


def _fetch(url: str, partial: Path) -> None:
    """Appends what is missing. The ETag or date beside the partial file keeps two versions from being joined."""
    note = partial.with_name(partial.name + ".json")
    have = partial.stat().st_size if partial.exists() else 0
    known = json.loads(note.read_text()) if have and note.exists() else {}
    headers = {"Accept-Encoding": "identity"}
    if have and known.get("validator"):
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have == known.get("length"):
            return  # everything had arrived before the last attempt ended
        if answer.status_code == 416:
            partial.unlink()
            raise httpx.ReadError("the partial file is longer than the remote one; starting again")
        answer.raise_for_status()
        resumed = answer.status_code == 206
        length = int(answer.headers["content-length"]) if "content-length" in answer.headers else None
        total = (have if resumed else 0) + length if length is not None else None
        note.write_text(json.dumps({"validator": _validator(answer.headers), "length": total}))
        with open(partial, "ab" if resumed else "wb") as file:
            # Chunks as they come: gathered to a fixed size, the last ones before a break would be lost.
            for chunk in answer.iter_raw():
                file.write(chunk)
    if total is not None and partial.stat().st_size != total:
        raise httpx.ReadError(f"{partial.stat().st_size} of {total} bytes arrived")


def _verify(path: Path, checksum: str | None, url: str) -> None:
    if checksum is None:
        return
    found = sha256(path)
    if found != checksum.lower():
        path.unlink()
        raise DownloadError(f"{redact(url)}: sha256 is {found}, expected {checksum.lower()}; the download was removed")


def _validator(headers: httpx.Headers) -> str | None:
    """A strong ETag or a date: what If-Range accepts."""
    etag = headers.get("etag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return headers.get("last-modified")


def _stamp(headers: httpx.Headers) -> str:
    if headers.get("etag"):
        return str(headers["etag"])
    return "|".join(headers[name] for name in ("last-modified", "content-length") if name in headers)


def _describe(error: httpx.HTTPError | httpx.InvalidURL) -> str:
    """What went wrong; the error, which the message is raised from, quotes its URL no more."""
    scrub(error)
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}"
