"""Whether chunks that the catalog lists can be read: asked before a session relies on them.

A session that finds a chunk in the store drops the bytes it was given. If the chunk's
pack is damaged, those may have been the last good copy, so every block is read once a
session before anything in it is reused; what cannot be read is written anew. That is
how importing the same content again heals a store without being asked.

Two ways to know a block: decoding it (1.3 GB of plain bytes a second), or hashing its
whole pack (some 5 GB of stored bytes a second), which vouches for every block at once.
A pack begins with the first and changes to the second when a part of it was decoded:
never more than about twice the work of the better way. A difference is only as sound as
its bases. Reads only; belongs to one thread. Why, and what it costs: docs/decisions/0100.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from blake3 import blake3

from layerstore.errors import FormatError, IntegrityError, NotFoundError
from layerstore.linux.files import ShortFileError, read_at
from layerstore.store.failures import PACK_DAMAGE, storage_errors
from layerstore.store.packs.codec import decompress_block
from layerstore.store.packs.pack_reader import open_pack, verify_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from layerstore.digest import ChunkId, PackId
    from layerstore.store.catalog.rows import ChunkPlace, PackRow
    from layerstore.store.store import Store

DECODED_FRACTION = 16
"""One part in this many of a pack's stored bytes is decoded before the pack is hashed."""

_READ_BYTES = 1024 * 1024


class Soundness:
    """What one session has found out about the packs it meets."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._packs: dict[PackId, _Pack] = {}
        self._known: dict[tuple[PackId, int], bool] = {}

    def damaged(self, places: Mapping[ChunkId, ChunkPlace]) -> set[ChunkId]:
        """Return those chunks whose blocks cannot be read.

        Raises:
            StorageError: Reading failed in a way that says nothing about the packs.
        """
        with storage_errors("read a pack"):
            return {item_id for item_id, place in places.items() if not self._is_sound(place)}

    @property
    def packs(self) -> set[PackId]:
        """Every pack that was asked about, and those of bases of what was."""
        return set(self._packs)

    def are_whole(self, pack_ids: Iterable[PackId]) -> bool:
        """Return whether packs are as they were written, to the last bit.

        Raises:
            StorageError: As :meth:`damaged`.
        """
        with storage_errors("read a pack"):
            return all(self._pack(pack_id).is_whole() for pack_id in pack_ids)

    def _pack(self, pack_id: PackId) -> _Pack:
        pack = self._packs.get(pack_id)
        if pack is None:
            pack = self._packs[pack_id] = _Pack(self._store, pack_id)
        return pack

    def _is_sound(self, place: ChunkPlace) -> bool:
        key = place.pack_id, place.block
        known = self._known.get(key)
        if known is None:
            # Before the bases are asked: a cycle, which no store should have, is no recursion.
            self._known[key] = False
            known = self._known[key] = self._judge(place)
        return known

    def _judge(self, place: ChunkPlace) -> bool:
        pack = self._pack(place.pack_id)
        if not place.depth:
            return pack.holds(place, None)
        bases = self._store.catalog.bases(place.pack, place.block)
        places = self._store.catalog.places(bases)
        if not bases or len(places) < len(set(bases)) or self.damaged(places):
            return False

        def prefix() -> bytes:
            return b"".join([self._store.read_chunk(base) for base in bases])

        return pack.holds(place, prefix)


class _Pack:
    """One pack: what is known of it as a whole."""

    def __init__(self, store: Store, pack_id: PackId) -> None:
        self._paths = store.paths
        self._row = store.catalog.pack_row(pack_id)
        self._decoded = 0
        self._hashed = False
        # None: nothing is known of the whole. A pack whose tables are damaged is as good
        # as lost: a rebuilt catalog would not find its chunks.
        self._whole: bool | None = None if self._passes(_check_tables) else False

    def holds(self, place: ChunkPlace, prefix: Callable[[], bytes] | None) -> bool:
        """Return whether a block is as it was written.

        Args:
            place: Of a chunk in the block.
            prefix: Gives what the block is a difference against. Costs as much as
                hashing many a pack, so that is done first then.
        """
        row = self._row
        if row and (prefix or self._decoded * DECODED_FRACTION >= row.size):
            self.is_whole()
        if self._whole is not None:
            return self._whole
        self._decoded += place.stored_length
        return self._passes(lambda fd, _: _check_block(fd, place, prefix))

    def is_whole(self) -> bool:
        """Return whether the pack hashes to its id; it is hashed once."""
        if self._whole is None and not self._hashed:
            self._hashed = True
            self._whole = True if self._passes(_check_hash) else None
        return bool(self._whole)

    def _passes(self, check: Callable[[int, PackRow], None]) -> bool:
        """Return whether the pack is there and passes a check."""
        if self._row is None:
            return False
        try:
            with contextlib.closing(open_pack(self._paths, self._row.pack_id)) as file:
                check(file.fd, self._row)
        except (IntegrityError, NotFoundError, ShortFileError):
            return False
        except OSError as err:
            if err.errno in PACK_DAMAGE:
                return False
            raise
        return True


def _check_tables(fd: int, pack: PackRow) -> None:
    if os.fstat(fd).st_size != pack.size:
        raise FormatError("pack has another size than the catalog says")
    verify_tables(fd)


def _check_hash(fd: int, pack: PackRow) -> None:
    digest = blake3()
    for offset in range(0, pack.size, _READ_BYTES):
        digest.update(read_at(fd, min(_READ_BYTES, pack.size - offset), offset))
    if digest.digest() != pack.pack_id:
        raise FormatError("pack does not match its id")


def _check_block(fd: int, place: ChunkPlace, prefix: Callable[[], bytes] | None) -> None:
    frame = read_at(fd, place.stored_length, place.block_offset)
    decompress_block(frame, place.raw_length, prefix() if prefix is not None else b"")
