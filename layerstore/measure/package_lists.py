"""Files of dpkg's packages in an image's tree, by the lists that the image has of them.

Lists are a stranger's: what finding their files costs goes by their length alone, and that has
a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.formats.tree import FILE, NAME_MAX_BYTES, SYMLINK
from layerstore.image.sbom.files import MAX_METADATA_BYTES
from layerstore.image.sbom.owned import MAX_PATHS
from layerstore.image.trees.stack import lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.sbom.files import ImageFiles
    from layerstore.image.trees.stack import Node

_INFO: Final = b"var/lib/dpkg/info/"


class PackageLists:
    """The lists of one image; of all together ``MAX_PATHS`` lines are looked at."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files
        self._left = MAX_PATHS

    def files_of(self, name: str, architecture: str) -> Iterator[tuple[bytes, Node]]:
        """Yield the files of a package that are there, each name that the list has."""
        for stem in (name, f"{name}:{architecture}"):
            path = _INFO + stem.encode("utf-8", "replace") + b".list"
            lines = (self._files.read(path, MAX_METADATA_BYTES) or b"").split(b"\n")
            self._left -= len(lines)
            if self._left < 0:
                self._files.leave_out(path, f"packages name more than {MAX_PATHS} files")
                return
            for line in lines:
                found = file_at(self._files.root, line)
                if found is not None:
                    yield found


def file_at(root: Node, line: bytes) -> tuple[bytes, Node] | None:
    """Return the file that a line of a list names; its first directory may be a symlink.

    ``/lib`` is one to ``usr/lib`` where lists still say ``/lib``. Links further down are not
    followed: each of a million lines could lead over forty of them.
    """
    if not line.startswith(b"/"):
        return None
    path = line.strip(b"/")
    node = lookup(root, path) if path else None
    first, slash, rest = path.partition(b"/")
    if node is None and slash:
        link = (root.children or {}).get(first)
        if link is None or link.entry.kind is not SYMLINK:
            return None
        if len(link.entry.target) > NAME_MAX_BYTES:
            return None
        path = link.entry.target.strip(b"/") + b"/" + rest
        node = lookup(root, path)
    return (path, node) if node is not None and node.entry.kind is FILE else None
