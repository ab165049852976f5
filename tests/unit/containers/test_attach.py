"""What a monitor said is heard although it ended with something unread."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, cast

import pytest

from layerstore.containers import lifecycle
from layerstore.containers.attach import Outcome, attend, receive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.containers.records import Container


@pytest.fixture
def left() -> Iterator[socket.socket]:
    """A connection to one that ended before it read what it was sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            ours.send(b"Itoo late")
            theirs.send(b"1out\n")
            theirs.send(b"X7")
        yield ours


def test_an_attached_client_has_output_and_status(
    left: socket.socket, capfd: pytest.CaptureFixture[str]
) -> None:
    assert attend(left, interactive=False, tty=False, proxy_signals=False) == Outcome(7)
    assert capfd.readouterr().out == "out\n"


def test_who_waits_has_the_status(left: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "connect", lambda _: left)
    assert lifecycle.wait_for_code("nowhere", cast("Container", None)) == 7


def test_one_that_said_nothing_has_ended() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            ours.send(b"Q")
        assert receive(ours) == b""
