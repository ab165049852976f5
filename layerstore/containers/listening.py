"""Where the programs of a container listen: the sockets that its processes hold, as /proc has them.

Containers have the host's network, so nothing is published or forwarded: where they listen is
where they are reached. Source: proc_pid_net(5), proc_pid_fd(5).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys

from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LISTENING = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN; of UDP what has no peer, as the kernel calls it TCP_CLOSE."""

_SOCKET, _END = "socket:[", "]"
_ADDRESS, _PEER, _STATE, _INODE = 1, 2, 3, 9
_NO_PEER = {"0" * 8 + ":0000", "0" * 32 + ":0000"}


class Listener(NamedTuple):
    """A socket that waits for peers.

    Attributes:
        port: Its number.
        protocol: ``tcp`` or ``udp``.
        address: Of the host; of IPv6 without brackets.
    """

    port: int
    protocol: str
    address: str

    def __str__(self) -> str:
        """Return the address with the port, as docker has it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def listeners_of(pids: Iterable[int]) -> list[Listener]:
    """Return where some processes listen, by port; who shares a network namespace is one of them.

    Args:
        pids: Of processes in one network namespace; what cannot be looked into is left out.
    """
    found: set[Listener] = set()
    pids = list(pids)
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    for pid in pids:
        if inodes and os.path.exists(f"/proc/{pid}/net/tcp"):
            for name in ("tcp", "tcp6", "udp", "udp6"):
                found.update(_in_table(f"/proc/{pid}/net/{name}", name[:3], inodes))
            break
    return sorted(found)


def _sockets(pid: int) -> Iterator[str]:
    """Yield the inodes of a process's sockets."""
    with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith(_SOCKET):
                    yield link.removeprefix(_SOCKET).removesuffix(_END)


def _in_table(path: str, protocol: str, inodes: set[str]) -> Iterator[Listener]:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
        next(file, None)
        for line in file:
            words = line.split()
            if len(words) <= _INODE or words[_INODE] not in inodes:
                continue
            if words[_STATE] == _LISTENING[protocol] and words[_PEER] in _NO_PEER:
                address, _, port = words[_ADDRESS].partition(":")
                yield Listener(int(port, 16), protocol, _address(address))


def _address(text: str) -> str:
    """Return an address out of words of 32 bits in the host's order, as /proc writes it."""
    order = "<" if sys.byteorder == "little" else ">"
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"{order}{len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, packed)
