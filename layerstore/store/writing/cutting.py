"""Cutting a source as a store's parameters say, and putting the pieces. No I/O of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.chunking.cutter import SourceEndedError, cut_stream
from layerstore.store.failures import ShortSourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.chunking.cutter import CutParameters
    from layerstore.digest import ChunkId
    from layerstore.store.records import Refs


def cut_and_put(
    read: Callable[[int], bytes],
    size: int,
    cuts: CutParameters,
    put: Callable[[memoryview, int], ChunkId],
) -> Refs:
    """Cut exactly ``size`` bytes that ``read(n)`` gives in pieces; return what was put.

    Args:
        read: Returns 1 to n bytes for ``read(n)``, or none at the end.
        size: Of the source.
        cuts: Where to cut.
        put: Takes a piece, which never changes, and its offset; returns its id.

    Raises:
        ShortSourceError: The source ended early: the file shrank while it was read.
    """
    refs: list[tuple[int, ChunkId]] = []
    offset = 0
    try:
        for chunk in cut_stream(read, size, cuts):
            refs.append((len(chunk), put(chunk, offset)))
            offset += len(chunk)
    except SourceEndedError as err:
        raise ShortSourceError(
            f"the source gave {size - err.missing} bytes where it promised {size}: "
            "it shrank while it was read",
            hint="run it again when nothing changes the files",
        ) from err
    return tuple(refs)
