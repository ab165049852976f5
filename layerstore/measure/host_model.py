"""What a plain copy of a file system costs on the host: a model of ext4.

The baselines of :mod:`layerstore.measure.savings` say what the same files would
take if somebody unpacked them. Nobody unpacks them here, so their cost is
computed: data in blocks of 4 KiB, holes free, a block for every directory, a
block for a symlink too long to lie inside its inode. Inode tables are left out,
as ``du`` leaves them out, and so are the second and later blocks of very large
directories. On a Debian root file system the model and ``du`` agree within 0.1 %
(docs/measuring.md); both omissions make the baselines smaller, never larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tree import Entry, Kind

if TYPE_CHECKING:
    from layerstore.formats.tree import Extent

BLOCK_BYTES = 4096
"""Allocation unit of ext4, XFS and btrfs with their defaults."""

FAST_SYMLINK_BYTES = 60
"""A symlink shorter than this lies in the inode (ext4: EXT4_N_BLOCKS * 4)."""


def round_up(size: int) -> int:
    """Return ``size`` rounded up to whole blocks."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def allocated_size(entry: Entry) -> int:
    """Return the bytes ``entry`` would take on a plain file system, as ``du`` counts them.

    A hard link takes nothing of its own.
    """
    kind = entry.kind
    if kind == Kind.FILE:
        extents = entry.extents
        if len(extents) > 1 or (extents and extents[0][1] is None):
            return _sparse_size(extents)
        return round_up(entry.size)
    if kind == Kind.DIR:
        return BLOCK_BYTES
    if kind == Kind.SYMLINK and len(entry.target) >= FAST_SYMLINK_BYTES:
        return BLOCK_BYTES
    return 0


def _sparse_size(extents: tuple[Extent, ...]) -> int:
    """Count the blocks that data touches; neighbours may share one."""
    blocks = position = 0
    next_free = 0
    for length, chunk_id in extents:
        end = position + length
        if chunk_id is not None and length:
            first = max(position // BLOCK_BYTES, next_free)
            past = -(-end // BLOCK_BYTES)
            blocks += max(0, past - first)
            next_free = max(next_free, past)
        position = end
    return blocks * BLOCK_BYTES
