"""A data layer that makes objects when a build first opens them.

The overlay of a build's root has metadata by the kernel, and looks for the content of a file, when
that is first opened, in one data-only layer after the other (see
:mod:`fuse_mount.object_layer`, which does the same for views of a remote):

    objects/       the store's object tier
    SCRATCH/lazy/make/   this file system, over FUSE
    SCRATCH/made/        what was made for this build
    SCRATCH/lazy/last/   this file system again

Looking into ``make`` makes the object, and is then answered with "no such file": the overlay
finds a plain file in ``made``, and no read ever comes here. ``last`` answers with an error
whatever is asked, so that what could not be made is never "no such file" to a step.

A thread of the build answers, so there is no process to start; it has the store open already.
The build's own threads wait for it only in system calls, which let go of the interpreter. It ends
with the mount, or with the build: then the kernel ends what waits.

What is short is kept for later builds: :meth:`ObjectMaker.keep` has it join the tier.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
from typing import TYPE_CHECKING, Final

from fuse_mount import protocol
from fuse_mount.object_requests import FIRST_PREFIX, LAST, MAKE, answer_next
from fuse_mount.protocol import Opcode
from layerstore.digest import ObjectId
from layerstore.errors import LayerstoreError, MountError, UnsupportedError
from layerstore.linux import mounts
from layerstore.linux.files import is_shared, make_private_dir
from layerstore.store.objects.unpacking import keep, unpack_one
from layerstore.vfs.view import Attributes, Totals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.store.objects.objects import Extents
    from layerstore.store.store import Store

KEEP_MAX_BYTES: Final = 512 * 1024
"""Of each object that stays for later builds. To make one costs a look into the store however short
it is; a longer one would take more room than its making takes time."""

SWITCH_SECONDS: Final = 0.001
"""How long another thread may compute while a step waits for an answer: a fifth of the default."""


class ObjectMaker:
    """See the module.

    Args:
        store: Has the content.
        directory: The caller's own, which is there, for the mount point and what is made.
        objects: Returns what may be asked for, and what it is made of; asked again when
            something is not among it.
        failed: Told why an object could not be made.
    """

    def __init__(
        self,
        store: Store,
        directory: str,
        objects: Callable[[], Mapping[ObjectId, Extents]],
        failed: Callable[[LayerstoreError], object],
    ) -> None:
        self._store = store
        self._mountpoint = f"{directory}/lazy"
        self._made = f"{directory}/made"
        self._ask = objects
        self._failed = failed
        self._objects: Mapping[ObjectId, Extents] = {}
        self._there: set[ObjectId] = set()
        self._lasting: set[ObjectId] = set()
        self._device = -1
        self._mounted = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="layerstore-objects", daemon=True)
        for path in (self._mountpoint, self._made):
            make_private_dir(path, durable=False)

    @property
    def layers(self) -> tuple[str, ...]:
        """The data-only layers of overlays, behind the object tier."""
        return f"{self._mountpoint}/make", self._made, f"{self._mountpoint}/last"

    def start(self) -> None:
        """Begin to wait for the mount; to be called where threads may be started.

        Raises:
            UnsupportedError: This host has no /dev/fuse for us.
        """
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as err:
            raise UnsupportedError(f"/dev/fuse cannot be opened: {err.strerror}") from err
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
        self._thread.start()

    def mount(self) -> None:
        """Mount it in this mount namespace, unless it is.

        Raises:
            MountError: The kernel refused.
        """
        if self._mounted.is_set():
            return
        options = f"fd={self._device},rootmode=40500,user_id=0,group_id=0,default_permissions"
        flags = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
        mounts.mount("layerstore", self._mountpoint, "fuse.layerstore", flags, options)
        self._mounted.set()

    def close(self) -> None:
        """Take the mount away, if there is one, and end the thread."""
        if not self._mounted.is_set():
            os.close(self._device)
            self._device = -1
            self._mounted.set()
            return
        with contextlib.suppress(MountError):
            mounts.unmount(self._mountpoint, lazy=True)

    def keep(self) -> None:
        """Let short objects that were made join the tier; to be called where threads may start.

        Raises:
            StorageError: They cannot be brought to disk.
        """
        # Those who share a store could not all use what has one owner and mode.
        if self._lasting and not is_shared(self._store.paths.objects):
            keep(self._store.paths, self._made, self._lasting)
            self._lasting = set()

    def _serve(self) -> None:
        self._mounted.wait()
        if self._device < 0:
            return
        buffer = bytearray(protocol.REQUEST_MAX_BYTES)
        try:
            while answer_next(self._device, buffer, self._result):
                pass
        finally:
            os.close(self._device)

    def _result(self, opcode: int, node: int, buffer: bytearray, count: int) -> tuple[int, bytes]:
        """Return the errno and what an answer holds."""
        if opcode == Opcode.INIT:
            offered = protocol.parse_init(buffer, count)
            return 0, protocol.init_answer(offered, acls=False)
        if opcode == Opcode.LOOKUP:
            return self._look_up(node, os.fsdecode(protocol.parse_name(buffer, count)))
        if opcode == Opcode.GETATTR:
            return 0, protocol.attributes_answer(node, _directory(node))
        if opcode == Opcode.STATFS:
            return 0, protocol.totals_answer(Totals(0, 0))
        return errno.ENOSYS, b""

    def _look_up(self, node: int, name: str) -> tuple[int, bytes]:
        if node == LAST:
            return errno.EIO, b""
        found = {"make": MAKE, "last": LAST}.get(name) if node == protocol.ROOT else None
        try:
            raw = bytes.fromhex(name) if found is None else b""
        except ValueError:
            return errno.ENOENT, b""
        if node == MAKE and len(raw) == 1:
            found = FIRST_PREFIX + raw[0]
        if found is not None:
            return 0, protocol.entry_answer(found, _directory(found))
        if raw and node == FIRST_PREFIX + raw[0]:
            return self._make(ObjectId(raw)), b""
        return errno.ENOENT, b""

    def _make(self, name: ObjectId) -> int:
        """Make an object unless it was; return the errno for who looks for it here.

        The overlay of each step asks again: until the end of the build the tier lacks it.
        """
        if name in self._there:
            return errno.ENOENT
        try:
            if name not in self._objects:
                self._objects = self._ask()
            extents = self._objects.get(name)
            if extents is not None:
                unpack_one(self._store, name, extents, self._made)
                self._there.add(name)
                if sum(length for length, _ in extents) <= KEEP_MAX_BYTES:
                    self._lasting.add(name)
        except LayerstoreError as err:
            self._failed(err)
            return errno.EIO
        except Exception as err:  # noqa: BLE001 -- the step would wait for ever
            self._failed(LayerstoreError(f"a file of the image could not be made: {err!r}"))
            return errno.EIO
        return errno.ENOENT  # the overlay looks into the next layer


def _directory(node: int) -> Attributes:
    return Attributes(node, stat.S_IFDIR | 0o500, 2, 0, 0, 0, 4096, 8, 0)
