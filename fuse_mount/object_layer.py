"""A data layer of objects that come when an overlay looks for them.

An overlay whose metadata redirects a file looks for its content in one data-only layer after
the other, when the file is first opened or copied up. A lazy view has these:

    objects/              the store's object tier: what is there costs nothing more
    INSTANCE/lazy/make/   this file system, over FUSE
    INSTANCE/staged/      whole files that nobody has forced to disk yet
    INSTANCE/lazy/last/   this file system again

Looking into ``make`` for a short object makes it whole and staged, and is then answered with
"no such file": the overlay goes on to ``staged`` and has a plain file from then on, at the
kernel's own speed. A long object is shown as a file of this file system, whose reads fetch
the chunks that they touch. ``last`` answers with an error whatever is asked, so that what
should have been staged and is not, or a server that is gone, is never "no such file" to a
reader. A hole is never shown for content, whatever dies when: what is not there has no name.

Several threads answer, since each may wait for the remote. A keeper (see
:mod:`fuse_mount.lazy_server`) holds the connection while a server dies and another begins:
node ids follow from the sorted list of objects, and no request needs what an earlier one left.

Source: Linux, fs/overlayfs/namei.c, ovl_lookup_data_layers; overlayfs.rst, "Data-only lower
layers".
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, Final, Protocol

from fuse_mount import object_requests, protocol
from fuse_mount.errno_map import errno_for
from fuse_mount.object_requests import FIRST_OBJECT, FIRST_PREFIX, answer_next
from fuse_mount.protocol import Opcode
from layerstore.digest import ObjectId
from layerstore.errors import LayerstoreError, UnsupportedError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.trees.stack import Node
from layerstore.linux import mounts
from layerstore.vfs.view import Attributes, ImageView, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import ChunkId
    from layerstore.store.objects.objects import Extents

_log = logging.getLogger("layerstore.fuse")

THREADS: Final = 8
"""Requests answered at once: as many may wait for the remote."""

STAGE_MAX_BYTES: Final = 1024 * 1024
"""Objects up to this long are made whole when they are looked for; of longer ones, what is read."""

MAKE = "make"
LAST = "last"


class ObjectContent(Protocol):
    """What the layer asks for content, from several threads.

    That of views is :class:`layerstore.image.lazy.lazy_content.LazyContent`.
    """

    def size(self, object_id: ObjectId) -> int:
        """Return an object's bytes."""
        ...

    def stage(self, object_id: ObjectId) -> bool:
        """See to it that an object is whole and staged; False if it cannot be kept."""
        ...

    def stage_if_whole(self, object_id: ObjectId) -> bool:
        """Stage an object if nothing of it is missing."""
        ...

    def bring(self, object_id: ObjectId, offset: int, size: int) -> None:
        """Be told what is about to be read."""
        ...

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the verified bytes of a chunk."""
        ...


def mount_device(target: str) -> int:
    """Mount a new connection to the kernel at a directory; return its descriptor.

    Raises:
        UnsupportedError: This host has none for us.
        MountError: The kernel refused.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as err:
        raise UnsupportedError(
            f"/dev/fuse, which lazy views need, cannot be opened: {err.strerror}",
            hint="load the kernel module: modprobe fuse; in a container, run it with "
            "--device /dev/fuse",
        ) from err
    options = f"fd={device},rootmode=40500,user_id=0,group_id=0,default_permissions,allow_other"
    flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
    try:
        mounts.mount("layerstore", target, "fuse.layerstore", flags, options)
    except BaseException:
        os.close(device)
        raise
    return device


