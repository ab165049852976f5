"""Copying what lives of some packs into new packs.

Blocks that live wholly are copied as they are after verification; of others the
living items are grouped anew, those of differences too, in blocks that stand alone.
Every item is hashed on the way, so damage is never copied. The result depends only on
the packs and the living ids, which lets a plan measure its exact size without writing,
and without reading what is copied as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.digest import blake3_id
from layerstore.formats.pack import Item, ItemKind
from layerstore.store.catalog.known_blocks import known_blocks
from layerstore.store.failures import CorruptPackError
from layerstore.store.packs.codec import compress_block
from layerstore.store.packs.grouping import BlockGroup
from layerstore.store.packs.pack_writer import ALONE, Against, PackWriter
from layerstore.store.records import layer_item_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from layerstore.digest import PackId
    from layerstore.formats.pack import Block
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.store import Store


class Copied(Protocol):
    """Which items of a pack are to be copied."""

    @property
    def alive(self) -> Container[bytes]:
        """What is needed."""

    @property
    def held(self) -> Container[bytes]:
        """What else may come along, because the catalog has it in this pack."""

    def has_all_of(self, block: int) -> bool:
        """Whether a block of the pack, by its number, is known to be needed wholly."""


class Rewritten(NamedTuple):
    """New packs, and the old ones that could not be copied because they are damaged."""

    packs: list[SealedPack]
    damaged: dict[PackId, CorruptPackError]


class Rewriter:
    """Feeds living items of old packs into new ones. Use :func:`rewrite_packs`."""

    def __init__(
        self, store: Store, staging_path: Callable[[], str] | None, effort: int = 0
    ) -> None:
        self._store = store
        self._reader = store.reader
        self._staging_path = staging_path
        self._measures = staging_path is None
        self._footers: dict[PackId, list[Block]] = {}
        self._effort = effort
        self._writer: PackWriter | None = None
        self._groups = {kind: BlockGroup() for kind in ItemKind}
        self.packs: list[SealedPack] = []
        self.medium_failed = False

    def copy_pack(self, pack_id: PackId, items: Copied, *, salvage: bool) -> bool:
        """Copy the living items of one pack; return False if some could not be read.

        An item that the catalog has in another pack is not copied from this one: the
        copy may be a difference against something that now is one against it.

        Sets ``medium_failed`` if what could not be read may be read the next time.

        Raises:
            CorruptPackError: Something is damaged and ``salvage`` is false.
        """
        whole = True
        blocks = self._blocks_of(pack_id, salvage=salvage)
        if self._measures:
            self._footers[pack_id] = blocks
        for number, block in enumerate(blocks):
            lives = items.has_all_of(number)
            if lives and self._measures:
                self._add_frame(block, bytes(block.stored_length))  # which is only counted
                continue
            wanted = [item for item in block.items if lives or item.item_id in items.alive]
            if not wanted:
                continue
            if block.bases and _is_better_whole(block, wanted, items.held):
                wanted = list(block.items)
            try:
                parts = dict(self._verified(pack_id, block, wanted, salvage=salvage))
            except CorruptPackError as err:
                if not salvage:
                    raise
                self.medium_failed = self.medium_failed or err.is_of_the_medium
                parts = {}
            whole = whole and len(parts) == len(wanted)
            frame = self._frame(pack_id, block) if len(parts) == len(block.items) else None
            if frame is not None:
                self._add_frame(block, frame)
            else:
                for item, data in parts.items():
                    self._regroup(block.kind, item, data)
        return whole

    def _blocks_of(self, pack_id: PackId, *, salvage: bool) -> list[Block]:
        try:
            return self._reader.footer(pack_id)
        except CorruptPackError as err:
            if not salvage:
                raise
            self.medium_failed = self.medium_failed or err.is_of_the_medium
            return known_blocks(self._store.catalog, pack_id)

    def _frame(self, pack_id: PackId, block: Block) -> bytes | None:
        """Return the frame of a decoded block, None when the medium does not give it again."""
        try:
            return self._reader.frame(pack_id, block.offset, block.stored_length)
        except CorruptPackError:
            return None

    def _verified(
        self, pack_id: PackId, block: Block, wanted: Iterable[Item], *, salvage: bool
    ) -> Iterator[tuple[Item, bytes]]:
        raw = self._reader.block(
            pack_id,
            block.offset,
            block.stored_length,
            block.raw_length,
            self._store.prefix_of(pack_id.hex(), block),
        )
        chosen = set(wanted)
        offset = 0
        for item in block.items:
            if item in chosen:
                data = raw[offset : offset + item.length]
                if item_matches(block.kind, item, data):
                    yield item, data
                elif not salvage:
                    raise CorruptPackError(
                        f"chunk {item.item_id.hex()[:16]} does not match its id",
                        pack=pack_id.hex(),
                        offset=block.offset,
                    )
            offset += item.length

    def _regroup(self, kind: ItemKind, item: Item, data: bytes) -> None:
        group = self._groups[kind]
        if not group.has_room_for(item):
            self._close_group(kind)
        group.add(item, data)

    def _close_group(self, kind: ItemKind) -> None:
        items, parts = self._groups[kind].take()
        if items:
            raw = b"".join(parts)
            self._add(kind, items, compress_block(raw), len(raw))

    def _add_frame(self, block: Block, frame: bytes) -> None:
        against = Against(block.bases, block.depth, block.cost)
        self._add(block.kind, block.items, frame, block.raw_length, against)

    def _add(
        self,
        kind: ItemKind,
        items: Iterable[Item],
        frame: bytes,
        raw_length: int,
        against: Against = ALONE,
    ) -> None:
        if self._writer is None:
            path = None if self._staging_path is None else self._staging_path()
            self._writer = PackWriter(path, self._effort)
        self._writer.add_frame(kind, tuple(items), frame, raw_length, against)
        if self._writer.full:
            self._seal()

    def _seal(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            pack = writer.seal()
            self.packs.append(self._named(pack) if self._measures else pack)

    def _named(self, pack: SealedPack) -> SealedPack:
        """Give a measured pack, which has no bytes, the id of the old one that it would be."""
        for pack_id, blocks in self._footers.items():
            # The size tells packs of an older version, whose tables are shorter.
            if blocks == pack.blocks and pack.size == self._reader.size(pack_id):
                return pack._replace(pack_id=pack_id)
        return pack

    def finish(self) -> list[SealedPack]:
        """Close what is open and return all new packs."""
        for kind in ItemKind:
            self._close_group(kind)
        self._seal()
        return self.packs

    def discard(self) -> None:
        """Remove every temporary file."""
        if self._writer is not None:
            self._writer.discard()
        for pack in self.packs:
            if pack.staged is not None:
                pack.staged.discard()


def _is_better_whole(block: Block, living: Iterable[Item], held: Container[bytes]) -> bool:
    """Return whether a half-dead difference is smaller than what lives of it standing alone."""
    is_small = block.stored_length <= sum(item.length for item in living) // 4
    return is_small and all(item.item_id in held for item in block.items)


def item_matches(kind: ItemKind, item: Item, data: bytes) -> bool:
    """Return whether an item's bytes have its id in the domain of its kind."""
    found = layer_item_id(data) if kind is ItemKind.LAYER else blake3_id(data)
    return found == item.item_id


def rewrite_packs(
    store: Store,
    packs: Mapping[PackId, Copied],
    staging_path: Callable[[], str] | None,
    effort: int = 0,
) -> Rewritten:
    """Copy the living items of packs, in the order given, into new packs.

    A damaged pack is left alone and reported; what was copied of it before the
    damage is merely a duplicate. ``staging_path`` gives temporary paths; without it packs are
    only measured, and damage is seen only in tables and in blocks that live in part.
    ``effort`` is what the new packs say of themselves.

    Raises:
        StorageError: The new packs could not be written; nothing is left of them.
    """
    rewriter = Rewriter(store, staging_path, effort)
    damaged: dict[PackId, CorruptPackError] = {}
    try:
        for pack_id, items in packs.items():
            try:
                rewriter.copy_pack(pack_id, items, salvage=False)
            except CorruptPackError as err:
                damaged[pack_id] = err
        return Rewritten(rewriter.finish(), damaged)
    except BaseException:
        rewriter.discard()
        raise
