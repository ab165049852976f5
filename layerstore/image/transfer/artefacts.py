"""Parcels of an image in a registry: found, and read in parts.

The artefact lies under a tag made of the manifest's digest, which costs one request to look
for; its subject is the manifest, so registries that keep account of referrers list it and
remove it with the image. Nothing that it says is believed: :mod:`.receiving`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import hex_of
from layerstore.errors import FormatError, IntegrityError, LimitExceededError
from layerstore.formats import oci
from layerstore.formats.framed import claimed_bytes
from layerstore.formats.parcels import (
    DESCRIPTION_MAX_BYTES,
    TABLES_MAX_BYTES,
    PackBlob,
    ParcelDescription,
    decode_parcel_description,
    decode_table,
    packs_of,
    table_bytes,
)
from layerstore.image.transfer.receiving import ContentMissingError, received_records
from layerstore.registry.errors import UnknownToRegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from layerstore.digest import Digest
    from layerstore.formats.pack import Block
    from layerstore.registry.repository import Repository
    from layerstore.store.records import LayerRecord

GAP_BYTES = 256 * 1024
"""What is fetched along between two blocks rather than asking twice: 20 ms at 100 Mbit/s."""

RANGE_BYTES = 4 * 1024 * 1024
"""Of one request, unless a block is longer."""

AHEAD = 4
"""Requests whose answers wait: so much is in memory, and latency is hidden."""


PARCELS_SUFFIX = ".parcels"


def artefact_tag(digest: Digest) -> str:
    """Return the tag under which the parcels of an image's manifest lie."""
    return f"{digest.partition(':')[0]}-{hex_of(digest)}{PARCELS_SUFFIX}"


class Placed(NamedTuple):
    """Where an item lies: in the block of a pack, by their numbers in the artefact."""

    pack: int
    block: int


