"""The reaper's end of the conversation with the builder."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run import reaper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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


@pytest.mark.usefixtures("_signals_as_before")
def test_it_removes_directories_and_says_whether_it_could(tmp_path: Path) -> None:
    tree, file = tmp_path / "tree with spaces", tmp_path / "file"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").write_text("content")
    file.write_text("kept")
    builder, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers: list[bytes] = []

    def ask() -> None:
        for path in (tree, file):
            answer, end = os.pipe()
            socket.send_fds(builder, [reaper.encode_removal(str(path))], [end])
            os.close(end)
            answers.append(os.read(answer, 32))
            os.close(answer)
        builder.send(b"quit")

    with own, builder:
        asking = threading.Thread(target=ask)
        asking.start()
        assert reaper._Reaper(own).serve()
        asking.join()
    assert answers == [b"0", b"1"]
    assert not tree.exists()
    assert file.read_text() == "kept"
