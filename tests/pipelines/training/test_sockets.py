"""Where a night's processes listen: on loopback alone on a local cluster, on Ray's node address on a joined one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.network_interfaces import INTERFACES, interface_of, use_interface
from tests.conftest import ROOT
from tests.support import small_night
from tests.support.sockets import Socket, listening, outside_loopback

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="sockets are read from Linux's /proc")


def own_address() -> str | None:
    """This machine's address on a network, which a packet would leave by; None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation; nothing is sent
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def with_name_at(address: str | None, folder: Path, command: list[str]) -> list[str]:
    """The command, where this machine's name resolves to the address, if we may change that for it alone."""
    unshare = shutil.which("unshare")
    if not (address and unshare) or subprocess.run([unshare, "--mount", "true"], capture_output=True).returncode:
        return command
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
    return [unshare, "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts), *command]


def test_a_local_night_listens_on_loopback_alone(tmp_path: Path) -> None:
    """Of all its processes, from its start to its end; gloo would listen on the address of the machine's name."""
    pytest.importorskip("espeakng_loader", reason="the small night is spoken by eSpeak NG: install motet[espeak]")
    trains, goes_on, root = tmp_path / "trains", tmp_path / "goes-on", tmp_path / "root"
    command = [sys.executable, small_night.__file__, "night", str(root), str(trains), str(goes_on)]
    command = with_name_at(own_address(), tmp_path, command)
    seen: set[Socket] = set()
    with (
        open(tmp_path / "log", "w+") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) as driver,
    ):
        try:
            while driver.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    driver.wait(timeout=0.2)  # between two looks
                held = trains.exists() and not goes_on.exists()
                sockets = listening(driver.pid)
                seen |= sockets
                if held:  # all its workers are there, in the middle of an epoch
                    assert any("ray::RayTrainWorker" in command for command, *_ in sockets)
                    goes_on.touch()
        finally:
            small_night.kill_driver(driver)
        log.seek(0)
        assert driver.returncode == 0, log.read()[-3000:]
    assert goes_on.exists()
    assert any("prefect" in command for command, *_ in seen)
    assert outside_loopback(seen) == []


def test_workers_of_a_joined_cluster_listen_on_the_address_of_their_node(tmp_path: Path) -> None:
    """Also where the machine's name is 127.0.1.1, as Debian has it; another node could not reach that."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback's")
    command = [sys.executable, small_night.__file__, "joined", address, str(tmp_path)]
    done = subprocess.run(with_name_at("127.0.1.1", tmp_path, command), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / rank).read_text().split() for rank in "01")
    # Ray's own listener in each worker is on all interfaces there; beside it gloo's and, in the first, the store's.
    for addresses in (first, second):
        addresses.remove("::")
    assert (first, second) == ([address] * len(first), [address] * len(second))
    assert len(first) == len(second) + 1


def test_the_interface_is_that_of_the_address(ray_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for _, name in socket.if_nameindex()]
    assert interface_of("127.0.0.1") in names
    assert interface_of("127.0.0.2") == interface_of("127.0.0.1")
    assert interface_of("198.51.100.7") is None  # reserved for documentation, so nobody's
    if address := own_address():
        assert interface_of(address) in {*names} - {interface_of("127.0.0.1")}
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine0")
    use_interface("127.0.0.1")
    assert [os.environ[name] for name in INTERFACES] == ["mine0", f"={interface_of('127.0.0.1')}"]
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
