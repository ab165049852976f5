"""What measuring remembers of a store's packs, so that the default view need not read the index.

Stored bytes are summed by the layers that need them: a store of 160,000 chunks has some hundreds
of such groups, and every question that ``df`` answers is answered from these. The groups change
when packs, layers or places of chunks do; for all of these stands a stamp
(:attr:`~layerstore.measure.inventory.Inventory.stamp`), which is in the record, too. A record
of another stamp, a damaged one and none are the same: everything is read and summed anew.

It is a cache in an area of its own, never forced to disk, not written where a layer could not
be read. Format: docs/format/measured.md. Why: docs/decisions/0220-sums-under-a-stamp.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec

from layerstore.digest import DiffId, Digest
from layerstore.errors import StorageError
from layerstore.formats.sealed import Seal
from layerstore.measure.attribution import Group, Sums, has_every_pack, sum_up
from layerstore.measure.inventory import (
    ChunkReader,
    Inventory,
    one_moment,
    read_claims,
    take_inventory,
    walked,
    with_rows,
)
from layerstore.store.config import require_writable
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

VERSION: Final = 1
RECORD_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a record; a store with so many groups that this is not enough is summed every time."""

SEAL: Final = Seal(
    b"LSSUMS\0" + bytes((VERSION,)),
    "layerstore 2026-11-26 remembered sums v1",
    max_bytes=RECORD_MAX_BYTES,
)


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """The body.

    Attributes:
        layers: Diff ids, to which the groups' numbers refer.
        stored: Bytes of blocks by the pack's number.
        groups: Numbers of layers, then data stored, data plain, metadata stored, metadata plain.
    """

    stamp: bytes
    layers: list[str]
    stored: dict[int, int]
    groups: list[tuple[list[int], int, int, int, int]]


_DECODER = msgspec.msgpack.Decoder(_Record)


def take_summarised(store: Store) -> Inventory:
    """Return an inventory whose packs are known by sums, remembered ones where there are any.

    What is made anew is remembered before the disk is walked, so that it is counted.

    Raises:
        CatalogDamagedError: The catalog is not usable.
        FormatError: A layer's record is damaged.
        StorageError: The root cannot be read.
    """
    with one_moment(store.catalog):
        inventory = read_claims(store)
        sums = _recall(store.paths, inventory)
        if sums is None:
            inventory = with_rows(inventory, store.catalog)
    if sums is None:
        reader = ChunkReader(store, inventory)
        sums = sum_up(inventory, reader)
        inventory = inventory._replace(unreadable=tuple(reader.unreadable))
        if sums.groups and not reader.unreadable:
            _remember(store, inventory.stamp, sums)
    found = walked(inventory._replace(sums=sums, blocks=[], chunks=[], bases={}))
    if has_every_pack(found, sums.stored):
        return found
    return take_inventory(store)  # packs are gone or cut: what is left of them is counted by rows


def _path(paths: StorePaths) -> str:
    return f"{paths.measured}/sums"


def _recall(paths: StorePaths, inventory: Inventory) -> Sums | None:
    body = read_record(_path(paths), SEAL)
    if body is None:
        return None
    try:
        record = _DECODER.decode(body)
        if record.stamp != inventory.stamp:
            return None
        layers = [DiffId(Digest(name)) for name in record.layers]
        groups = tuple(
            Group(frozenset([layers[number] for number in numbers]), *sizes)
            for numbers, *sizes in record.groups
        )
    except (msgspec.MsgspecError, IndexError):
        return None
    return Sums(groups, record.stored)


def _remember(store: Store, stamp: bytes, sums: Sums) -> None:
    layers = sorted(frozenset[DiffId]().union(*(group.layers for group in sums.groups)))
    numbers = {diff_id: number for number, diff_id in enumerate(layers)}
    record = _Record(
        stamp,
        list(layers),
        dict(sums.stored),
        [(sorted(map(numbers.__getitem__, group.layers)), *group[1:]) for group in sums.groups],
    )
    sealed = SEAL.closed(msgspec.msgpack.encode(record))
    if sealed is None:
        return
    with contextlib.suppress(StorageError):  # whoever may only look keeps nothing
        require_writable(store.config)
        staging = store.paths.temporary("measured", f"{os.getpid()}.{os.urandom(4).hex()}")
        write_record(_path(store.paths), sealed, staging=staging)
