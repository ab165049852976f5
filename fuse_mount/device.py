"""Serving a tree on /dev/fuse without a library: one request after another, until unmounted.

No state outlives a request: the kernel remembers what was agreed in INIT, node ids follow
from the image, and files and directories are never opened (OPEN and OPENDIR are answered
with ENOSYS once, after which the kernel opens by itself and keeps pages and listings). So a
server that dies can be followed by another on the same descriptor. The one thing it may
have taken along is the request that it had read and not answered: requests are read into
memory that outlives it (:class:`Slot`), and a new server answers that one first.

Whatever a request holds, it is answered or passed over: nothing that the kernel or a user of
the mount sends ends the loop. A request that has killed two servers gets EIO.

One thread: Python runs one at a time, and handing requests over costs more than it gains.

Source: Documentation/filesystems/fuse.rst; linux/fuse.h.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import struct
from typing import TYPE_CHECKING

from fuse_mount import protocol
from fuse_mount.errno_map import QUIET, errno_for
from fuse_mount.protocol import Opcode
from fuse_mount.starting import SLOT_BYTES
from layerstore.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuse_mount.nodes import NodeTree
    from layerstore.vfs.view import Piece

_log = logging.getLogger("layerstore.fuse")

_PIECES_MAX = 512
"""writev(2) takes 1,024 parts; what has more is joined first."""

_ATTEMPTS_MAX = 2
"""Servers that may die of one request before it gets EIO."""

_SEEK_DATA, _SEEK_HOLE = 3, 4
_TRIES = struct.Struct("=Q")


class Slot:
    """Memory for the one request at work, which may be shared with whoever comes next.

    Args:
        fd: A memory file of :data:`fuse_mount.starting.SLOT_BYTES` that outlives the server;
            None if nobody takes over.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if fd is None else fd, SLOT_BYTES)
        self.buffer = memoryview(self._memory)[: protocol.REQUEST_MAX_BYTES]

    def left_length(self) -> int:
        """Return the length of the request that was read last, 0 if none ever was."""
        length: int = protocol.HEADER.unpack_from(self.buffer)[0]
        return length if length <= len(self.buffer) else 0

    def count_try(self) -> int:
        """Return how many servers, this one included, have taken over the last request."""
        (tries,) = _TRIES.unpack_from(self._memory, protocol.REQUEST_MAX_BYTES)
        self._note_tries(tries + 1)
        return int(tries) + 1

    def forget_tries(self) -> None:
        """Note that the last request is answered."""
        self._note_tries(0)

    def _note_tries(self, tries: int) -> None:
        _TRIES.pack_into(self._memory, protocol.REQUEST_MAX_BYTES, tries)


