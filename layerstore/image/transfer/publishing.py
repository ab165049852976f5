"""Parcels beside an image that was pushed: only what the repository does not have as such yet.

Equal content gives equal packs, so what another image's parcels hold is neither made nor sent
again: packs of earlier parcels are listed, and new content becomes differences against them.
Everything that a pull of this image may need is listed, so that a registry that collects
what nothing lists keeps it.
"""

from __future__ import annotations

import contextlib
import hashlib
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import Digest
from layerstore.errors import FormatError, LayerstoreError, LimitExceededError
from layerstore.formats import oci, strict_json
from layerstore.formats.pack import footer_size, padding
from layerstore.formats.parcels import (
    DESCRIPTION_TYPE,
    PACK_TYPE,
    PACKS_MAX,
    TABLE_TYPE,
    TABLES_MAX_BYTES,
    KnownEncoding,
    PackBlob,
    ParcelDescription,
    encode_artefact,
    encode_parcel_description,
    encode_table,
    table_bytes,
)
from layerstore.image.exchange.exchange import Document
from layerstore.image.exchange.originals import known_encodings
from layerstore.image.transfer.artefacts import artefact_tag, find_artefact
from layerstore.image.transfer.having import Having, chunks_of
from layerstore.image.transfer.lacking import lacking_of
from layerstore.linux.files import read_at
from layerstore.progress import Silent
from layerstore.store.catalog.rows import ChunkPlace
from layerstore.store.packs.differences import Base, affordable, is_good_base
from layerstore.store.packs.pack_reader import OpenPack
from layerstore.store.records import encode_layer
from layerstore.store.remotes.parcels import ParcelWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import ChunkId, DiffId, PackId
    from layerstore.formats.origins import Encoding
    from layerstore.formats.pack import Block
    from layerstore.image.exchange.exchange import ImageDestination
    from layerstore.progress import Progress
    from layerstore.registry.repository import Repository
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.store import Store

PUSH_LEVEL = 12
"""A sixth of the time of 19 for a tenth more bytes: somebody waits for a push."""

EARLIER_MAX = 4
"""Earlier parcels that are built on: each costs three requests."""

LOOKED_MAX = 16
"""Manifests of which it is asked whether they have any: one request each."""

_COPY_BYTES = 1 << 20
_FAR_PACK: PackId = b"registry"  # type: ignore[assignment]


class PublishedParcels(NamedTuple):
    """What was sent.

    Attributes:
        new_packs: Packs that the repository did not have.
        new_bytes: Of those and their tables.
        reused_packs: Packs of earlier parcels.
    """

    new_packs: int
    new_bytes: int
    reused_packs: int


def publish_parcels(
    store: Store,
    image: ImageRecord,
    subject: oci.Descriptor,
    manifest: oci.Manifest,
    repository: Repository,
    destination: ImageDestination,
    *,
    earlier: Iterable[Digest] = (),
    level: int = PUSH_LEVEL,
    progress: Progress | None = None,
) -> PublishedParcels:
    """Put an image's parcels beside its manifest.

    Args:
        store: Has the image.
        image: Pushed already.
        subject: Descriptor of its manifest in the repository.
        manifest: The same, decoded.
        repository: Where it lies.
        destination: The same repository, as a place for blobs.
        earlier: Digests of manifests there whose parcels new ones may build on, best first.
        level: Of zstd.
        progress: Told plain bytes.

    Raises:
        IntegrityError: The store is damaged.
        LimitExceededError: The image has more content than the tables of parcels may list.
        RegistryError: The registry does not take them.
    """
    report = progress or Silent()
    there = _There()
    there.learn(repository, chain([subject.digest], earlier))
    with store.begin("push parcels") as session:
        session.hold_layers(image.layers)
        records = [store.layer(diff_id) for diff_id in dict.fromkeys(image.layers)]
        lacking = lacking_of(store, records, Having(there.places, there.layers_of(store)))
        _refuse_large_tables(footer_size(1, len(lacking), 0))
        numbers = iter(range(1 << 40))
        writer = ParcelWriter(
            store,
            lambda: session.temporary(f"parcel-{next(numbers)}"),
            bases=there.bases,
            level=level,
            progress=report,
        )
        report.start("parcels", sum(one.item.length for one in lacking))
        with contextlib.closing(writer):
            new = [_send(pack, destination) for pack in writer.write(lacking)]
        report.finish()
    needed: set[bytes] = set(chunks_of(store, image.layers))
    used = there.used(needed, [block for _, blocks in new for block in blocks])
    listed = [*new, *used][:PACKS_MAX]
    _refuse_large_tables(sum(table_bytes(blocks) for _, blocks in listed))
    description = ParcelDescription(
        tuple(encode_layer(record) for record in records),
        _known(manifest, image.layers, known_encodings(store)),
    )
    config = _put(encode_parcel_description(description), DESCRIPTION_TYPE, destination)
    raw = encode_artefact(subject, config, [pack for pack, _ in listed])
    destination.put_document(Document(raw, oci.MANIFEST_TYPE), artefact_tag(subject.digest))
    sent = sum(blob.size for pack, _ in new for blob in pack)
    return PublishedParcels(len(new), sent, len(used))


def _refuse_large_tables(size: int) -> None:
    """Refuse what no reader takes, rather before it is sent than after."""
    if size > TABLES_MAX_BYTES:
        raise LimitExceededError(
            f"the tables of the image's parcels would have {size} bytes, over the limit of "
            f"{TABLES_MAX_BYTES} that readers take",
            hint="the image itself is pushed, and is pulled in whole layers: push such images "
            "without --delta",
        )


