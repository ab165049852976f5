"""What containerd is to mount for a snapshot: mounts as data, made by nobody here.

A snapshot lies over what its parents are at that moment. Those of them whose files are in
uppers still are lower directories themselves. All others are one lower directory, however
many there are: a view of their layers by the kernel (:mod:`fuse_mount.lowers`), which is
mounted here, lives as long as somebody needs it, and has no process; where the kernel
cannot, by FUSE.

Mounts are told in the words of mount(8), since that is what containerd's API carries.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from fuse_mount import kernel_lowers, lowers
from fuse_mount.lowers import KERNEL, KERNEL_PACKS
from fuse_mount.starting import FUSE
from layerstore.errors import IntegrityError, StorageError, UnsupportedError
from layerstore.linux import mounts as syscalls
from layerstore.linux.files import make_private_dir
from layerstore.linux.xattrs import read_xattrs
from layerstore.snapshot.overlay import PLAIN_OPTIONS
from layerstore.snapshotter.records import ACTIVE, upper_path
from layerstore.store.failures import StoreFullError, storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.digest import DiffId
    from layerstore.snapshotter.records import Snapshot
    from layerstore.store.paths import StorePaths

OVERLAY: Final = "overlay"
BIND: Final = "bind"
_NESTED: Final = (*PLAIN_OPTIONS, "xino=off")
"""Over another overlay: its inode numbers are as wide as they can be already."""

_OVERLAYS_OWN: Final = b"trusted.overlay."
_NO_VIEW: Final = (UnsupportedError, StorageError, IntegrityError)


class Mount(NamedTuple):
    """A mount as containerd's API has it."""

    fstype: str
    source: str
    options: tuple[str, ...]


class Below(NamedTuple):
    """What a snapshot lies over, visible.

    Attributes:
        uppers: Directories with the files of one snapshot each, uppermost first.
        lower: A view of all layers below those.
    """

    uppers: list[str]
    lower: lowers.Lower | None

    @property
    def root(self) -> str | None:
        """A directory that has the attributes of the root; None if there is nothing below."""
        if self.uppers:
            return self.uppers[0]
        return self.lower.root if self.lower is not None else None


