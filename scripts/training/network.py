"""This node's network interfaces, and the one over which gloo meets the other nodes."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915  # linux/sockios.h
IFF_UP = 0x1


def list_interfaces() -> Iterator[dict]:
    """Yield each interface: its name, whether it is up, its IPv4 address or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            flags = struct.unpack_from("16xH", fcntl.ioctl(probe, SIOCGIFFLAGS, request))[0]
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
                address = socket.inet_ntoa(answer[20:24])
            except OSError:  # it has no IPv4 address
                address = None
            yield {"name": name, "up": bool(flags & IFF_UP), "ipv4": address}


def choose_gloo_interface() -> None:
    """Unless GLOO_SOCKET_IFNAME is set, let gloo take the interface that leads to the master.

    By itself gloo takes the one that the host's own name belongs to, which on Debian is loopback
    (127.0.1.1): such a node meets nobody. On the first node, whose way to itself says nothing,
    PEER_ADDR (of scripts/node.sh) names another.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    for variable in ("PEER_ADDR", "MASTER_ADDR"):
        with (
            suppress(OSError, UnicodeError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        ):
            probe.connect((os.environ.get(variable, ""), 9))  # sends nothing: it asks for the route
            own = probe.getsockname()[0]
            names = [each["name"] for each in list_interfaces() if each["ipv4"] == own]
            if names and not own.startswith("127."):
                os.environ["GLOO_SOCKET_IFNAME"] = names[0]
                return