class _There:
    """What the repository has as parcels already."""

    def __init__(self) -> None:
        self.count = 0
        self.places: dict[bytes, ChunkPlace] = {}
        self._packs: list[tuple[PackBlob, list[Block]]] = []
        self._digests: set[Digest] = set()
        self._table_bytes = 0

    def learn(self, repository: Repository, digests: Iterable[Digest]) -> None:
        """Learn what the artefacts of some manifests list; those that are damaged are of no use."""
        looked: set[Digest] = set()
        for digest in digests:  # the later ones cost requests already to be named
            if digest not in looked:
                looked.add(digest)
                with contextlib.suppress(LayerstoreError):
                    self._add(repository, digest)
            if self.count == EARLIER_MAX or len(looked) == LOOKED_MAX:
                return

    def _add(self, repository: Repository, digest: Digest) -> None:
        artefact = find_artefact(repository, digest)
        if artefact is None:
            return
        self.count += 1
        for number, pack in enumerate(artefact.packs):
            if pack.pack.digest not in self._digests:
                blocks = artefact.table(number)
                self._table_bytes += table_bytes(blocks)
                if self._table_bytes > TABLES_MAX_BYTES:
                    raise LimitExceededError("earlier parcels have more tables than a reader takes")
                self._digests.add(pack.pack.digest)
                self._note(len(self._packs), blocks)
                self._packs.append((pack, blocks))

    def _note(self, number: int, blocks: Sequence[Block]) -> None:
        for index, block in enumerate(blocks):
            offset = 0
            for item_id, length in block.items:
                place = ChunkPlace(
                    _FAR_PACK, number, index, block.offset, block.stored_length, block.raw_length,
                    offset, length, block.depth, block.read_cost, int(block.kind),
                )  # fmt: skip
                self.places.setdefault(item_id, place)
                offset += length

    def layers_of(self, store: Store) -> tuple[DiffId, ...]:
        """Return layers of a store whose trees are there, upper and newer ones first."""
        found: dict[DiffId, None] = {}
        for image in store.images():
            for diff_id in reversed(image.layers):
                if all(chunk in self.places for _, chunk in store.layer(diff_id).tree):
                    found[diff_id] = None
        return tuple(found)

    def bases(self, near: Iterable[tuple[int, ChunkId]]) -> list[Base]:
        """Return what an item may be a difference against and stay cheap to read there."""
        bases = (Base(chunk, self.places[chunk]) for _, chunk in near if chunk in self.places)
        return affordable(base for base in bases if is_good_base(base.place))

    def used(self, needed: set[bytes], new: Sequence[Block]) -> list[tuple[PackBlob, list[Block]]]:
        """Return the packs of which an image needs something, each before those it builds on."""
        below: dict[int, set[int]] = {}
        todo = needed | {base for block in new for base in block.bases}
        while todo:
            bases: set[bytes] = set()
            for item in todo:
                place = self.places.get(item)
                if place is not None:
                    against = self._packs[place.pack][1][place.block].bases
                    bases.update(against)
                    places = (self.places.get(base) for base in against)
                    below.setdefault(place.pack, set()).update(p.pack for p in places if p)
            needed |= todo
            todo = bases - needed
        return [self._packs[number] for number in _uppermost_first(below)]


def _uppermost_first(below: dict[int, set[int]]) -> list[int]:
    """Return packs so that each comes before those it builds on.

    Raises:
        FormatError: Somebody made some that build on each other.
    """
    order = TopologicalSorter({n: packs - {n} for n, packs in below.items()})
    try:
        return list(order.static_order())[::-1]
    except CycleError as err:
        raise FormatError(
            "packs of earlier parcels in the repository build on each other in a circle",
            hint="delete the tags *.parcels there, or push without --delta",
        ) from err


def _send(pack: SealedPack, destination: ImageDestination) -> tuple[PackBlob, list[Block]]:
    """Send a pack and its table."""
    assert pack.staged is not None
    assert pack.staged.path is not None
    try:
        with contextlib.closing(OpenPack(pack.staged.path)) as file:
            pieces = _pieces(file.fd, pack.size)
            digest = hashlib.sha256()
            for piece in pieces():
                digest.update(piece)
            descriptor = oci.Descriptor(
                media_type=PACK_TYPE, digest=Digest(f"sha256:{digest.hexdigest()}"), size=pack.size
            )
            if not destination.has_blob(descriptor):
                destination.put_blob(pieces(), PACK_TYPE, descriptor)
    finally:
        pack.staged.discard()
    last = pack.blocks[-1]
    end = last.offset + last.stored_length
    table = _put(encode_table(pack.blocks, end + padding(end)), TABLE_TYPE, destination)
    return PackBlob(table, descriptor), pack.blocks


def _pieces(fd: int, size: int) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        for at in range(0, size, _COPY_BYTES):
            yield read_at(fd, min(_COPY_BYTES, size - at), at)

    return pieces


def _put(raw: bytes, media_type: str, destination: ImageDestination) -> oci.Descriptor:
    descriptor = oci.describe(raw, media_type)
    if not destination.has_blob(descriptor):
        destination.put_blob([raw], media_type, descriptor)
    return descriptor


def _known(
    manifest: oci.Manifest, layers: Sequence[DiffId], encodings: Mapping[Digest, Encoding]
) -> tuple[KnownEncoding, ...]:
    """Return what is known of the compressed layers that the manifest lists."""
    found: dict[Digest, KnownEncoding] = {}
    for layer, diff_id in zip(manifest.layers, layers, strict=True):
        encoding = encodings.get(layer.digest)
        if layer.digest != diff_id:
            recipe = encoding.recipe if encoding is not None else {}
            text = strict_json.encode(dict(recipe)).decode() if recipe else ""
            found[layer.digest] = KnownEncoding(layer.digest, diff_id, layer.size, text)
    return tuple(found.values())