class ObjectLayer:
    """Answers the kernel on one connection.

    Args:
        device: An open /dev/fuse that is mounted.
        content: Where objects come from.
        objects: Those of the image, and what they are made of.
        failed: Told when an object or a part of it cannot be had.
    """

    def __init__(
        self,
        device: int,
        content: ObjectContent,
        objects: Mapping[ObjectId, Extents],
        failed: Callable[[ObjectId, LayerstoreError], object],
    ) -> None:
        self._device = device
        self._content = content
        self._ids: Sequence[ObjectId] = sorted(objects)
        self._nodes = {name: FIRST_OBJECT + at for at, name in enumerate(self._ids)}
        self._objects = objects
        self._failed = failed
        # Its cache of decoded chunks serves reads that are shorter than a chunk.
        self._view = ImageView(content, Node(Entry(b"", Kind.DIR, 0o500), {}))
        self._answers = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READ: self._read,
            Opcode.LSEEK: self._lseek,
            Opcode.STATFS: self._statfs,
        }

    def serve(self) -> None:
        """Answer until the last mount of this file system is gone."""
        threads = [
            threading.Thread(target=self._loop, name=f"layerstore-fuse-{n}", daemon=True)
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def resend(self) -> None:
        """Ask for what a server before us took and did not answer.

        Raises:
            OSError: The kernel cannot do that (Linux 6.9): who waits would wait for ever.
        """
        os.write(self._device, protocol.resend())

    def _loop(self) -> None:
        buffer = bytearray(protocol.REQUEST_MAX_BYTES)
        while answer_next(self._device, buffer, self._result):
            pass

    def _result(self, opcode: int, node: int, buffer: bytearray, count: int) -> tuple[int, bytes]:
        """Return the errno and what an answer holds."""
        answer = self._answers.get(opcode)  # type: ignore[call-overload]
        if answer is None:
            return errno.ENOSYS, b""
        try:
            return 0, answer(node, buffer, count)
        except FileNotFoundError:
            return errno.ENOENT, b""
        except (LayerstoreError, OSError) as err:
            return errno_for(err), b""
        except Exception as err:  # noqa: BLE001 -- a thread less, and a reader who waits for ever
            _log.error("request of kind %d failed", opcode, exc_info=err)
            return errno.EIO, b""

    def _init(self, _node: int, buffer: bytearray, count: int) -> bytes:
        return protocol.init_answer(protocol.parse_init(buffer, count), acls=False)

    def _lookup(self, node: int, buffer: bytearray, count: int) -> bytes:
        name = os.fsdecode(protocol.parse_name(buffer, count))
        if node == protocol.ROOT and name in (MAKE, LAST):
            return protocol.entry_answer(
                object_requests.MAKE if name == MAKE else object_requests.LAST, _directory()
            )
        if node == object_requests.LAST:
            raise OSError(errno.EIO, "it should have been found before", name)
        try:
            raw = bytes.fromhex(name)
        except ValueError:
            raise FileNotFoundError(name) from None
        if node == object_requests.MAKE and len(raw) == 1:
            return protocol.entry_answer(FIRST_PREFIX + raw[0], _directory())
        found = ObjectId(raw)
        if found not in self._nodes or node != FIRST_PREFIX + raw[0] or self._is_staged(found):
            raise FileNotFoundError(name)
        return protocol.entry_answer(self._nodes[found], self._attributes(found))

    def _is_staged(self, found: ObjectId) -> bool:
        """Whether the overlay will find the object where it looks next.

        What cannot be had is shown nevertheless: reading it tells, and is tried again.
        """
        try:
            if self._content.size(found) <= STAGE_MAX_BYTES:
                return self._content.stage(found)
            return self._content.stage_if_whole(found)
        except LayerstoreError as err:
            self._failed(found, err)
            return False

    def _getattr(self, node: int, _buffer: bytearray, _count: int) -> bytes:
        if node < FIRST_OBJECT:
            return protocol.attributes_answer(node, _directory())
        return protocol.attributes_answer(node, self._attributes(self._object(node)))

    def _read(self, node: int, buffer: bytearray, count: int) -> bytes:
        wanted = protocol.parse_read(buffer, count)
        try:
            self._content.bring(self._object(node), wanted.offset, wanted.size)
            return self._view.read(self._inode(node), wanted.offset, wanted.size)
        except LayerstoreError as err:
            self._failed(self._object(node), err)
            raise

    def _lseek(self, node: int, buffer: bytearray, count: int) -> bytes:
        offset, whence = protocol.parse_seek(buffer, count)
        find = self._view.next_data if whence == os.SEEK_DATA else self._view.next_hole
        return protocol.seek_answer(find(self._inode(node), offset))

    def _inode(self, node: int) -> Node:
        """Return an object as the file that it is the content of."""
        found = self._object(node)
        extents, size = self._objects[found], self._content.size(found)
        inode = Node(Entry(b"", Kind.FILE, 0o400, size=size, extents=extents))
        inode.ino = node
        return inode

    def _statfs(self, _node: int, _buffer: bytearray, _count: int) -> bytes:
        return protocol.totals_answer(Totals(len(self._ids), 0))

    def _object(self, node: int) -> ObjectId:
        if not FIRST_OBJECT <= node < FIRST_OBJECT + len(self._ids):
            raise FileNotFoundError(node)
        return self._ids[node - FIRST_OBJECT]

    def _attributes(self, found: ObjectId) -> Attributes:
        size = self._content.size(found)
        held = sum(length for length, name in self._objects[found] if name is not None)
        mode = stat.S_IFREG | 0o400
        return Attributes(self._nodes[found], mode, 1, 0, 0, 0, size, -(-held // 512), 0)


def _directory() -> Attributes:
    return Attributes(1, stat.S_IFDIR | 0o500, 2, 0, 0, 0, 4096, 8, 0)
