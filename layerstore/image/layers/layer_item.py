"""What a layer is written from: entries, and where their content comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats.tree import WHITEOUT_PREFIX, Entry, check_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class LayerItem(NamedTuple):
    """One entry of a layer to be written.

    Attributes:
        entry: What it is. A regular file has its ``size``, and either ``extents`` of a
            published layer or ``open``. A hard link's own attributes do not
            matter when its file is among the items.
        open: Opens fresh content of exactly ``entry.size`` bytes; called at most once, and
            seekable when there are holes.
        holes: (offset, length) of parts of fresh content that are holes, ascending, not
            touching, known to be zeros. What of them fills whole blocks of 512 bytes, or
            the rest of the file, becomes a hole of the layer.
        read_whole: Returns the same content as ``open``, for small files, where a file
            object costs more than their bytes; it has exactly ``entry.size`` bytes.
        content: The content itself, of at least one byte, instead of all these.
    """

    entry: Entry
    open: Callable[[], BinaryIO] | None = None
    holes: tuple[tuple[int, int], ...] = ()
    read_whole: Callable[[], bytes] | None = None
    content: bytes | None = None


def check_image_paths(paths: Sequence[bytes]) -> None:
    """Refuse names that a layer cannot carry.

    Args:
        paths: Relative to the image's root; the root itself may only come first.

    Raises:
        UnsafeContentError: Names the path and what to do about it.
    """
    try:
        check_paths(paths)
    except FormatError as err:
        hint = "names that begin with .wh. mean whiteouts in layers: rename or exclude the file"
        whiteout = any(b"/" + WHITEOUT_PREFIX in b"/" + path for path in paths)
        raise UnsafeContentError(err.message, hint=hint if whiteout else None) from err
