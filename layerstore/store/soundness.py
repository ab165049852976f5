"""Whether chunks that the catalog lists can be read: asked before a session relies on them.

A session that finds a chunk in the store drops the bytes it was given. If the chunk's
pack is damaged, those may have been the last good copy, so every block is read once a
session before anything in it is reused; what cannot be read is written anew. That is
how importing the same content again heals a store without being asked.

Two ways to know a block: decoding it (1.3 GB of plain bytes a second), or hashing its
whole pack (some 5 GB of stored bytes a second), which vouches for every block at once.
A pack begins with the first and changes to the second when a part of it was decoded:
never more than about twice the work of the better way. Reads only; belongs to one
thread. Why, and what it costs: docs/decisions/0100.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from blake3 import blake3

from layerstore.errors import FormatError
from layerstore.linux.files import ShortFileError, read_at
from layerstore.store.codec import decompress_block
from layerstore.store.failures import storage_errors
from layerstore.store.pack_reader import open_pack, verify_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.digest import PackId
    from layerstore.store.catalog import BlockKey, BlockRow, Catalog, PackRow

DECODED_FRACTION = 16
"""One part in this many of a pack's stored bytes is decoded before the pack is hashed."""

_READ_BYTES = 1024 * 1024
_ABSENT_OR_STRANGE = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EIO})
"""What opening or reading a pack can answer that means damage: EIO is a failing medium."""


class Soundness:
    """What one session has found out about the packs it meets."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._packs: dict[PackId, _Pack] = {}

    def damaged(self, places: Mapping[bytes, BlockKey]) -> set[bytes]:
        """Return those chunks whose blocks cannot be read.

        Raises:
            StorageError: Reading failed in a way that says nothing about the packs.
        """
        with storage_errors("read a pack"):
            return {item_id for item_id, key in places.items() if not self._is_sound(key)}

    def _is_sound(self, key: BlockKey) -> bool:
        pack = self._packs.get(key.pack_id)
        if pack is None:
            pack = self._packs[key.pack_id] = _Pack(self._catalog, key.pack_id)
        return pack.is_sound(key.block)


class _Pack:
    """One pack: what is known of its blocks."""

    def __init__(self, catalog: Catalog, pack_id: PackId) -> None:
        self._paths = catalog.paths
        self._row = catalog.pack_row(pack_id)
        self._blocks = catalog.blocks_of(pack_id)
        self._known: dict[int, bool] = {}
        self._decoded = 0
        self._hashed = False
        # None: nothing is known of the whole. A pack whose tables are damaged is as good
        # as lost: a rebuilt catalog would not find its chunks.
        self._whole: bool | None = None if self._holds(_check_tables) else False

    def is_sound(self, block: int) -> bool:
        if self._whole is not None:
            return self._whole
        known = self._known.get(block)
        if known is None:
            known = self._known[block] = self._judge(block)
        return known

    def _judge(self, number: int) -> bool:
        block = self._blocks.get(number)
        if block is None or self._row is None:
            return False
        if not self._hashed and self._decoded * DECODED_FRACTION >= self._row.size:
            self._hashed = True
            if self._holds(_check_hash):
                self._whole = True
                return True
        self._decoded += block.stored_length
        return self._holds(lambda fd, _: _check_block(fd, block))

    def _holds(self, check: Callable[[int, PackRow], None]) -> bool:
        """Return whether the pack is there and passes a check."""
        if self._row is None:
            return False
        try:
            with contextlib.closing(open_pack(self._paths, self._row.pack_id)) as file:
                check(file.fd, self._row)
        except (FormatError, ShortFileError):
            return False
        except OSError as err:
            if err.errno in _ABSENT_OR_STRANGE:
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


def _check_block(fd: int, block: BlockRow) -> None:
    decompress_block(read_at(fd, block.stored_length, block.offset), block.raw_length)