class _AnswerError(Exception):
    """Ends a request with an errno that needs no explanation."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Session:
    """The conversation with the kernel about one mount.

    Args:
        device: An open /dev/fuse that was or is about to be mounted.
        tree: What is served.
        slot: Where requests are read.
        on_ready: Called once the kernel has its answer to INIT.
    """

    def __init__(
        self, device: int, tree: NodeTree, slot: Slot, on_ready: Callable[[], None] | None = None
    ) -> None:
        self._device = device
        self._tree = tree
        self._slot = slot
        self._buffer = slot.buffer
        self._on_ready = on_ready
        self._ready = False
        self._absent = protocol.absent_answer()
        self._handlers: dict[int, Callable[[int, int], bytes | Sequence[Piece]]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.READ: self._read,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.LSEEK: self._lseek,
            Opcode.INIT: self._init,
            Opcode.DESTROY: lambda _node, _length: b"",
            Opcode.IOCTL: self._ioctl,
        }

    def resume(self) -> None:
        """Take over from a server that died: answer what it had read and not answered.

        Harmless if it had answered that: the kernel says that it waits for no such answer.

        Raises:
            OSError: The device failed.
        """
        length = self._slot.left_length()
        if length:
            self._serve(length, give_up=self._slot.count_try() > _ATTEMPTS_MAX)
        self._slot.forget_tries()

    def run(self) -> None:
        """Answer the kernel until the last mount of the tree is gone.

        Raises:
            OSError: The device failed.
        """
        readv, device, buffers = os.readv, self._device, [self._buffer]
        while True:
            try:
                count = readv(device, buffers)
            except OSError as err:
                if err.errno == errno.ENODEV:
                    return
                if err.errno in (errno.ENOENT, errno.EAGAIN):
                    continue  # whoever asked was interrupted before we took it
                raise
            if not count:
                return  # the other end of a socket is closed; the kernel's device never says so
            self._serve(count)

    def _serve(self, count: int, *, give_up: bool = False) -> None:
        """Answer the request in the buffer."""
        try:
            opcode, unique, node = protocol.parse_header(self._buffer, count)
        except protocol.MalformedRequestError as err:
            _log.error("passed over: %s", err.message)
            return
        if opcode in protocol.UNANSWERED:
            return
        parts: Sequence[Piece]
        if give_up:
            _log.error("request %d of kind %d ended two servers: EIO", unique, opcode)
            code, parts = errno.EIO, ()
        else:
            code, parts = self._result(opcode, node, count)
        size = sum(map(len, parts))
        self._write(unique, [protocol.answer(unique, size, code), *parts])
        if opcode == Opcode.INIT and not self._ready:
            self._ready = True
            if self._on_ready is not None:
                self._on_ready()

    def _result(self, opcode: int, node: int, count: int) -> tuple[int, Sequence[Piece]]:
        """Return the errno and the parts of an answer."""
        handler = self._handlers.get(opcode)
        if handler is None:
            return errno.ENOSYS, ()
        try:
            found = handler(node, count)
        except _AnswerError as end:
            return end.code, ()
        except UnsupportedError:
            raise
        except Exception as error:  # noqa: BLE001 -- no request may end the server
            code = errno_for(error)
            if code not in QUIET:
                _log.error("request of kind %d failed", opcode, exc_info=error)
            return code, ()
        if isinstance(found, bytes):
            return 0, (found,)
        return 0, found if len(found) < _PIECES_MAX else (b"".join(found),)

    def _write(self, unique: int, parts: list[Piece]) -> None:
        try:
            os.writev(self._device, parts)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENODEV):
                return  # whoever asked is gone, or the mount is: the next read tells
            # Nothing else ends what waits for this answer.
            _log.error("the kernel refused an answer: %s", err.strerror)
            try:
                os.write(self._device, protocol.answer(unique, 0, errno.EIO))
            except OSError as again:
                _log.error("nor did it take an error: %s", again.strerror)

    # -- requests: node id and length in, what the answer holds out

    def _init(self, _node: int, length: int) -> bytes:
        offered = protocol.parse_init(self._buffer, length)
        if offered.minor < protocol.MINOR_MIN or ~offered.flags & protocol.REQUIRED:
            raise UnsupportedError(
                f"this kernel speaks FUSE {offered.major}.{offered.minor}, the server needs "
                f"{protocol.MAJOR}.{protocol.MINOR_MIN}",
                hint="use Linux 5.4 or newer, or --backend fusepy",
            )
        return protocol.init_answer(offered, acls=self._tree.has_acls())

    def _lookup(self, node: int, length: int) -> bytes:
        from layerstore.vfs.view import NameTooLongError, NoSuchPathError

        try:
            numbered, found = self._tree.lookup(node, protocol.parse_name(self._buffer, length))
        except NoSuchPathError as err:
            if isinstance(err, NameTooLongError):
                raise
            return self._absent
        number = numbered.base + found.ino
        return protocol.entry_answer(number, numbered.view.attributes(found))

    def _getattr(self, number: int, _length: int) -> bytes:
        numbered, node = self._tree.locate(number)
        return protocol.attributes_answer(number, numbered.view.attributes(node))

    def _readlink(self, number: int, _length: int) -> bytes:
        numbered, node = self._tree.locate(number)
        return numbered.view.link_target(node)

    def _read(self, number: int, length: int) -> Sequence[Piece]:
        offset, size = protocol.parse_read(self._buffer, length)
        numbered, node = self._tree.locate(number)
        return numbered.view.pieces(node, offset, size)

    def _readdir(self, number: int, length: int) -> Sequence[bytes]:
        offset, room = protocol.parse_read(self._buffer, length)
        numbered, directory = self._tree.locate(number)
        base = numbered.base
        made = []
        listing = numbered.listing(directory)
        for cookie in range(offset, len(listing)):
            name, node = listing[cookie]
            mode = numbered.view.file_type(node)
            part = protocol.listing_entry(name, base + node.ino, mode, cookie + 1)
            room -= len(part)
            if room < 0:
                break
            made.append(part)
        return made

    def _readdirplus(self, number: int, length: int) -> Sequence[bytes]:
        offset, room = protocol.parse_read(self._buffer, length)
        numbered, directory = self._tree.locate(number)
        base, attributes = numbered.base, numbered.view.attributes
        made = []
        listing = numbered.listing(directory)
        for cookie in range(offset, len(listing)):
            name, node = listing[cookie]
            if cookie < 2:
                part = protocol.listing_dots_plus(name, base + node.ino, cookie + 1)
            else:
                part = protocol.listing_entry_plus(
                    name, base + node.ino, attributes(node), cookie + 1
                )
            room -= len(part)
            if room < 0:
                break
            made.append(part)
        return made

    def _statfs(self, _node: int, _length: int) -> bytes:
        return protocol.totals_answer(self._tree.totals())

    def _getxattr(self, number: int, length: int) -> bytes:
        if not self._tree.has_xattrs():
            raise _AnswerError(errno.ENOSYS)  # the kernel will not ask again
        room, name = protocol.parse_xattr(self._buffer, length)
        numbered, node = self._tree.locate(number)
        return _fitting(numbered.view.xattr(node, name), room)

    def _listxattr(self, number: int, length: int) -> bytes:
        if not self._tree.has_xattrs():
            raise _AnswerError(errno.ENOSYS)
        room = protocol.parse_xattr_list(self._buffer, length)
        numbered, node = self._tree.locate(number)
        names = numbered.view.xattr_names(node)
        return _fitting(b"".join(name + b"\0" for name in names), room)

    def _lseek(self, number: int, length: int) -> bytes:
        offset, whence = protocol.parse_seek(self._buffer, length)
        numbered, node = self._tree.locate(number)
        if whence == _SEEK_DATA:
            return protocol.seek_answer(numbered.view.next_data(node, offset))
        if whence == _SEEK_HOLE:
            return protocol.seek_answer(numbered.view.next_hole(node, offset))
        raise _AnswerError(errno.EINVAL)

    def _ioctl(self, _node: int, _length: int) -> bytes:
        raise _AnswerError(errno.ENOTTY)


def _fitting(value: bytes, room: int) -> bytes:
    """Answer a question for bytes: their number if no room was given."""
    if not room:
        return protocol.xattr_size_answer(len(value))
    if len(value) > room:
        raise _AnswerError(errno.ERANGE)
    return value
