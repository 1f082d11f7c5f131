"""A proxy in front of the S3 server of the tests that answers some requests with an error.

with faulty_s3(monkeypatch) as faults:
    faults.answer("HEAD", "audio/", 503)        # requests of this method whose path holds this text
    faults.clear()
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.buckets import endpoint

CODES = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "ServiceUnavailable"}
NOT_FORWARDED = {"connection", "transfer-encoding", "expect", "keep-alive"}


class Faults:
    """Which requests are refused, and with what."""

    def __init__(self) -> None:
        self.rules: list[tuple[str, str, int]] = []
        self.refused: list[str] = []

    def answer(self, method: str, text: str, status: int) -> None:
        self.rules.append((method, text, status))

    def clear(self) -> None:
        self.rules.clear()

    def status(self, method: str, path: str) -> int | None:
        for wanted, text, status in self.rules:
            if method == wanted and text in path:
                self.refused.append(f"{method} {path}")
                return status
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    target: str

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.faults.status(self.command, unquote(self.path))
        if status is not None:
            text = f"<Error><Code>{CODES[status]}</Code><Message>refused by the test</Message></Error>"
            self.answer(status, {}, text.encode())
            return
        server = http.client.HTTPConnection(urlsplit(self.target).netloc)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_FORWARDED}
        server.request(self.command, self.path, body, headers)
        response = server.getresponse()
        self.answer(response.status, dict(response.getheaders()), response.read())
        server.close()

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in NOT_FORWARDED | {"content-length"}:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def faulty_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Sends this process's requests through the proxy while the block lasts."""
    from s3fs import S3FileSystem

    faults = Faults()
    handler = type("TheHandler", (Handler,), {"faults": faults, "target": endpoint()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patched.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore would ask again for seconds
        S3FileSystem.clear_instance_cache()
        try:
            yield faults
        finally:
            S3FileSystem.clear_instance_cache()
            server.shutdown()
            server.server_close()
