"""A night whose corpora and MLflow ask for passwords: no file, page or line that it leaves holds one of them."""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from motet.commands import app

TOKEN, LITERAL, TRACKING, QUOTED, PATH = (
    "v4riable-Tok3n",
    "l1teral-Passw0rd",
    "ml-P4ssword",
    "r0w-Passw0rd",
    "p4th-Tok3n",
)
SECRETS = (TOKEN, LITERAL, TRACKING, QUOTED, PATH)
RECIPE = {
    "name": "guarded",
    "quality": {"max_quarantined": 0.5},
    "model": {"width": 16, "blocks": 1, "heads": 2, "kernel": 5},
    "tasks": {"intent": {}},
    "trainer": {"epochs": 1, "gpus": False},
    "interpret": {"gradients": 0, "probes": False},
    "gates": {"primary": "intent/accuracy"},
}


@dataclass(frozen=True)
class Servers:
    """Addresses, without user information, of a file server and an MLflow server that both ask for a password."""

    files: str
    mlflow: str


def archive(rows: list[dict[str, Any]], wav: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in (("rows.jsonl", "\n".join(map(json.dumps, rows)).encode()), ("light.wav", wav)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def corpus(owner: str) -> bytes:
    """Eight sentences a split, one recording, and a row that names a URL with a password."""
    import soundfile

    from pipelines.synthetic.synthesizer import SAMPLE_RATE, synthesize

    wav = io.BytesIO()
    soundfile.write(wav, synthesize("turn on the light"), SAMPLE_RATE, format="WAV")
    rows: list[dict[str, Any]] = [
        {"id": f"{split}{n}", "text": f"turn {way} the {owner} light {n}", "intent": f"turn_{way}", "split": split}
        for split in ("train", "valid", "test")
        for n, way in enumerate(["on", "off"] * 4)
    ]
    rows.append(
        {"id": "heard", "audio": "light.wav", "text": "turn on the light", "intent": "turn_on", "split": "test"}
    )
    rows.append({"id": "bad", "audio": f"https://eve:{QUOTED}@host/x.wav", "text": "turn on", "intent": "turn_on"})
    return archive(rows, wav.getvalue())


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Files(BaseHTTPRequestHandler):
    allowed: ClassVar = {"/variable.tar.gz": basic("ann", TOKEN), "/literal.tar.gz": basic("bob", LITERAL)}
    content: ClassVar[dict[str, bytes]] = {}

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        data = self.content.get(self.path)
        if data is None or self.headers.get("Authorization") != self.allowed[self.path]:
            self.send_error(404 if data is None else 401)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{len(data)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def guarded_mlflow() -> Callable[..., Any]:
    """MLflow's own server, behind one user's password."""
    import mlflow.server

    def guarded(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if environ.get("HTTP_AUTHORIZATION") != basic("carol", TRACKING):
            start("401 UNAUTHORIZED", [("WWW-Authenticate", "Basic")])
            return [b"who are you?"]
        return mlflow.server.app(environ, start)

    return guarded


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    from werkzeug.serving import make_server

    before = dict(os.environ)
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{tmp_path}/root/mlflow.db")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (tmp_path / "root" / "artifacts").as_uri())
    Files.content = {"/variable.tar.gz": corpus("kitchen"), "/literal.tar.gz": corpus("hall")}
    files = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    tracking = make_server("127.0.0.1", 0, guarded_mlflow(), threaded=True)
    for server in (files, tracking):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Servers(f"127.0.0.1:{files.server_port}", f"127.0.0.1:{tracking.server_port}")
    for server in (files, tracking):
        server.shutdown()
        server.server_close()
    os.environ.clear()  # passwords were moved into it
    os.environ.update(before)


def cells(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from (*cells(key), *cells(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from cells(item)
    else:
        yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def texts(path: Path) -> Iterator[str]:
    """All that a file says, also what Parquet and SQLite keep in pages of their own."""
    yield path.read_bytes().decode("utf-8", "replace")
    if path.suffix == ".parquet":
        table = pq.ParquetFile(path).read()
        yield from cells(table.schema.metadata or {})
        yield from cells(table.to_pylist())
    elif path.suffix == ".db":
        with closing(sqlite3.connect(path)) as database:
            yield from database.iterdump()


def leaks(*folders: Path) -> list[str]:
    """Files that hold a secret."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) > 20, "the night has left its files here"
    return [f"{path}: {secret}" for path in files for text in texts(path) for secret in SECRETS if secret in text]


def prefect_database() -> Path:
    from prefect.settings import get_current_settings

    address = get_current_settings().server.database.connection_url
    assert address is not None
    return Path(address.get_secret_value().partition("///")[2]).parent


def test_a_night_leaves_no_secret_behind(
    servers: Servers,
    ray_session: Any,
    prefect_session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import flows
    from pipelines.stages.data import INGEST

    root = tmp_path / "root"
    for name, value in {"CALLS_USER": "ann", "CALLS_PW": TOKEN, "FOLDER": PATH}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://carol:{TRACKING}@{servers.mlflow}")
    sources = {
        "variable": f"http://$CALLS_USER:${{CALLS_PW}}@{servers.files}/variable.tar.gz",
        "literal": f"http://bob:{LITERAL}@{servers.files}/literal.tar.gz",
    }
    corpora = [{"name": name, "kind": "manifest", "source": source} for name, source in sources.items()]
    recipe = tmp_path / "guarded.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "corpora": corpora}))

    monkeypatch.setattr(flows.task_of(INGEST), "retries", 0)  # of a source that cannot be had
    night = CliRunner().invoke(app, ["nightly", str(recipe), "--root", str(root), "--json"])
    assert night.exit_code == 0, night.exception
    outcome = json.loads(night.stdout)
    assert outcome["model"] == "models:/guarded/1"
    assert (root / "artifacts").is_dir()  # by the server, which knew its password

    # Files that cannot be had: by a wrong password in an override, and by a path with a secret variable in it.
    wrong = f"corpora.literal.source=http://bob:{LITERAL}-not@{servers.files}/literal.tar.gz"
    lost = f"corpora.literal.source=http://{servers.files}/$FOLDER/lost.tar.gz"
    failed = [
        CliRunner().invoke(app, ["nightly", str(recipe), "--root", str(root), "--set", text]) for text in (wrong, lost)
    ]
    assert f"http://***@{servers.files}/literal.tar.gz: HTTP 401" in str(failed[0].exception)
    assert f"http://{servers.files}/$FOLDER/lost.tar.gz: HTTP 404" in str(failed[1].exception)

    shown = [text for result in (night, *failed) for text in (result.output, str(result.exception))]
    shown += [caplog.text, *capfd.readouterr()]
    assert [secret for secret in SECRETS for text in shown if secret in text] == []
    assert leaks(root, prefect_database()) == []
    (page,) = (root / "reports" / "guarded").glob("*.html")
    assert f"http://***@{servers.mlflow}" in page.read_text()
    assert "$CALLS_USER:${CALLS_PW}@" in page.read_text()

    planted = tmp_path / "root" / "planted.parquet"
    pq.write_table(pa.table({"audio": [f"https://eve:{QUOTED}@host/x.wav"] * 2}), planted, compression="zstd")
    assert set(leaks(root)) == {f"{planted}: {QUOTED}"}  # it would be seen

    # What is stored opens again: the next night reads it, and finds nothing new.
    again = CliRunner().invoke(app, ["nightly", str(recipe), "--root", str(root), "--json"])
    assert json.loads(again.stdout)["state"] == "nothing new"
