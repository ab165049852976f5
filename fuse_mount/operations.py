"""An image as the tree that libfuse serves: absolute paths in, answers of the view out.

For libfuse 2 alone, which knows files by path; see :mod:`fuse_mount.nodes` for our own server.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from layerstore.vfs.view import (
    Attributes,
    DirectoryEntry,
    ImageView,
    Totals,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class SingleTree:
    """One view, at the root of the mount.

    Args:
        view: The image.
        on_ready: Called once the kernel has mounted it.
    """

    def __init__(self, view: ImageView, on_ready: Callable[[], None]) -> None:
        self._view = view
        self.ready = on_ready

    def end(self) -> None:
        """Take note that nobody asks any more."""
        self._view.end()

    def attributes(self, path: bytes) -> Attributes:
        """Return what stat(2) says."""
        return self._view.attributes(self._view.find(path[1:]))

    def entries(self, path: bytes) -> Iterator[DirectoryEntry]:
        """Yield a directory's names, with ``.`` and ``..``."""
        yield from dots(self._view, path[1:])
        yield from self._view.names(self._view.find(path[1:]))

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes of a file."""
        return self._view.read(self._view.find(path[1:]), offset, size)

    def link_target(self, path: bytes) -> bytes:
        """Return a symlink's text."""
        return self._view.link_target(self._view.find(path[1:]))

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        return self._view.xattr(self._view.find(path[1:]), name)

    def xattr_names(self, path: bytes) -> list[bytes]:
        """Return the names of a file's extended attributes."""
        return self._view.xattr_names(self._view.find(path[1:]))

    def has_xattrs(self) -> bool:
        """Whether any file has an extended attribute."""
        return self._view.has_xattrs()

    def totals(self) -> Totals:
        """Return what statfs(2) says."""
        return self._view.totals()


def dots(view: ImageView, path: bytes) -> Iterator[DirectoryEntry]:
    """Yield ``.`` and ``..`` of a directory; the root is its own parent."""
    for name, where in ((b".", path), (b"..", path.rpartition(b"/")[0])):
        yield DirectoryEntry(name, view.find(where).ino, stat.S_IFDIR)
