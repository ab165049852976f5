"""The reaper's end of the conversation with the builder."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run import reaper

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("how", ["quit", "closed", "died with something unread"])
def test_a_builder_that_is_gone_ends_it(how: str) -> None:
    builder, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own:
        if how == "quit":
            builder.send(b"quit")
        if how == "died with something unread":
            own.send(b"something")  # the kernel then says reset, not end
        if how != "quit":
            builder.close()
        announced = reaper._Reaper(own).serve()
    builder.close()
    assert announced == (how == "quit")
