"""What files are worth to every scheme, read out of a real store: the unit of samples and builds.

A :class:`Part` is some files: those of one package, or of one layer. Its pieces are sets of ids
with sizes, one set for each scheme, so that what two parts share is an intersection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import blake3_id
from layerstore.formats.tree import Changeset, Kind
from layerstore.measure.apportion import share
from layerstore.measure.contents import layer_content
from layerstore.measure.host_model import BLOCK_BYTES, allocated_size
from layerstore.measure.inventory import read_changeset, take_inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.formats.tree import Entry
    from layerstore.measure.inventory import Inventory
    from layerstore.store.store import Store

SCHEMES = ("plain_layers", "whole_files", "fixed_chunks", "chunks", "stored", "optimized")
"""What is compared, most expensive first; ``full_copies`` adds no bytes that these need."""
FIXED_BYTES = 128 * 1024
"""Of fixed chunks: what casync, restic's forebears and most block stores are near to."""

Sizes = tuple[int, ...]
"""Bytes by scheme, in the order of ``SCHEMES``."""


@dataclass
class Part:
    """Some files.

    Attributes:
        entries: Names, directories too.
        unpacked: Bytes they take unpacked: files, long symlinks; directories are apart.
        directories: Paths of them.
        pieces: For each deduplicating scheme, ids with bytes; the last two by stored shares.
    """

    entries: int = 0
    unpacked: int = 0
    directories: set[bytes] = field(default_factory=set)
    files: dict[bytes, int] = field(default_factory=dict)
    fixed: dict[bytes, int] = field(default_factory=dict)
    chunks: dict[bytes, int] = field(default_factory=dict)


class Reader:
    """Reads parts out of a store, and what their chunks take in it and in an optimized copy."""

    def __init__(self, store: Store, optimized: Store) -> None:
        self._store = store
        self.inventory = take_inventory(store)
        self.shares = stored_shares(self.inventory)
        self.optimized = stored_shares(take_inventory(optimized))
        self._cuts: dict[bytes, dict[bytes, int]] = {}

    def parts(self, diff_id: str, key: Callable[[bytes], str | None]) -> dict[str, Part]:
        """Return the files of a layer by what ``key`` says of their paths; None leaves one out."""
        changeset = read_changeset(self._store, self.inventory.layers[diff_id])
        parts: dict[str, Part] = {}
        grouped: dict[str, list[Entry]] = {}
        for entry in changeset.entries:
            name = key(entry.path)
            if name is not None:
                grouped.setdefault(name, []).append(entry)
        for name, entries in grouped.items():
            parts[name] = self._part(entries)
        return parts

    def _part(self, entries: list[Entry]) -> Part:
        part = Part(entries=len(entries))
        for entry in entries:
            if entry.kind == Kind.DIR:
                part.directories.add(entry.path)
            else:
                part.unpacked += allocated_size(entry)
        content = layer_content(Changeset(entries=tuple(entries)))
        for what, (_, allocated) in content.contents.items():
            name = what if isinstance(what, bytes) else blake3_id(msgspec.msgpack.encode(what))
            part.files[name] = allocated
            part.fixed.update(self._fixed(name, what))
        part.chunks.update(content.chunks)
        return part

    def _fixed(self, name: bytes, what: object) -> dict[bytes, int]:
        found = self._cuts.get(name)
        if found is None:
            chunks = [what] if isinstance(what, bytes) else [c for _, c in what if c is not None]
            data = b"".join(map(self._store.read_chunk, chunks))
            if len(data) <= FIXED_BYTES:
                found = {name: len(data)}
            else:
                cuts = [data[at : at + FIXED_BYTES] for at in range(0, len(data), FIXED_BYTES)]
                found = {blake3_id(cut): len(cut) for cut in cuts}
            self._cuts[name] = found
        return found

    def sizes(
        self, part: Part, there: Part | None = None, *, directories: int | None = None
    ) -> Sizes:
        """Return what a part takes, beside another one that is there already.

        Args:
            part: What is added.
            there: What deduplicating schemes have already.
            directories: How many to count; all if not given.
        """
        known = there or Part()
        count = len(part.directories) if directories is None else directories
        chunks = part.chunks.keys() - known.chunks.keys()
        return (
            part.unpacked + count * BLOCK_BYTES,
            sum(size for name, size in part.files.items() if name not in known.files),
            sum(size for name, size in part.fixed.items() if name not in known.fixed),
            sum(part.chunks[name] for name in chunks),
            sum(self.shares.get(name, 0) for name in chunks),
            sum(self.optimized.get(name, 0) for name in chunks),
        )

    def metadata(self, diff_id: str, *, optimized: bool = False) -> int:
        """Return the stored bytes of a layer's tree and recipe."""
        record = self.inventory.layers[diff_id]
        shares = self.optimized if optimized else self.shares
        return sum(shares.get(chunk, 0) for _, chunk in record.tree + record.recipe)


def stored_shares(inventory: Inventory) -> dict[bytes, int]:
    """Return the stored bytes of every item of a store."""
    blocks = {(row.pack, row.block): row for row in inventory.blocks}
    return {
        chunk_id: share(
            offset, length, blocks[pack, block].raw_length, blocks[pack, block].stored_length
        )
        for chunk_id, pack, block, offset, length in inventory.chunks
    }


def merge_into(known: Part, part: Part) -> None:
    """Add a part to what is there."""
    known.files.update(part.files)
    known.fixed.update(part.fixed)
    known.chunks.update(part.chunks)
    known.directories.update(part.directories)


def layers_of(inventory: Inventory, name: str) -> Iterator[str]:
    """Yield the layers of a named image, lowest first."""
    for image in inventory.images:
        if name in inventory.names.get(image.image_id, ()):
            yield from image.layers
            return
    raise LookupError(name)
