"""Small records that say whose they are and whether they are whole: head, body, sum.

What caches beside the catalog are made of (docs/format/scans.md, docs/format/build-cache.md). A
record that is damaged, cut short or of another version is none. On the fast path.
"""

from __future__ import annotations

from blake3 import blake3

from layerstore.light_typing import NamedTuple

SUM_BYTES = 32


class Seal(NamedTuple):
    """One kind of record.

    Attributes:
        head: Magic and version, which every record begins with.
        context: Of BLAKE3's key derivation, so that no sum is that of another kind.
        max_bytes: Longer records are neither written nor read.
    """

    head: bytes
    context: str
    max_bytes: int

    def closed(self, body: bytes) -> bytes | None:
        """Return a body as a record; None if that would be too long."""
        record = self.head + body
        if len(record) + SUM_BYTES > self.max_bytes:
            return None
        return record + self._sum(record)

    def opened(self, record: bytes) -> memoryview | None:
        """Return the body of a record, None for bytes that are none."""
        stated = record[-SUM_BYTES:]
        whole = record[:-SUM_BYTES]
        if not whole.startswith(self.head) or self._sum(whole) != stated:
            return None
        return memoryview(whole)[len(self.head) :]

    def _sum(self, whole: bytes) -> bytes:
        return blake3(whole, derive_key_context=self.context).digest()