class Shower:
    """Makes snapshots ready to be mounted.

    Args:
        paths: Of the store.
        tell: Gets a line when layers are shown in another way than was asked for.
        backend: ``kernel``, from unpacked files, or ``kernel-packs``, from packs.
    """

    def __init__(self, paths: StorePaths, tell: Callable[[str], None], backend: str) -> None:
        self._paths = paths
        self._tell = tell
        self._backend = backend

    @property
    def reads_unpacked_files(self) -> bool:
        """Whether containers read files of the object tier."""
        return self._backend == KERNEL

    def show(self, snapshot: Snapshot) -> Below:
        """Make visible what a snapshot lies over; it stays so until :meth:`release`.

        The record of the snapshot is on disk: it keeps what is made here.

        Raises:
            MountError: Layers could not be shown.
            LayerstoreError: Whatever showing them meets in the store.
        """
        uppers = [f"{upper_path(self._paths, number)}/upper" for number in snapshot.over_uppers]
        return Below(uppers, self._lower(snapshot))

    def make_upper(self, snapshot: Snapshot, below: Below) -> None:
        """Make the directory that takes a snapshot's own files; one that is there stays.

        An overlay shows its upper's attributes at its root: a new one gets those of the root
        below it. It is not forced to disk, for it is empty.

        Raises:
            StorageError: It could not be made.
        """
        base = upper_path(self._paths, snapshot.number)
        if os.path.isdir(f"{base}/work"):  # made last
            return
        with storage_errors("make the directory of a snapshot"):
            for path in (base, f"{base}/upper"):
                make_private_dir(path, durable=False)
            root = below.root
            if root is not None:
                _copy_attributes(root, f"{base}/upper")
            else:
                # What containerd's own snapshotters give.
                os.chmod(f"{base}/upper", 0o755)  # noqa: S103
            make_private_dir(f"{base}/work", durable=False)

    def mounts(self, snapshot: Snapshot, below: Below) -> list[Mount]:
        """Return what to mount."""
        own = upper_path(self._paths, snapshot.number) if snapshot.has_upper else None
        uppers, lower = below
        if not uppers and lower is None:
            assert own is not None
            way = "rw" if snapshot.kind == ACTIVE else "ro"
            return [Mount(BIND, f"{own}/upper", (way, "rbind"))]
        if own is None and (len(uppers), lower) == (1, None):
            return [Mount(BIND, uppers[0], ("ro", "rbind"))]
        if own is None and not uppers and lower is not None and not _is_kernels(lower):
            return [Mount(BIND, lower.root, ("ro", "rbind"))]
        overlay = self._overlay(below, own, for_layers=takes_layers(snapshot.key))
        words = syscalls.classic_overlay_options(overlay)
        return [Mount(OVERLAY, OVERLAY, tuple(words if own else ("ro", *words)))]

    def clean(self) -> None:
        """Remove what is left of views that are gone, as after a restart of the host."""
        lowers.clean_unused(self._paths.root)

    def keep_ready(self, snapshot: Snapshot, layers: Sequence[DiffId]) -> None:
        """Make a committed snapshot's layers visible, so that containers over it begin at once.

        Raises:
            LayerstoreError: The kernel cannot show them; containers will find another way.
        """
        lowers.acquire(self._paths.root, layers, snapshot.user, backend=self._backend)

    def release(self, snapshot: Snapshot, layers: Sequence[DiffId]) -> None:
        """Let go of layers that were shown for a snapshot; harmless when repeated."""
        if layers:
            chain = lowers.chain_name(layers)
            lowers.release_everywhere(self._paths.root, chain, snapshot.user)

    def _overlay(self, below: Below, own: str | None, *, for_layers: bool) -> syscalls.Overlay:
        root = self._paths.root
        uppers, lower = below
        if lower is not None and _is_kernels(lower) and not uppers and not for_layers:
            if own is not None:
                return kernel_lowers.writable(root, lower.directory, own)
            return kernel_lowers.readable(root, lower.directory)
        places = (*uppers, lower.root) if lower is not None else tuple(uppers)
        options = PLAIN_OPTIONS if lower is None else _NESTED
        if own is None:
            return syscalls.Overlay(places, options=options)
        return syscalls.Overlay(places, f"{own}/upper", f"{own}/work", options)

    def _lower(self, snapshot: Snapshot) -> lowers.Lower | None:
        if not snapshot.over_layers:
            return None
        root, layers, user = self._paths.root, snapshot.over_layers, snapshot.user
        try:
            return lowers.acquire(root, layers, user, backend=self._backend)
        except _NO_VIEW as err:
            reason = err
        if isinstance(reason, StoreFullError) and self._backend == KERNEL:
            with contextlib.suppress(*_NO_VIEW):
                return lowers.acquire(root, layers, user, backend=KERNEL_PACKS)
        self._tell(f"snapshot {snapshot.number} is shown by FUSE: {reason.message}")
        return lowers.acquire_beneath(root, layers, user, backend=FUSE)


def _is_kernels(lower: lowers.Lower) -> bool:
    """Whether a view is made of mounts of the kernel's, which an overlay may lie over."""
    return kernel_lowers.is_visible(lower.directory)


def _copy_attributes(source: str, target: str) -> None:
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name, value in read_xattrs(source):
        if not name.startswith(_OVERLAYS_OWN):
            with contextlib.suppress(OSError):  # security.* that this kernel refuses
                os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def takes_layers(key: str) -> bool:
    """Whether containerd will unpack a layer there.

    It does so without mounting: it writes to the upper directory, and looks into the lower
    ones by itself, which then must show whole trees. Its keys for that begin so.

    Source: containerd, core/snapshots/snapshotter.go, UnpackKeyPrefix; archive's overlay applier.
    """
    return key.rpartition("/")[2].startswith("extract-")
