"""Where processes listen, by sockets of this one."""

from __future__ import annotations

import os
import socket

from layerstore.containers.listening import Listener, listeners_of


def test_sockets_that_wait_are_listed_and_no_others() -> None:
    kinds = (
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1"),
        (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0"),
    )
    sockets, wanted = [], set()
    for family, kind, address in kinds:
        made = socket.socket(family, kind)
        made.bind((address, 0))
        sockets.append(made)
        if kind == socket.SOCK_STREAM:
            made.listen()
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        wanted.add(Listener(made.getsockname()[1], protocol, address))
    with socket.socket() as bound, socket.create_connection(sockets[0].getsockname()) as connected:
        bound.bind(("127.0.0.1", 0))
        found = set(listeners_of([os.getpid()]))
        assert wanted <= found
        others = {bound.getsockname()[1], connected.getsockname()[1]}
        assert not others & {one.port for one in found}
    for made in sockets:
        made.close()
    assert not wanted & set(listeners_of([os.getpid()]))


def test_addresses_are_told_as_docker_has_them() -> None:
    assert str(Listener(80, "tcp", "::")) == "[::]:80"
    assert str(Listener(80, "tcp", "127.0.0.1")) == "127.0.0.1:80"
