"""Limits for untrusted layers: how much a hostile archive may cost before it is refused.

Every limit has a name; the error that enforces it says the name and the value. The
defaults fit the largest images known in practice with room to spare.
"""

from __future__ import annotations

import msgspec

from layerstore.errors import LimitExceededError

_MIB = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer may cost. Bytes unless the name says otherwise.

    Attributes:
        expanded_bytes: The tar after decompression.
        logical_bytes: Sum of the sizes of its files, holes counted.
        ratio: Expanded to compressed bytes, enforced once ``ratio_after_bytes`` came out.
        ratio_after_bytes: Small archives of zeros are honest; large ones are bombs.
        entries: Members of the tar.
        metadata_bytes: What the entries cost in memory, as :class:`MetadataMeter` counts it.
        pax_bytes: Extended headers of one member (pax records, GNU long names).
        global_pax_bytes: All global pax headers of the archive together.
        owner_name_bytes: A user's or group's name.
        xattrs: Number of extended attributes of one entry.
        xattr_value_bytes: One attribute's value.
        xattr_total_bytes: All attributes of one entry, names and values.
        sparse_regions: Data regions of one sparse file.
        trailing_bytes: What may follow the end of the archive.
        skippable_bytes: Skippable frames of a zstd stream together.
        gzip_header_bytes: One gzip member's header with its name and comment.
        window_bytes: Memory a zstd or xz frame may ask for to be decompressed.
    """

    expanded_bytes: int = 100 << 30
    logical_bytes: int = 100 << 30
    ratio: int = 2000
    ratio_after_bytes: int = 16 * _MIB
    entries: int = 2_000_000
    metadata_bytes: int = 256 * _MIB
    pax_bytes: int = _MIB
    global_pax_bytes: int = 64 << 10
    owner_name_bytes: int = 256
    xattrs: int = 1000
    xattr_value_bytes: int = 64 << 10
    xattr_total_bytes: int = _MIB
    sparse_regions: int = 1_000_000
    trailing_bytes: int = 16 * _MIB
    skippable_bytes: int = 64 * _MIB
    gzip_header_bytes: int = 64 << 10
    window_bytes: int = 1 << 27


ENTRY_COST_BYTES = 96
"""What an entry or directory is counted for beside its names: about what it takes at least."""

REGION_COST_BYTES = 256
"""A region becomes two extents and a chunk's id."""


class MetadataMeter:
    """Counts what one archive's entries cost, whose names and attributes stay in memory.

    Limits of single members do not bound their sum: a few megabytes of compressed headers
    may hold gigabytes of long names, attributes, or directories that only names imply.
    """

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.metadata_bytes
        self._total = 0

    def charge(self, count: int) -> None:
        """Count an entry with ``count`` bytes of names and the like.

        Raises:
            LimitExceededError: All together are more than ``metadata_bytes``.
        """
        self._total += count + ENTRY_COST_BYTES
        if self._total > self._limit:
            raise exceeded("metadata_bytes", self._total, self._limit, "bytes of entries")


def exceeded(name: str, value: int, limit: int, what: str) -> LimitExceededError:
    """Return the error for a value beyond the limit called ``name``."""
    return LimitExceededError(f"{what}: {value} exceeds the limit {name} of {limit}")
