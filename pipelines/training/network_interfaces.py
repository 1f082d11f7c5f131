"""Selects the network interface of gloo and nccl by its address.

use_interface("10.0.0.7")        # GLOO_SOCKET_IFNAME=eth1, unless the user has set it
"""

from __future__ import annotations

import ipaddress
import os

# What gloo and nccl read; "=" asks nccl for the interface of exactly this name.
INTERFACES = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}


def use_interface(address: str) -> None:
    """Makes gloo and nccl of this process use the interface with the address, unless the user has set one."""
    if name := interface_of(address):
        for variable, form in INTERFACES.items():
            os.environ.setdefault(variable, form.format(name))


def interface_of(address: str) -> str | None:
    """Name of the network interface with the address; None if there is none, as behind a NAT."""
    import psutil  # Ray brings its own, which can be imported after Ray

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return str(name)
    if address != "127.0.0.1" and ipaddress.ip_address(address).is_loopback:
        return interface_of("127.0.0.1")  # which stands for all of 127.0.0.0/8
    return None
