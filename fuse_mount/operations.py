"""Image views as trees that FUSE serves: absolute paths in, answers of the view out.

Two shapes: one image at the root of the mount, or a directory of images that grows
on request, which lets all steps of a build share one server.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from layerstore.vfs.view import (
    Attributes,
    DirectoryEntry,
    ImageView,
    NoSuchXattrError,
    Totals,
    WrongKindError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TOP_INO = 1 << 62
"""Far from the numbers that the views count up from 1."""

VIEWS_MAX = 8
"""Views kept loaded; one that is asked for again is loaded again, with the same numbers."""


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


class GrowingTree:
    """A directory of views, each loaded when its name is first asked for.

    Args:
        load: Gives the view of a name, or raises NoSuchPathError.
        on_ready: Called once the kernel has mounted it.
    """

    def __init__(self, load: Callable[[bytes], ImageView], on_ready: Callable[[], None]) -> None:
        self._load = load
        self._views: OrderedDict[bytes, ImageView] = OrderedDict()
        self.ready = on_ready

    def end(self) -> None:
        """Take note that nobody asks any more."""

    def attributes(self, path: bytes) -> Attributes:
        """Return what stat(2) says; the top belongs to whoever mounted it."""
        if path == b"/":
            mode = stat.S_IFDIR | 0o755
            return Attributes(_TOP_INO, mode, 2, os.getuid(), os.getgid(), 0, 4096, 8, 0)
        view, inside = self._locate(path)
        return view.attributes(view.find(inside))

    def entries(self, path: bytes) -> Iterator[DirectoryEntry]:
        """Yield a directory's names; the top lists the views loaded so far."""
        if path == b"/":
            for name in (b".", b"..", *self._views):
                yield DirectoryEntry(name, _TOP_INO, stat.S_IFDIR)
            return
        view, inside = self._locate(path)
        yield from dots(view, inside)
        yield from view.names(view.find(inside))

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes of a file."""
        view, inside = self._locate(path)
        return view.read(view.find(inside), offset, size)

    def link_target(self, path: bytes) -> bytes:
        """Return a symlink's text."""
        view, inside = self._locate(path)
        return view.link_target(view.find(inside))

    def xattr(self, path: bytes, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        if path == b"/":
            raise NoSuchXattrError("the directory of views has no attributes")
        view, inside = self._locate(path)
        return view.xattr(view.find(inside), name)

    def xattr_names(self, path: bytes) -> list[bytes]:
        """Return the names of a file's extended attributes."""
        if path == b"/":
            return []
        view, inside = self._locate(path)
        return view.xattr_names(view.find(inside))

    def has_xattrs(self) -> bool:
        """Say yes: a view that comes later may have some."""
        return True

    def totals(self) -> Totals:
        """Return the sums over all loaded views."""
        totals = [view.totals() for view in self._views.values()]
        return Totals(sum(t.inodes for t in totals), sum(t.content_bytes for t in totals))

    def _locate(self, path: bytes) -> tuple[ImageView, bytes]:
        if path == b"/":
            raise WrongKindError("the top is a directory of views")
        name, _, inside = path[1:].partition(b"/")
        view = self._views.get(name)
        if view is None:
            view = self._load(name)
            while len(self._views) >= VIEWS_MAX:
                self._views.popitem(last=False)
            self._views[name] = view
        else:
            self._views.move_to_end(name)
        return view, inside
