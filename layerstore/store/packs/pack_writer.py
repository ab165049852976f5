"""Writing packs: blocks go in, a durable file named by its own hash comes out.

A writer belongs to one thread. The pack is staged in ``tmp/`` under the lease's
name; :meth:`PackWriter.seal` makes it durable there. Giving it its final name and
entering it in the catalog is :mod:`layerstore.store.packs.commit`'s business.
Implements docs/format/pack.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.digest import PackId
from layerstore.formats.pack import (
    HEADER,
    TRAILER,
    Block,
    Item,
    ItemKind,
    decode_footer,
    decode_trailer,
    encode_footer,
    encode_header,
    footer_size,
    padding,
)
from layerstore.linux.files import StagedFile
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import ChunkId

PACK_TARGET_BYTES = 96 * 1024 * 1024
"""A pack is closed when it holds this much: few files, yet cheap enough to rewrite."""

PACK_ITEMS = 1 << 16
"""A pack is closed with so many items, too: they are in memory until it is in the catalog."""


class SealedPack(NamedTuple):
    """A finished pack: durable under a temporary name, not yet visible.

    Attributes:
        pack_id: Of what was only measured it says nothing.
        staged: The temporary file, or None when it was only measured.
        size: Bytes of the file.
        effort: How hard its writer tried to make it small.
    """

    pack_id: PackId
    size: int
    blocks: list[Block]
    staged: StagedFile | None
    effort: int


class Against(NamedTuple):
    """What a block is a difference against; see :class:`layerstore.formats.pack.Block`."""

    bases: tuple[ChunkId, ...]
    depth: int
    cost: int


ALONE = Against((), 0, 0)


class PackSize:
    """What a pack takes, counted block by block as they are added."""

    def __init__(self) -> None:
        self.bytes = HEADER.size
        self._blocks = self._items = self._bases = 0

    def add(self, stored: int, items: int, bases: int) -> None:
        """Count a block of ``stored`` bytes with so many items, and bases."""
        self.bytes += stored
        self._blocks += 1
        self._items += items
        self._bases += bases

    @property
    def full(self) -> bool:
        """Whether the pack has reached its target size, or as many items as it may."""
        return self.bytes >= PACK_TARGET_BYTES or self._items >= PACK_ITEMS

    def sealed(self) -> int:
        """Return the bytes of the file if it ends here."""
        footer = footer_size(self._blocks, self._items, self._bases)
        return self.bytes + padding(self.bytes) + footer


class PackWriter:
    """One pack being written. Seal it or discard it."""

    def __init__(self, staging: str | None, effort: int = 0) -> None:
        """Begin a pack in the new file ``staging``, or only measure when it is None.

        Args:
            staging: Path.
            effort: 0 for ingest; a pass that recompresses leaves its level here, and
                leaves packs alone that say at least as much.
        """
        self._staged: StagedFile | None = None
        if staging is not None:
            with storage_errors("write a pack"):
                self._staged = StagedFile(staging)
        self._hash = blake3()
        self._blocks: list[Block] = []
        self._counted = PackSize()
        self._effort = effort
        self.size = 0
        self._write(encode_header(effort))

    def _write(self, data: bytes) -> None:
        if self._staged is not None:
            with storage_errors("write a pack"):
                self._staged.write(data)
            self._hash.update(data)
        self.size += len(data)

    def add_frame(
        self,
        kind: ItemKind,
        items: Sequence[Item],
        frame: bytes,
        raw_length: int,
        against: Against = ALONE,
    ) -> None:
        """Append a block whose frame was made before."""
        self._counted.add(len(frame), len(items), len(against.bases))
        self._blocks.append(Block(self.size, len(frame), raw_length, kind, tuple(items), *against))
        self._write(frame)

    @property
    def full(self) -> bool:
        """Whether nothing is to be added any more."""
        return self._counted.full

    def seal(self) -> SealedPack:
        """Write the footer and force everything to stable storage.

        Raises:
            StorageError: The pack is discarded.
        """
        if self._staged is None:
            self.size = self._counted.sealed()
            return SealedPack(PackId(b""), self.size, self._blocks, None, self._effort)
        self._write(bytes(padding(self.size)))
        footer = encode_footer(self._blocks, self.size)
        self._verify(footer)
        self._write(footer)
        with storage_errors("write a pack"):
            self._staged.seal()
        return SealedPack(
            PackId(self._hash.digest()), self.size, self._blocks, self._staged, self._effort
        )

    def _verify(self, encoded: bytes) -> None:
        """Read the footer back before anything relies on it: a pack without one lists nothing."""
        end = len(encoded) - TRAILER.size
        trailer = decode_trailer(encoded[end:], self.size + len(encoded))
        if decode_footer(encoded[:end], trailer) != self._blocks:
            raise AssertionError("a pack's footer does not say what is in the pack")

    def discard(self) -> None:
        """Remove the temporary file."""
        if self._staged is not None:
            self._staged.discard()