class Artefact:
    """Parcels of one image. For one thread.

    Attributes:
        description: Everything but content.
        packs: Those that were made for this image first.
    """

    def __init__(
        self,
        repository: Repository,
        description: ParcelDescription,
        packs: Sequence[PackBlob],
    ) -> None:
        self._repository = repository
        self.description = description
        self.packs = packs
        self._tables: dict[int, list[Block]] = {}
        self._places: dict[bytes, Placed] = {}
        self._table_bytes = 0

    def records(self) -> dict[str, LayerRecord]:
        """Return the layers' records by diff ID.

        Raises:
            FormatError: One is damaged.
            LimitExceededError: One describes more than an import would take.
        """
        found = received_records(self.description.layers)
        return {record.diff_id: record for record in found}

    def table(self, number: int) -> list[Block]:
        """Return the blocks of a pack, fetched once.

        Raises:
            IntegrityError: The table is damaged.
            LimitExceededError: The tables together are larger than the limit.
            RegistryError: The registry does not give it.
        """
        if number not in self._tables:
            blocks = self._fetched_table(number)
            self._tables[number] = blocks
            for index, block in enumerate(blocks):
                placed = Placed(number, index)
                for item in block.items:
                    self._places.setdefault(item.item_id, placed)
        return self._tables[number]

    def _fetched_table(self, number: int) -> list[Block]:
        """Fetch a table, if those that came before leave room for it."""
        table, pack = self.packs[number]
        raw = read_whole(self._repository, table, TABLES_MAX_BYTES)
        together = self._table_bytes + claimed_bytes(raw, "a pack's table")
        if self._table_bytes and together > TABLES_MAX_BYTES:
            raise LimitExceededError(
                f"the tables of an image's parcels in {self._repository.name} have {together} "
                f"bytes with that of pack {pack.digest}, the limit is {TABLES_MAX_BYTES}"
            )
        blocks = decode_table(raw, pack.size)
        self._table_bytes += table_bytes(blocks)
        return blocks

    def find(self, item_ids: Iterable[bytes]) -> dict[bytes, Placed]:
        """Return where items lie; tables are fetched until all are found."""
        left = set(item_ids)
        found: dict[bytes, Placed] = {}
        for number in range(-1, len(self.packs)):
            if number >= 0:
                self.table(number)
            here = {item for item in left if item in self._places}
            found.update((item, self._places[item]) for item in here)
            left -= here
            if not left:
                break
        return found

    def needed(
        self, item_ids: Iterable[bytes], missing: Callable[[set[bytes]], set[bytes]]
    ) -> dict[int, set[int]]:
        """Return which blocks of which packs give items, and what those are differences against.

        Args:
            item_ids: Wanted.
            missing: Tells which of some items are not at hand.

        Raises:
            ContentMissingError: An item is neither at hand nor in a pack.
        """
        blocks: dict[int, set[int]] = {}
        asked: set[bytes] = set()
        todo = missing(set(item_ids))
        while todo:
            places = self.find(todo)
            if lost := todo - places.keys():
                raise ContentMissingError(
                    f"the parcels of an image of {self._repository.name} lack {len(lost)} chunks"
                )
            asked |= todo
            bases: set[bytes] = set()
            for number, index in set(places.values()):
                chosen = blocks.setdefault(number, set())
                if index not in chosen:
                    chosen.add(index)
                    bases.update(self.table(number)[index].bases)
            todo = missing(bases - asked)
        return blocks

    def stored_bytes(self, blocks: dict[int, set[int]]) -> int:
        """Return the bytes of frames."""
        return sum(
            self.table(number)[index].stored_length
            for number, chosen in blocks.items()
            for index in chosen
        )

    def frames(self, number: int, chosen: Iterable[int]) -> Iterator[tuple[Block, bytes]]:
        """Yield blocks of a pack with their frames, in the pack's order.

        Raises:
            IntegrityError: The registry gives less than it should.
            RegistryError: It gives nothing.
        """
        table = self.table(number)
        pack = self.packs[number].pack
        runs = list(_runs([table[index] for index in sorted(chosen)]))
        with ThreadPoolExecutor(AHEAD, "layerstore-parcels") as pool:
            waiting: deque[Future[bytes]] = deque()
            ahead = iter(runs)
            try:
                for run in runs:
                    while len(waiting) < AHEAD and (following := next(ahead, None)) is not None:
                        waiting.append(pool.submit(self._read, pack, following))
                    data = waiting.popleft().result()
                    start = run[0].offset
                    for block in run:
                        at = block.offset - start
                        yield block, data[at : at + block.stored_length]
            finally:
                for future in waiting:
                    future.cancel()

    def _read(self, pack: oci.Descriptor, run: Sequence[Block]) -> bytes:
        start, end = run[0].offset, run[-1].offset + run[-1].stored_length
        with self._repository.open_blob(pack.digest, pack.size, start, end) as stream:
            return _read_exactly(stream.read, end - start)


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield blocks that are asked for together."""
    run: list[Block] = []
    for block in blocks:
        if run:
            end = run[-1].offset + run[-1].stored_length
            size = block.offset + block.stored_length - run[0].offset
            if block.offset - end > GAP_BYTES or size > RANGE_BYTES:
                yield run
                run = []
        run.append(block)
    if run:
        yield run


def _read_exactly(read: Callable[[int], bytes], size: int) -> bytes:
    parts = []
    while size:
        part = read(size)
        if not part:
            raise IntegrityError("a registry gave less of a pack than was asked for")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def find_artefact(repository: Repository, digest: Digest) -> Artefact | None:
    """Return the parcels of an image's manifest, or None if there are none.

    Raises:
        FormatError: What lies there is something else, or damaged.
        RegistryError: The registry cannot be asked.
    """
    try:
        found = repository.manifest(artefact_tag(digest))
    except UnknownToRegistryError:
        return None
    manifest = oci.decode_artifact(found.raw, media_type=found.media_type)
    packs = packs_of(manifest)
    raw = read_whole(repository, manifest.config, DESCRIPTION_MAX_BYTES)
    return Artefact(repository, decode_parcel_description(raw), packs)


def read_whole(repository: Repository, descriptor: oci.Descriptor, most: int) -> bytes:
    """Return a blob that fits into memory, verified.

    Raises:
        FormatError: It is larger than ``most``.
        IntegrityError: It is not what its descriptor says.
    """
    if descriptor.size > most:
        raise FormatError(
            f"blob {descriptor.digest} has {descriptor.size} bytes, the limit is {most}"
        )
    with contextlib.closing(repository.open_blob(descriptor.digest, descriptor.size)) as stream:
        raw = _read_exactly(stream.read, descriptor.size)
    oci.verify(raw, descriptor)
    return raw
