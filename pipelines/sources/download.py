"""Downloads a file over http(s) into the cache, resumes interrupted downloads, and verifies the checksum.

Not pooch: it cannot resume a download, and needs a checksum to detect that a file has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from pipelines.core.redaction import redact, scrub
from pipelines.storage.roots import cache_folder, sha256

TIMEOUT = httpx.Timeout(30.0)  # s without data, not for the whole file
ATTEMPTS = 5  # connections, before the download fails


class DownloadError(RuntimeError):
    """A file that cannot be downloaded, or has another checksum than expected."""


def remote_stamp(url: str) -> str:
    """The file's ETag, else its date and length.

    Raises:
        DownloadError: the server does not respond, or gives none of the three.
    """
    try:
        with httpx.stream("HEAD", url, follow_redirects=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            headers = response.headers
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{redact(url)}: {_describe(error)}") from error
    names = ("etag",) if headers.get("etag") else ("last-modified", "content-length")
    stamp = "|".join(headers[name] for name in names if name in headers)
    if not stamp:
        raise DownloadError(
            f"{redact(url)}: the server gives no ETag, date or length; set the corpus's checksum (sha256)"
        )
    return stamp


def download(url: str, checksum: str | None = None) -> Path:
    """The path of the file in the cache. An interrupted download is resumed if the file has not changed.

    Raises:
        DownloadError: ATTEMPTS failed, or the SHA-256 is not `checksum`.
    """
    version = checksum.lower() if checksum else remote_stamp(url)
    folder = cache_folder() / "downloads" / hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:32]
    target = folder / (Path(unquote(urlsplit(url).path)).name or "download")
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
    if checksum is not None and (actual := sha256(partial)) != checksum.lower():
        partial.unlink()
        raise DownloadError(f"{redact(url)}: sha256 is {actual}, expected {checksum.lower()}; the download was removed")
    os.replace(partial, target)
    return target


def _fetch(url: str, partial: Path) -> None:
    """Appends the missing bytes. The recorded ETag or date prevents joining parts of two versions."""
    record = partial.with_name(partial.name + ".json")
    size = partial.stat().st_size if partial.exists() else 0
    previous = json.loads(record.read_text()) if size and record.exists() else {}
    headers = {"Accept-Encoding": "identity"}
    if size and previous.get("validator"):
        headers |= {"Range": f"bytes={size}-", "If-Range": previous["validator"]}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT) as response:
        if response.status_code == 416 and size == previous.get("length"):
            return  # the previous attempt received everything
        if response.status_code == 416:
            partial.unlink()
            raise httpx.ReadError("the partial file is longer than the remote one; starting again")
        response.raise_for_status()
        resumed = response.status_code == 206
        length = int(response.headers["content-length"]) if "content-length" in response.headers else None
        total = (size if resumed else 0) + length if length is not None else None
        record.write_text(json.dumps({"validator": _validator(response.headers), "length": total}))
        with open(partial, "ab" if resumed else "wb") as file:
            # Unbuffered, so that an interruption loses no chunk.
            for chunk in response.iter_raw():
                file.write(chunk)
    if total is not None and partial.stat().st_size != total:
        raise httpx.ReadError(f"{partial.stat().st_size} of {total} bytes arrived")


def _validator(headers: httpx.Headers) -> str | None:
    """A strong ETag or a date, for If-Range."""
    etag = headers.get("etag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return headers.get("last-modified")


def _describe(error: httpx.HTTPError | httpx.InvalidURL) -> str:
    """The error's message; also removes secrets from the error."""
    scrub(error)
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {error.response.reason_phrase}"
    return f"{type(error).__name__}: {error}"
