"""Our /dev/fuse server against a kernel played by a socket: no request ends it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_mount import protocol
from fuse_mount.device import Session, Slot
from fuse_mount.nodes import GrowingNodes, SingleNodes
from fuse_mount.protocol import Flag, Opcode
from fuse_mount.starting import SLOT_BYTES
from layerstore.digest import ChunkId, blake3_id
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.trees.stack import stack
from layerstore.vfs.view import ImageView, NoSuchPathError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = bytes(range(256)) * 300
MTIME_NS = -1_500_000_000


class Chunks:
    def __init__(self) -> None:
        self.held = {blake3_id(CONTENT): CONTENT}

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        return self.held[chunk_id]


def make_view() -> ImageView:
    chunk = blake3_id(CONTENT)
    size = len(CONTENT)
    holed = ((4096, None), (size, chunk), (8192, None))
    entries = (
        Entry(b"d", Kind.DIR, 0o750, uid=3, gid=4, mtime_ns=MTIME_NS),
        Entry(b"d/f", Kind.FILE, 0o4755, size=size, extents=((size, chunk),)),
        Entry(b"d/link", Kind.HARDLINK, 0, target=b"d/f"),
        Entry(b"dev", Kind.CHAR, 0o600, dev_major=0x123, dev_minor=0x45678),
        Entry(b"holed", Kind.FILE, 0o644, size=size + 12288, extents=holed),
        Entry(b"s", Kind.SYMLINK, 0o777, target=b"d/f"),
        Entry(b"x", Kind.FIFO, 0o600, xattrs=((b"user.a", b"value"), (b"user.b", b""))),
    )
    return ImageView(Chunks(), stack([Changeset(entries)]))


class Kernel:
    """The other end of the device: sends requests, takes answers."""

    def __init__(self, tree: SingleNodes | GrowingNodes) -> None:
        self.end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.end.settimeout(60)
        self.device = device
        self.session = Session(device.fileno(), tree, Slot())
        self.thread = threading.Thread(target=self.session.run)
        self.thread.start()
        self.unique = 0

    def close(self) -> None:
        self.end.close()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.device.close()

    def send(self, opcode: int, node: int, body: bytes = b"") -> None:
        self.unique += 2
        size = protocol.HEADER.size + len(body)
        header = protocol.HEADER.pack(size, opcode, self.unique, node, 0, 0, 0, 0, 0)
        self.end.send(header + body)

    def ask(self, opcode: int, node: int, body: bytes = b"") -> tuple[int, bytes]:
        """Return errno and body of the answer."""
        self.send(opcode, node, body)
        answer = self.end.recv(2 << 20)
        length, code, unique = protocol.ANSWER.unpack_from(answer)
        assert (length, unique) == (len(answer), self.unique)
        return -code, answer[protocol.ANSWER.size :]

    def lookup(self, parent: int, name: bytes) -> int:
        code, body = self.ask(Opcode.LOOKUP, parent, name + b"\0")
        assert code == 0
        return int.from_bytes(body[:8], "little")

    def walk(self, *names: bytes) -> int:
        node = protocol.ROOT
        for name in names:
            node = self.lookup(node, name)
        return node


def read_in(offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0)


def init_in(flags: int = int(protocol.WANTED), minor: int = 45) -> bytes:
    low = flags & 0xFFFF_FFFF
    return struct.pack("=IIIII44x", 7, minor, 131072, low, flags >> 32)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel(SingleNodes(make_view()))
    yield kernel
    kernel.close()


def listing(kernel: Kernel, opcode: int, node: int, room: int = 4096) -> dict[bytes, int]:
    """Read a directory to its end, a piece at a time; return inode numbers by name."""
    found: dict[bytes, int] = {}
    cookie, skip = 0, 128 if opcode == Opcode.READDIRPLUS else 0
    while True:
        code, body = kernel.ask(opcode, node, read_in(cookie, room))
        assert code == 0
        assert len(body) <= room
        if not body:
            return found
        at = 0
        while at < len(body):
            number, cookie, size, _ = struct.unpack_from("=QQII", body, at + skip)
            name = body[at + skip + 24 : at + skip + 24 + size]
            assert name not in found
            found[name] = number
            at += skip + (24 + size + 7) // 8 * 8


def test_init_agrees_to_what_both_know(kernel: Kernel) -> None:
    code, body = kernel.ask(Opcode.INIT, 0, init_in(flags=(1 << 64) - 1))
    major, minor, _, low = struct.unpack_from("=IIII", body)
    assert (code, len(body), major) == (0, 64, protocol.MAJOR)
    assert minor == protocol.MINOR
    assert low & protocol.REQUIRED == protocol.REQUIRED
    assert not low & Flag.POSIX_ACL  # no file has one
    _, body = kernel.ask(Opcode.INIT, 0, init_in(int(protocol.REQUIRED), minor=31))
    assert struct.unpack_from("=IIII", body)[1] == 31
    assert struct.unpack_from("=IIII", body)[3] == protocol.REQUIRED


def test_names_attributes_and_content(kernel: Kernel) -> None:
    file = kernel.walk(b"d", b"f")
    assert file == kernel.walk(b"d", b"link")
    assert kernel.lookup(file, b".") == file
    assert kernel.lookup(kernel.walk(b"d"), b"..") == protocol.ROOT
    assert kernel.lookup(protocol.ROOT, b"absent") == 0  # and the kernel remembers it
    long = b"n" * 256 + b"\0"
    assert kernel.ask(Opcode.LOOKUP, protocol.ROOT, long)[0] == errno.ENAMETOOLONG
    code, body = kernel.ask(Opcode.GETATTR, kernel.walk(b"d"), bytes(16))
    assert code == 0
    seconds, _, _, nanoseconds = struct.unpack_from("=qqqI", body, 16 + 24)
    assert (seconds, nanoseconds) == (-2, 500_000_000)
    mode, nlink, uid, gid = struct.unpack_from("=IIII", body, 16 + 60)
    assert (mode, nlink, uid, gid) == (stat.S_IFDIR | 0o750, 2, 3, 4)
    code, body = kernel.ask(Opcode.GETATTR, kernel.walk(b"dev"), bytes(16))
    assert struct.unpack_from("=I", body, 16 + 76)[0] == 0x45612378  # new_encode_dev
    assert kernel.ask(Opcode.READ, file, read_in(100, 5000)) == (0, CONTENT[100:5100])
    assert kernel.ask(Opcode.READ, file, read_in(len(CONTENT) - 5, 4096)) == (0, CONTENT[-5:])
    assert kernel.ask(Opcode.READ, file, read_in(1 << 63, 4096)) == (0, b"")
    holed = bytes(4096) + CONTENT + bytes(8192)
    assert kernel.ask(Opcode.READ, kernel.walk(b"holed"), read_in(0, 1 << 20)) == (0, holed)
    assert kernel.ask(Opcode.READLINK, kernel.walk(b"s")) == (0, b"d/f")
    assert kernel.ask(Opcode.READLINK, file)[0] == errno.EINVAL
    assert kernel.ask(Opcode.READ, kernel.walk(b"d"), read_in(0, 1))[0] == errno.EINVAL


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
def test_directories_are_listed_in_pieces(kernel: Kernel, opcode: int) -> None:
    names = {b".", b"..", b"d", b"dev", b"holed", b"s", b"x"}
    for room in (200, 4096):
        found = listing(kernel, opcode, protocol.ROOT, room)
        assert found.keys() == names
        assert found[b"d"] == kernel.walk(b"d")
        assert found[b"."] == found[b".."] == protocol.ROOT
    assert kernel.ask(opcode, kernel.walk(b"s"), read_in(0, 4096))[0] == errno.ENOTDIR


def test_attributes_of_files(kernel: Kernel) -> None:
    node = kernel.walk(b"x")
    get = lambda room, name: kernel.ask(  # noqa: E731
        Opcode.GETXATTR, node, struct.pack("=II", room, 0) + name + b"\0"
    )
    assert get(0, b"user.a") == (0, struct.pack("=II", 5, 0))
    assert get(5, b"user.a") == (0, b"value")
    assert get(4, b"user.a") == (errno.ERANGE, b"")
    assert get(64, b"user.none") == (errno.ENODATA, b"")
    names = b"user.a\0user.b\0"
    assert kernel.ask(Opcode.LISTXATTR, node, struct.pack("=II", 64, 0)) == (0, names)
    assert kernel.ask(Opcode.LISTXATTR, node, struct.pack("=II", 3, 0))[0] == errno.ERANGE


def test_holes_are_told(kernel: Kernel) -> None:
    node, end = kernel.walk(b"holed"), 4096 + len(CONTENT)

    def seek(offset: int, whence: int) -> int | None:
        code, body = kernel.ask(Opcode.LSEEK, node, struct.pack("=QQII", 0, offset, whence, 0))
        assert code in (0, errno.ENXIO)
        return None if code else int(struct.unpack("=Q", body)[0])

    assert seek(0, os.SEEK_DATA) == 4096
    assert seek(5000, os.SEEK_DATA) == 5000
    assert seek(end, os.SEEK_DATA) is None
    assert seek(0, os.SEEK_HOLE) == 0
    assert seek(4096, os.SEEK_HOLE) == end
    assert seek(end + 8192, os.SEEK_HOLE) is None
    assert kernel.ask(Opcode.LSEEK, node, struct.pack("=QQII", 0, 0, 9, 0))[0] == errno.EINVAL


def test_files_are_opened_by_the_kernel_and_what_is_unknown_is_not_there(kernel: Kernel) -> None:
    for opcode in (Opcode.OPEN, Opcode.OPENDIR, 9, 16, 4096):
        assert kernel.ask(opcode, protocol.ROOT, bytes(64))[0] == errno.ENOSYS
    assert kernel.ask(Opcode.IOCTL, protocol.ROOT, bytes(64))[0] == errno.ENOTTY
    assert kernel.ask(Opcode.GETATTR, 12_345, bytes(16))[0] == errno.ESTALE


def test_a_damaged_chunk_is_an_error_of_that_read_alone() -> None:
    view = make_view()
    view._reader.held.clear()  # type: ignore[attr-defined]
    kernel = Kernel(SingleNodes(view))
    try:
        assert kernel.ask(Opcode.READ, kernel.walk(b"d", b"f"), read_in(0, 10))[0] == errno.EIO
        assert kernel.ask(Opcode.READLINK, kernel.walk(b"s")) == (0, b"d/f")
    finally:
        kernel.close()


def test_a_growing_tree_gives_each_view_numbers_of_its_own() -> None:
    def load(name: bytes) -> ImageView:
        if name not in wanted:
            raise NoSuchPathError("none")
        return make_view()

    wanted = [b"%02d" % number for number in range(12)]  # more than are kept loaded
    kernel = Kernel(GrowingNodes(load))
    try:
        nodes = {name: kernel.walk(name, b"d", b"f") for name in wanted}
        assert len(set(nodes.values())) == len(wanted)
        for name, node in nodes.items():
            assert kernel.ask(Opcode.READ, node, read_in(0, 10)) == (0, CONTENT[:10])
            assert kernel.walk(name, b"d", b"f") == node
            assert kernel.lookup(kernel.walk(name), b"..") == protocol.ROOT
        assert kernel.lookup(protocol.ROOT, b"other") == 0
        assert kernel.ask(Opcode.GETATTR, 99 << 40 | 1, bytes(16))[0] == errno.ESTALE
    finally:
        kernel.close()


OPCODES = st.one_of(st.sampled_from(list(Opcode)), st.integers(0, 1 << 32 - 1))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(OPCODES, st.integers(0, 20), st.binary(max_size=100), st.integers(-40, 40)),
        max_size=8,
    )
)
def test_nothing_that_is_sent_ends_it(
    requests: list[tuple[int, int, bytes, int]],
) -> None:
    kernel = Kernel(SingleNodes(make_view()))
    try:
        link = kernel.walk(b"s")
        for opcode, node, body, lie in requests:
            if opcode == Opcode.INIT:
                continue  # the kernel's own, once: it may say that it is too old
            size = protocol.HEADER.size + len(body) + (lie if lie > 20 else 0)
            header = protocol.HEADER.pack(size, opcode, 7, node, 0, 0, 0, 0, 0)
            kernel.end.send((header + body)[: lie if lie < -20 else None])
        assert kernel.thread.is_alive()
        kernel.unique = 1000
        kernel.send(Opcode.READLINK, link)
        answer = kernel.end.recv(2 << 20)
        while protocol.ANSWER.unpack_from(answer)[2] != kernel.unique:
            answer = kernel.end.recv(2 << 20)
        assert answer[protocol.ANSWER.size :] == b"d/f"
    finally:
        kernel.close()


class TestTakingOver:
    """A slot outlives its server; the next one answers what it had read."""

    @pytest.fixture
    def memory(self) -> Iterator[int]:
        fd = os.memfd_create("slot")
        os.ftruncate(fd, SLOT_BYTES)
        yield fd
        os.close(fd)

    def taken(self, kernel_end: socket.socket, device: socket.socket, memory: int) -> bytes:
        """Let a server read a request and die; return what the next one answers."""
        size = protocol.HEADER.size
        request = protocol.HEADER.pack(size, Opcode.STATFS, 42, 1, 0, 0, 0, 0, 0)
        kernel_end.send(request)
        os.readv(device.fileno(), [Slot(memory).buffer])
        Session(device.fileno(), SingleNodes(make_view()), Slot(memory)).resume()
        return kernel_end.recv(4096)

    def test_what_was_read_is_answered(self, memory: int) -> None:
        kernel_end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with kernel_end, device:
            answer = self.taken(kernel_end, device, memory)
            assert protocol.ANSWER.unpack_from(answer) == (len(answer), 0, 42)

    def test_what_ends_every_server_gets_an_error(self, memory: int) -> None:
        kernel_end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with kernel_end, device:
            slot = Slot(memory)
            slot.count_try()  # two servers that began with it and died
            slot.count_try()
            answer = self.taken(kernel_end, device, memory)
            assert protocol.ANSWER.unpack_from(answer) == (16, -errno.EIO, 42)
            answer = self.taken(kernel_end, device, memory)
            assert protocol.ANSWER.unpack_from(answer)[1] == 0

    def test_nothing_was_read(self, memory: int) -> None:
        kernel_end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with kernel_end, device:
            kernel_end.setblocking(False)
            Session(device.fileno(), SingleNodes(make_view()), Slot(memory)).resume()
            with pytest.raises(BlockingIOError):
                kernel_end.recv(4096)


def test_a_slot_has_room_for_the_longest_request_and_its_tries() -> None:
    fd = os.memfd_create("slot")
    try:
        os.ftruncate(fd, SLOT_BYTES)
        slot = Slot(fd)
        assert len(slot.buffer) == protocol.REQUEST_MAX_BYTES
        assert [slot.count_try(), slot.count_try()] == [1, 2]
        assert Slot(fd).count_try() == 3, "what comes next sees the tries, too"
    finally:
        os.close(fd)
