"""An image as the lower of an overlay: attributes under overlayfs' own names are escaped.

overlayfs obeys what a lower has under its names - a file is elsewhere, a directory is opaque -
and shows none of it. What an image holds there is content; escaped, the overlay shows it and
does not obey it (Linux 6.7; before, it is hidden).

Source: Linux, Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.vfs.view import ImageView, NoSuchXattrError

if TYPE_CHECKING:
    from layerstore.image.trees.stack import Node
    from layerstore.vfs.view import ChunkReader

_ESCAPE = b"overlay."


class BeneathOverlay(ImageView):
    """A view whose attributes under the names of one kind of overlay are escaped.

    Args:
        reader: Where chunks come from.
        root: The tree.
        names: What these names begin with: ``trusted.overlay.``, or ``user.overlay.`` for
            overlays in a user namespace.
    """

    def __init__(self, reader: ChunkReader, root: Node, names: bytes) -> None:
        super().__init__(reader, root)
        self._names = names

    def xattr(self, node: Node, name: bytes) -> bytes:
        """Return an attribute by its escaped name; see :meth:`ImageView.xattr`."""
        if name.startswith(self._names):
            if not name.startswith(self._names + _ESCAPE):
                raise NoSuchXattrError(f"{node.entry.path!r} has no attribute {name!r}")
            name = self._names + name[len(self._names + _ESCAPE) :]
        return super().xattr(node, name)

    def xattr_names(self, node: Node) -> list[bytes]:
        """Return the names of all attributes, escaped."""
        return [
            self._names + _ESCAPE + name[len(self._names) :]
            if name.startswith(self._names)
            else name
            for name in super().xattr_names(node)
        ]
