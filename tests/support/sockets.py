"""Listening TCP sockets of a process and of all below it, as Linux tells them in /proc."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from pathlib import Path

from tests.support import small_night

LISTENING = "0A"  # state of a row of /proc/net/tcp


Socket = tuple[str, str, int]  # command, address, port


def listening(parent: int) -> set[Socket]:
    """Each socket that the process `parent` or one of its descendants listens on."""
    addresses = _by_inode()
    sockets = set()
    for pid in (parent, *small_night.descendants(parent)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            links = [_link(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            sockets |= {(command, *addresses[link]) for link in links if link in addresses}
    return sockets


def _link(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""  # closed meanwhile


def _by_inode() -> dict[str, tuple[str, int]]:
    """Address and port by what the link of its file descriptor says, such as "socket:[4711]"."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                address, _, port = fields[1].partition(":")
                addresses[f"socket:[{fields[9]}]"] = _address(address), int(port, 16)
    return addresses


def _address(digits: str) -> str:
    """An address in the kernel's hexadecimal: words of 32 bits in the machine's order."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def outside_loopback(sockets: set[Socket]) -> list[Socket]:
    return sorted(item for item in sockets if not ipaddress.ip_address(item[1]).is_loopback)
