"""Reading a store: chunks and records of layers, behind the one verifying path.

What every reader needs and nothing else, so that who shows an image for the first time imports
little. :class:`layerstore.store.store.Store` is this with everything else that a store can do.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Self

from layerstore.errors import FormatError
from layerstore.formats.pack import DEPTH_MAX, PREFIX_MAX_BYTES
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.config import StoreConfig, load_config
from layerstore.store.failures import ChunkNotFoundError, CorruptPackError, LayerNotFoundError
from layerstore.store.packs.pack_reader import PackReader
from layerstore.store.paths import StorePaths
from layerstore.store.records import decode_layer, refs_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from layerstore.digest import ChunkId, DiffId, PackId
    from layerstore.formats.pack import Block
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.records import LayerRecord, Refs

_LOOKUPS_MAX = 4
"""Times a chunk is looked up anew when gc moves it between lookup and read."""

DECODE_MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Plain bytes that reading one chunk may decode. Writers keep to 8 MiB, but while an
optimization moves what a difference is against, its bases may come to lie in a block each."""


JOINED_MAX_BYTES = 1 << 30
"""Bytes that references may stand for together where they are joined: a tree of five million
entries. A hostile record names one chunk as often as it likes."""


class _BlockGoneError(Exception):
    """A difference lost its rows while it was read: look where the chunk is now."""


class _Budget:
    """What the read of one chunk may still decode: hostile differences multiply without end."""

    def __init__(self) -> None:
        self._left = DECODE_MAX_BYTES

    def spend(self, plain_bytes: int, pack_id: PackId, offset: int) -> None:
        """Count a block about to be decoded.

        Raises:
            CorruptPackError: It is too much.
        """
        self._left -= plain_bytes
        if self._left < 0:
            raise CorruptPackError(
                f"reading a chunk takes more than {DECODE_MAX_BYTES} bytes of other blocks",
                pack=pack_id.hex(),
                offset=offset,
            )


class StoreReader:
    """An open store, to be read. Close it, or use it in a ``with`` block."""

    def __init__(self, paths: StorePaths, config: StoreConfig, catalog: Catalog) -> None:
        """Use :meth:`open`."""
        self.paths = paths
        self.config = config
        self.catalog = catalog
        self.reader = PackReader(paths)

    @classmethod
    def open(cls, root: Path | str, *, config: StoreConfig | None = None) -> Self:
        """Open the store at ``root``.

        Args:
            root: Its directory.
            config: In the place of what config.toml says, which is damaged.

        Raises:
            StoreNotFoundError: There is none.
            UnsupportedVersionError: It was made by a newer layerstore.
            CatalogDamagedError: Its catalog is missing or damaged; the hint says what to do.
            FormatError: Parts of it are missing.
        """
        paths = StorePaths(os.path.realpath(root))
        return cls(paths, config or load_config(paths), Catalog(paths))

    def close(self) -> None:
        """Let go of files; harmless when repeated."""
        self.reader.close()
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the plain bytes of one chunk; they hash to ``chunk_id``.

        Raises:
            ChunkNotFoundError: No committed pack holds it.
            CorruptPackError: Its pack is damaged or missing, or what it is a difference
                against is.
        """
        return self._read(chunk_id, _Budget(), DEPTH_MAX)

    def _read(self, chunk_id: ChunkId, budget: _Budget, depth_left: int) -> bytes:
        damage: CorruptPackError | None = None
        for attempt in range(_LOOKUPS_MAX):
            place = self.catalog.locate(chunk_id)
            if place is None:
                if attempt == 0:
                    self.catalog.reopen_if_replaced()
                    continue
                raise ChunkNotFoundError(f"the store holds no chunk {chunk_id.hex()}")
            try:
                prefix = partial(self._prefix, place, budget, depth_left)
                return self.reader.chunk(chunk_id, place, prefix)
            except _BlockGoneError:
                continue
            except FileNotFoundError:
                self.reader.forget(place.pack_id)
                self.catalog.reopen_if_replaced()
            except CorruptPackError as err:
                # Somebody may have healed it meanwhile: look and open once more, from the top.
                self.reader.forget(place.pack_id)
                if damage is not None or depth_left < DEPTH_MAX:
                    raise
                damage = err
        assert place is not None
        raise CorruptPackError("pack is missing", pack=place.pack_id.hex(), offset=0)

    def _prefix(self, place: ChunkPlace, budget: _Budget, depth_left: int) -> bytes:
        """Return what the block of a place, about to be decoded, is a difference against."""
        budget.spend(place.raw_length, place.pack_id, place.block_offset)
        if not place.depth:
            return b""
        bases = self.catalog.bases(place.pack, place.block)
        if not bases:
            raise _BlockGoneError("gc took the block out of use between two questions")
        return self._joined(bases, place.pack_id.hex(), place.block_offset, budget, depth_left)

    def _joined(
        self,
        bases: Sequence[ChunkId],
        pack: str,
        offset: int,
        budget: _Budget,
        depth_left: int,
    ) -> bytes:
        """Return the bytes of the bases of the block at ``offset`` of a pack, joined."""
        if not depth_left:
            raise CorruptPackError(
                f"differences nest deeper than {DEPTH_MAX}", pack=pack, offset=offset
            )
        parts: list[bytes] = []
        size = 0
        for base in bases:
            try:
                parts.append(self._read(base, budget, depth_left - 1))
            except ChunkNotFoundError as err:
                raise CorruptPackError(
                    f"block is a difference, and {err.message}", pack=pack, offset=offset
                ) from err
            size += len(parts[-1])
            if size > PREFIX_MAX_BYTES:
                raise CorruptPackError(
                    f"block is a difference against more than {PREFIX_MAX_BYTES} bytes",
                    pack=pack,
                    offset=offset,
                )
        return b"".join(parts)

    def prefix_of(self, pack: str, block: Block) -> Callable[[], bytes] | None:
        """Return how to read what a block of a footer is a difference against, if it is one.

        Args:
            pack: What errors call the pack.
            block: Of its footer.
        """
        if not block.bases:
            return None
        return partial(self._joined, block.bases, pack, block.offset, _Budget(), DEPTH_MAX)

    def read_refs(self, refs: Refs) -> bytes:
        """Return the bytes of references, joined.

        Raises:
            IntegrityError: A chunk is damaged, missing, or of another length than referenced; or
                all together are more than ``JOINED_MAX_BYTES``.
        """
        size = refs_length(refs)
        if size > JOINED_MAX_BYTES:
            raise FormatError(f"{size} bytes are to be joined, the limit is {JOINED_MAX_BYTES}")
        parts: list[bytes] = []
        for length, chunk_id in refs:
            data = self.read_chunk(chunk_id)
            if len(data) != length:
                raise FormatError(
                    f"chunk {chunk_id.hex()} has {len(data)} bytes where {length} are referenced"
                )
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def layer(self, diff_id: DiffId) -> LayerRecord:
        """Return a layer's record.

        Raises:
            LayerNotFoundError: Not in the store.
        """
        encoded = self.catalog.layer(diff_id)
        if encoded is None:
            raise LayerNotFoundError(f"the store holds no layer {diff_id}")
        return decode_layer(encoded, expected=diff_id)
