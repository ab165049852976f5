"""Reading package databases out of an image's tree, within bounds.

The tree is a stranger's: links are resolved inside of it as chroot(2) would, only regular
files are read, and never more than the bounds allow; what is left out is remembered, so
that a list of packages can say that it is not whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.errors import UnsafeContentError
from layerstore.formats.tree import Kind
from layerstore.image.trees.stack import resolve

if TYPE_CHECKING:
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store

MAX_DATABASE_BYTES: Final = 64 << 20
"""Of one database; a Debian desktop's dpkg status has 5 MiB."""

MAX_METADATA_BYTES: Final = 1 << 20
"""Of one package's own description."""

MAX_TOTAL_BYTES: Final = 512 << 20
"""Of everything that is read for one list."""

MAX_LEFT_OUT: Final = 20
"""Paths that are remembered by name."""


class ImageFiles:
    """The files of one image.

    Attributes:
        root: The tree.
        left_out: What could not be read, and why; ``MAX_LEFT_OUT`` at most.
    """

    def __init__(self, store: Store, root: Node) -> None:
        self.root = root
        self.left_out: list[str] = []
        self._store = store
        self._total = 0

    def read(self, path: bytes, limit: int) -> bytes | None:
        """Return a file's content; None when there is none, or none that may be read."""
        try:
            _, node = resolve(self.root, path)
        except UnsafeContentError as err:
            self.leave_out(path, err.message)
            return None
        return None if node is None else self.content(path, node, limit)

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a directory, sorted; empty when there is none."""
        try:
            _, node = resolve(self.root, path)
        except UnsafeContentError as err:
            self.leave_out(path, err.message)
            return []
        return sorted(node.children or ()) if node is not None else []

    def content(self, path: bytes, node: Node, limit: int) -> bytes | None:
        """Return a node's content; None when it is no regular file, or may not be read."""
        entry = node.entry
        if entry.kind is not Kind.FILE:
            return None
        if entry.size > min(limit, MAX_TOTAL_BYTES - self._total):
            self.leave_out(path, f"{entry.size} bytes are more than are read")
            return None
        self._total += entry.size
        return b"".join(
            bytes(length) if chunk is None else self._store.read_refs(((length, chunk),))
            for length, chunk in entry.extents
        )

    def leave_out(self, path: bytes, why: str) -> None:
        """Remember that something was not read."""
        if len(self.left_out) < MAX_LEFT_OUT:
            self.left_out.append(f"/{path.decode('utf-8', 'replace')}: {why}")
