"""What measuring remembers of a store's packs, so that the default view need not read the index.

Stored bytes are summed by the layers that need them: a store of 160,000 chunks has some hundreds
of such groups, and every question that ``df`` answers is answered from these. The groups change
when packs, layers or places of chunks do; for all of these stands a stamp
(:attr:`~layerstore.measure.inventory.Inventory.stamp`), which is in the record, too. If all that
the record's stamp stands for is still there, only what came since is read and summed. Any other
record, a damaged one and none are the same: everything is read and summed anew.

It is a cache in an area of its own, never forced to disk, not written where a layer could not
be read. Format: docs/format/measured.md. Why: docs/decisions/0220-sums-under-a-stamp.md
and 0250.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from layerstore.digest import DiffId, Digest
from layerstore.formats.sealed import Seal
from layerstore.measure.attribution import Group, Sums, has_every_pack, sum_up
from layerstore.measure.inventory import (
    ChunkReader,
    Inventory,
    one_moment,
    read_claims,
    stamp_of,
    take_inventory,
    walked,
    with_rows,
)
from layerstore.measure.remembered import recall, remember
from layerstore.measure.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Container

    from layerstore.store.store import Store

VERSION: Final = 2
RECORD_MAX_BYTES: Final = 16 * 1024 * 1024
"""Of a record; a store with so many groups that this is not enough is summed every time."""

SEAL: Final = Seal(
    b"LSSUMS\0" + bytes((VERSION,)),
    "layerstore 2026-11-26 remembered sums v2",
    max_bytes=RECORD_MAX_BYTES,
)
_FILE: Final = "sums"


class _Record(msgspec.Struct, frozen=True, array_like=True):
    """The body.

    Attributes:
        packs: Numbers of all packs, retired ones too.
        layers: Diff ids of all layers, to which the groups' numbers refer.
        stored: Bytes of blocks by the pack's number.
        groups: Numbers of layers, then data stored, data plain, metadata stored, metadata plain.
        runs: As of :class:`Sums`; decoded only where something is to be added.
    """

    stamp: bytes
    packs: list[int]
    layers: list[str]
    stored: dict[int, int]
    groups: list[tuple[list[int], int, int, int, int]]
    runs: msgspec.Raw


_DECODER = msgspec.msgpack.Decoder(_Record)
_RUNS = msgspec.msgpack.Decoder(Runs | None)


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
        sums, is_new = _recall(store, inventory)
        if sums is None:
            inventory = with_rows(inventory, store.catalog)
    if sums is None:
        reader = ChunkReader(store, inventory)
        sums = sum_up(inventory, reader)
        inventory = inventory._replace(unreadable=tuple(reader.unreadable))
        is_new = bool(sums.groups) and not reader.unreadable
    if is_new:
        _remember(store, inventory, sums)
    found = walked(inventory._replace(sums=sums, blocks=[], chunks=[], bases={}))
    if has_every_pack(found, sums.stored):
        return found
    return take_inventory(store)  # packs are gone or cut: what is left of them is counted by rows


def remembered_sums(store: Store, stamp: bytes) -> Sums | None:
    """Return what is remembered of the index under a stamp, with its runs; None if nothing is."""
    found = _decoded(store)
    if found is None or found[0].stamp != stamp:
        return None
    return _with_runs(*found)


def _decoded(store: Store) -> tuple[_Record, Sums] | None:
    """Return the record and its sums without runs; None if there is none that is whole."""
    body = recall(store, _FILE, SEAL)
    if body is None:
        return None
    try:
        record = _DECODER.decode(body)
        layers = [DiffId(Digest(name)) for name in record.layers]
        groups = tuple(
            Group(frozenset([layers[number] for number in numbers]), *sizes)
            for numbers, *sizes in record.groups
        )
    except (msgspec.MsgspecError, IndexError):
        return None
    return record, Sums(groups, record.stored)


def _with_runs(record: _Record, sums: Sums) -> Sums | None:
    try:
        return sums._replace(runs=_RUNS.decode(record.runs))
    except msgspec.MsgspecError:
        return None


def _recall(store: Store, inventory: Inventory) -> tuple[Sums | None, bool]:
    """Return what the record says of an inventory, and whether it had to be added to."""
    decoded = _decoded(store)
    if decoded is None:
        return None, False
    record, sums = decoded
    if record.stamp == inventory.stamp:
        return sums, False
    packs = frozenset(record.packs)
    layers = frozenset(DiffId(Digest(name)) for name in record.layers)
    if record.stamp != _stamp_of_part(inventory, packs, layers):
        return None, False
    with_runs = _with_runs(record, sums)
    if with_runs is None:
        return None, False
    from layerstore.measure.added_sums import Known, add_up  # lazily: most often nothing is new

    reader = ChunkReader(store, inventory)
    grown = add_up(with_runs, Known(packs, layers), inventory, store.catalog, reader)
    return (None if reader.unreadable else grown), True


def _stamp_of_part(inventory: Inventory, packs: Container[int], layers: Container[DiffId]) -> bytes:
    """Return the stamp that an inventory would have with some of its packs and layers only."""
    return stamp_of(
        inventory.epoch,
        (row for row in inventory.packs.values() if row.pack in packs),
        {diff_id: data for diff_id, data in inventory.layer_bytes.items() if diff_id in layers},
    )


def _remember(store: Store, inventory: Inventory, sums: Sums) -> None:
    numbers = {diff_id: number for number, diff_id in enumerate(inventory.layers)}
    record = _Record(
        inventory.stamp,
        [row.pack for row in inventory.packs.values()],
        list(inventory.layers),
        dict(sums.stored),
        [(sorted(map(numbers.__getitem__, group.layers)), *group[1:]) for group in sums.groups],
        msgspec.Raw(msgspec.msgpack.encode(sums.runs)),
    )
    remember(store, _FILE, SEAL, msgspec.msgpack.encode(record))
