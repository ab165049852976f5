"""The data layer of lazy views against a kernel played by a socket: no request ends it."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_mount import protocol
from fuse_mount.object_layer import STAGE_MAX_BYTES, THREADS, ObjectLayer
from fuse_mount.protocol import Opcode
from layerstore.digest import ChunkId, ObjectId, blake3_id
from layerstore.errors import IntegrityError
from layerstore.store.objects.objects import object_id

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = bytes(range(256)) * 4096 + b"end"
SHORT = b"short"
LONG_NAME = object_id(((len(LONG), blake3_id(LONG)),))
SHORT_NAME = object_id(((len(SHORT), blake3_id(SHORT)),))
MAKE, LAST = 2, 3


class Content:
    """Content that comes, or fails as it is told to."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.staged: set[ObjectId] = set()

    def size(self, object_id: ObjectId) -> int:
        return len(LONG) if object_id == LONG_NAME else len(SHORT)

    def stage(self, object_id: ObjectId) -> bool:
        if self.failure is not None:
            raise self.failure
        self.staged.add(object_id)
        return True

    def stage_if_whole(self, object_id: ObjectId) -> bool:
        return False

    def bring(self, object_id: ObjectId, offset: int, size: int) -> None:
        if self.failure is not None:
            raise self.failure

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        return LONG


class Kernel:
    """The other end of the device."""

    def __init__(self) -> None:
        self.end, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for one in (self.end, self.device):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.end.settimeout(60)
        self.content = Content()
        self.failed: list[ObjectId] = []
        objects = {
            LONG_NAME: ((len(LONG), blake3_id(LONG)),),
            SHORT_NAME: ((len(SHORT), blake3_id(SHORT)),),
        }
        layer = ObjectLayer(
            self.device.fileno(), self.content, objects, lambda name, _: self.failed.append(name)
        )
        self.thread = threading.Thread(target=layer.serve)
        self.thread.start()
        self.unique = 0

    def close(self) -> None:
        self.end.close()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.device.close()

    def ask(self, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        self.unique += 2
        size = protocol.HEADER.size + len(body)
        self.end.send(protocol.HEADER.pack(size, opcode, self.unique, node, 0, 0, 0, 0, 0) + body)
        answer = self.end.recv(2 << 20)
        length, code, unique = protocol.ANSWER.unpack_from(answer)
        assert (length, unique) == (len(answer), self.unique)
        return -code, answer[protocol.ANSWER.size :]

    def look(self, top: int, name: ObjectId) -> tuple[int, int]:
        """Return errno and node of an object, as an overlay looks for it."""
        text = name.hex().encode()
        code, body = self.ask(Opcode.LOOKUP, top, text[:2] + b"\0")
        if code:
            return code, 0
        code, body = self.ask(Opcode.LOOKUP, int.from_bytes(body[:8], "little"), text + b"\0")
        return code, int.from_bytes(body[:8], "little")

    def read(self, node: int, offset: int, size: int) -> tuple[int, bytes]:
        return self.ask(Opcode.READ, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0))


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


def test_a_short_object_is_staged_and_not_shown(kernel: Kernel) -> None:
    assert len(SHORT) <= STAGE_MAX_BYTES < len(LONG)
    assert kernel.look(MAKE, SHORT_NAME) == (errno.ENOENT, 0)
    assert kernel.content.staged == {SHORT_NAME}


def test_a_long_object_is_read_where_it_is_asked_for(kernel: Kernel) -> None:
    code, node = kernel.look(MAKE, LONG_NAME)
    assert code == 0
    assert kernel.read(node, 4000, 5000) == (0, LONG[4000:9000])
    assert not kernel.content.staged


def test_the_last_layer_never_says_that_a_file_does_not_exist(kernel: Kernel) -> None:
    assert kernel.look(LAST, SHORT_NAME) == (errno.EIO, 0)
    assert kernel.look(LAST, LONG_NAME) == (errno.EIO, 0)


@pytest.mark.parametrize(
    "failure", [IntegrityError("a chunk is damaged"), OSError(errno.ENOSPC, "full"), KeyError(1)]
)
def test_what_fails_is_an_error_of_that_read_alone(kernel: Kernel, failure: Exception) -> None:
    _, node = kernel.look(MAKE, LONG_NAME)
    kernel.content.failure = failure
    for _ in range(2 * THREADS):  # more often than there are threads to lose
        assert kernel.read(node, 0, 10) == (errno.EIO, b"")
    kernel.content.failure = None
    assert kernel.read(node, 0, 10) == (0, LONG[:10])


def test_an_object_that_cannot_be_had_is_shown_and_tells_why(kernel: Kernel) -> None:
    kernel.content.failure = IntegrityError("the remote lied")
    code, node = kernel.look(MAKE, SHORT_NAME)
    assert code == 0
    assert kernel.read(node, 0, 10) == (errno.EIO, b"")
    assert kernel.failed == [SHORT_NAME, SHORT_NAME]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    opcode=st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 1 << 20)),
    node=st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
    body=st.binary(max_size=200),
)
def test_any_request_is_answered(kernel: Kernel, opcode: int, node: int, body: bytes) -> None:
    if opcode not in protocol.UNANSWERED:
        code, _ = kernel.ask(opcode, node, body)
        assert code >= 0
    assert kernel.look(MAKE, LONG_NAME)[0] == 0
