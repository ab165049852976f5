"""Writable roots as overlayfs over whatever shows the layers.

Meant for build steps: set-user-id programs and devices work in the mount, so make it
inside a private mount namespace (:mod:`layerstore.linux.namespaces`), where nobody
else sees it and it ends with the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from layerstore.errors import MountError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux import mounts
from layerstore.linux.namespaces import in_user_namespace
from layerstore.linux.xattrs import read_xattrs
from layerstore.snapshot.base import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from layerstore.digest import DiffId
    from layerstore.snapshot.base import LowerProvider

PLAIN_OPTIONS = ("redirect_dir=nofollow", "metacopy=off", "index=off")
"""Keep upper directories complete in themselves, whatever the kernel's defaults are: with
redirects or metacopy an upper refers to the lower tree and cannot become a layer alone.
``nofollow`` also ignores redirects that an image's own content may bring."""

USER_OPTIONS = ("userxattr", "index=off")
"""Inside a user namespace, where ``trusted.`` attributes are out of reach; this implies
neither redirects nor metacopy, and refuses to hear it said."""


class OverlaySnapshotter:
    """Prepares roots with overlayfs.

    Args:
        lowers: Shows the layers below.
    """

    def __init__(self, lowers: LowerProvider) -> None:
        self._lowers = lowers

    @contextlib.contextmanager
    def prepare(self, layers: Sequence[DiffId], scratch: Path) -> Iterator[Snapshot]:
        """Make a writable root over the layers; see :class:`layerstore.snapshot.base.Snapshotter`.

        Writes are not forced to disk when the programs inside ask for it: the upper is
        scratch until it is ingested, and dpkg would wait for every file otherwise.
        """
        snapshot = Snapshot(
            root=scratch / "root",
            upper=scratch / "upper",
            xattr_prefix=b"user.overlay." if in_user_namespace() else b"trusted.overlay.",
        )
        for directory in (scratch, snapshot.root, snapshot.upper, scratch / "work"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        below, escaped = self._lowers.below(layers)
        copy_root_attributes(below.lowers[0], str(snapshot.upper), escaped=escaped)
        _mount(below, snapshot, str(scratch / "work"))
        try:
            yield snapshot
        finally:
            _unmount(str(snapshot.root))


def overlay_options() -> tuple[str, ...]:
    """Return the options every overlay of ours has on this host."""
    return USER_OPTIONS if in_user_namespace() else PLAIN_OPTIONS


def copy_root_attributes(lower: str, upper: str, *, escaped: bool = False) -> None:
    """Give an upper directory the owner, mode, times and attributes of the lower root.

    An overlay shows its upper's own attributes at its root. What the image has under
    overlayfs' own names is escaped, or the overlay would obey it.

    Args:
        lower: Where the image is shown.
        upper: An empty directory.
        escaped: Whether ``lower`` has these escaped already; others are overlayfs' own there.
    """
    own = b"user.overlay." if in_user_namespace() else b"trusted.overlay."
    status = os.stat(lower)
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))
    for name, value in read_xattrs(lower):
        if name.startswith(own) and not escaped:
            name = own + b"overlay." + name[len(own) :]
        elif name.startswith(own) and not name.startswith(own + b"overlay."):
            continue
        with contextlib.suppress(OSError):  # security.* that this kernel or namespace refuses
            os.setxattr(upper, name, value)
    os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))


def _mount(below: mounts.Overlay, snapshot: Snapshot, work: str) -> None:
    options = below.options
    overlay = below._replace(upper=str(snapshot.upper), work=work, options=(*options, "volatile"))
    try:
        mounts.mount_overlay(overlay, str(snapshot.root))
    except mounts.MountCallError as err:
        if err.code != errno.EINVAL:
            raise
        # Before Linux 5.10 overlayfs does not know "volatile".
        mounts.mount_overlay(overlay._replace(options=options), str(snapshot.root))


def _unmount(root: str) -> None:
    """Unmount; a root that something still uses is detached and goes when that ends."""
    try:
        mounts.unmount(root)
    except mounts.MountCallError as err:
        if err.code == errno.EBUSY:
            mounts.unmount(root, lazy=True)
        elif err.code != errno.EINVAL:  # EINVAL: somebody inside has unmounted it already
            raise MountError(f"the root of a finished step stays mounted: {err.message}") from err
