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
from fuse_mount.lowers import KERNEL
from fuse_mount.starting import FUSE
from layerstore.errors import IntegrityError, StorageError, UnsupportedError
from layerstore.linux import mounts as syscalls
from layerstore.linux.files import make_private_dir
from layerstore.linux.xattrs import read_xattrs
from layerstore.snapshot.overlay import PLAIN_OPTIONS
from layerstore.snapshotter.records import ACTIVE, upper_path
from layerstore.store.failures import storage_errors

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


class Shower:
    """Makes snapshots ready to be mounted.

    Args:
        paths: Of the store.
        tell: Gets a line when FUSE shows what the kernel cannot.
    """

    def __init__(self, paths: StorePaths, tell: Callable[[str], None]) -> None:
        self._paths = paths
        self._tell = tell

    def make_upper(self, snapshot: Snapshot) -> None:
        """Make the directory that takes a snapshot's own files; what is there stays.

        Raises:
            StorageError: It could not be made.
        """
        base = upper_path(self._paths, snapshot.number)
        with storage_errors("make the directory of a snapshot"):
            make_private_dir(base)
            for path in (f"{base}/upper", f"{base}/work"):
                make_private_dir(path)

    def give_root_attributes(self, snapshot: Snapshot) -> None:
        """Give a new upper the attributes of the root below it: an overlay shows its upper's.

        Raises:
            StorageError: They could not be set.
        """
        upper = f"{upper_path(self._paths, snapshot.number)}/upper"
        with storage_errors("make the directory of a snapshot"):
            below = self._root_below(snapshot)
            if below is None:
                os.chmod(upper, 0o755)  # noqa: S103 -- what containerd's own snapshotters give
                return
            status = os.stat(below)
            os.chown(upper, status.st_uid, status.st_gid)
            os.chmod(upper, stat.S_IMODE(status.st_mode))
            for name, value in read_xattrs(below):
                if not name.startswith(_OVERLAYS_OWN):
                    with contextlib.suppress(OSError):  # security.* that this kernel refuses
                        os.setxattr(upper, name, value)
            os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))

    def mounts(self, snapshot: Snapshot) -> list[Mount]:
        """Return what to mount; what it leads to is there until :meth:`release`.

        The record of the snapshot is on disk: it keeps what is made here.

        Raises:
            MountError: Layers could not be shown.
            LayerstoreError: Whatever showing them meets in the store.
        """
        own = upper_path(self._paths, snapshot.number) if snapshot.has_upper else None
        lower = self._lower(snapshot)
        above = self._uppers_below(snapshot)
        if not above and lower is None:
            assert own is not None
            way = "rw" if snapshot.kind == ACTIVE else "ro"
            return [Mount(BIND, f"{own}/upper", (way, "rbind"))]
        if own is None and len(above) == 1 and lower is None:
            return [Mount(BIND, above[0], ("ro", "rbind"))]
        overlay = self._overlay(above, lower, own, for_layers=takes_layers(snapshot.key))
        words = syscalls.classic_overlay_options(overlay)
        return [Mount(OVERLAY, OVERLAY, tuple(words if own else ("ro", *words)))]

    def keep_ready(self, snapshot: Snapshot, layers: Sequence[DiffId]) -> None:
        """Make a committed snapshot's layers visible, so that containers over it begin at once.

        Raises:
            LayerstoreError: The kernel cannot show them; containers will find another way.
        """
        lowers.acquire(self._paths.root, layers, snapshot.user, backend=KERNEL)

    def release(self, snapshot: Snapshot, layers: Sequence[DiffId]) -> None:
        """Let go of layers that were shown for a snapshot; harmless when repeated."""
        if layers:
            chain = lowers.chain_name(layers)
            lowers.release_everywhere(self._paths.root, chain, snapshot.user)

    def _overlay(
        self, above: list[str], lower: lowers.Lower | None, own: str | None, *, for_layers: bool
    ) -> syscalls.Overlay:
        root, kernels = (
            self._paths.root,
            lower is not None and kernel_lowers.is_visible(lower.directory),
        )
        if lower is not None and kernels and not above and not for_layers:
            if own is not None:
                return kernel_lowers.writable(root, lower.directory, own)
            return kernel_lowers.readable(root, lower.directory)
        places = (*above, lower.root) if lower is not None else tuple(above)
        options = PLAIN_OPTIONS if lower is None else _NESTED
        if own is None:
            return syscalls.Overlay(places, options=options)
        return syscalls.Overlay(places, f"{own}/upper", f"{own}/work", options)

    def _lower(self, snapshot: Snapshot) -> lowers.Lower | None:
        if not snapshot.over_layers:
            return None
        root, layers, user = self._paths.root, snapshot.over_layers, snapshot.user
        try:
            return lowers.acquire(root, layers, user, backend=KERNEL)
        except _NO_VIEW as err:
            self._tell(f"snapshot {snapshot.number} is shown by FUSE: {err.message}")
        return lowers.acquire_beneath(root, layers, user, backend=FUSE)

    def _uppers_below(self, snapshot: Snapshot) -> list[str]:
        return [f"{upper_path(self._paths, number)}/upper" for number in snapshot.over_uppers]

    def _root_below(self, snapshot: Snapshot) -> str | None:
        above = self._uppers_below(snapshot)
        if above:
            return above[0]
        lower = self._lower(snapshot)
        return lower.root if lower is not None else None


def takes_layers(key: str) -> bool:
    """Whether containerd will unpack a layer there.

    It does so without mounting: it writes to the upper directory, and looks into the lower
    ones by itself, which then must show whole trees. Its keys for that begin so.

    Source: containerd, core/snapshots/snapshotter.go, UnpackKeyPrefix; archive's overlay applier.
    """
    return key.rpartition("/")[2].startswith("extract-")
