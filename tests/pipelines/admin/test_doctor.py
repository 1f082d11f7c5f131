"""The doctor: finds nothing wrong where the tests run, says what is wrong where something is, leaves nothing behind."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from pathlib import Path

import pytest

from pipelines.admin import doctor
from pipelines.admin.doctor import FAIL, OK, WARN


def test_a_working_machine_passes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    checks = doctor.examine(str(root))
    by_name = {check.name: check for check in checks}
    assert {name for name, check in by_name.items() if check.state == FAIL} == set()
    assert {"python", "cores", "memory", "disk", "versions", "gpu", "espeak", "store", "torch", "ray"} <= set(by_name)
    assert by_name["prefect"].observation.startswith("3.")
    assert not root.exists(), "the doctor's probe stayed behind"


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    check = doctor.store(str(tmp_path / "file" / "root"))
    assert check.state == FAIL
    assert "--root" in check.advice


def test_a_store_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    assert doctor.store(str(tmp_path)).state == OK
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_library_that_does_not_import_fails_with_its_reason() -> None:
    check = doctor.importable("ghost", "import no_such_library")
    assert check.state == FAIL
    assert "No module named 'no_such_library'" in check.observation
    assert "requirements.lock" in check.advice


def test_a_port_in_use_is_seen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not doctor.port_free(port)
    assert doctor.port_free(port)


def test_a_configured_server_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    assert [(check.name, check.state) for check in doctor.configured_servers()] == [("MLFLOW_TRACKING_URI", OK)]
    server.shutdown()
    server.server_close()
    found = doctor.configured_servers()[0]
    assert found.state == FAIL
    assert "motet up" in found.advice


def test_a_local_tracking_store_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///somewhere.db")
    assert doctor.configured_servers() == []


def test_limits_are_told_and_are_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "MIN_CORES", 10_000)
    monkeypatch.setattr(doctor, "MIN_MEMORY_GB", 1e9)
    monkeypatch.setattr(doctor, "MIN_DISK_GB", 1e9)
    assert [check.state for check in (doctor.cores(), doctor.memory(), doctor.disk(str(tmp_path / "new")))] == [
        WARN
    ] * 3


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= doctor.available_cores() <= (os.cpu_count() or 1)
