"""Rows of the catalog as values, and what vouches for them. On the fast path."""

from __future__ import annotations

from layerstore.digest import ID_BYTES, ChunkId, DiffId, Digest, ImageId, PackId
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.store.catalog.seals import seal
from layerstore.store.failures import CatalogDamagedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.store.records import CacheRecord

IN_USE = "pack NOT IN (SELECT pack FROM packs WHERE retired IS NOT NULL)"
"""What rows of ``chunks`` and ``blocks`` must meet: those of retired packs count as absent."""


class ImageRecord(NamedTuple):
    """An image as the catalog knows it.

    Attributes:
        created: RFC 3339 time of the image's config, or "".
        layers: Diff ids, lowest first.
        size: Sum of the layers' regular file bytes.
    """

    image_id: ImageId
    manifest_digest: Digest
    created: str
    layers: tuple[DiffId, ...]
    size: int


class ChunkPlace(NamedTuple):
    """Where a chunk's plain bytes are: a slice of a decoded block of a pack.

    Attributes:
        pack: The pack's number in the catalog.
        depth: 0 when the block stands alone; else it is a difference, and
            :meth:`Catalog.bases` lists what against.
        cost: Plain bytes to decode for reading the chunk.
        kind: What the block holds, a number of :class:`layerstore.formats.pack.ItemKind`.
    """

    pack_id: PackId
    pack: int
    block: int
    block_offset: int
    stored_length: int
    raw_length: int
    offset: int
    length: int
    depth: int
    cost: int
    kind: int


class ChunkRow(NamedTuple):
    """One row of the chunk index: ``offset`` and ``length`` are plain bytes in the block."""

    chunk_id: ChunkId
    pack: int
    block: int
    offset: int
    length: int


IndexRow = tuple[ChunkId, int, int, int, int]
"""The same as a plain tuple, for who looks at all of them: to name its fields is half the work."""


class BlockRow(NamedTuple):
    """One block: where it lies in its pack file, its size before compression, its depth."""

    pack: int
    block: int
    offset: int
    stored_length: int
    raw_length: int
    kind: int
    depth: int
    cost: int


class PackRow(NamedTuple):
    """One pack file.

    Attributes:
        retired: The epoch at which gc took it out of use, or None.
        lease: Who is writing, or None.
        effort: How hard its writer tried to make it small: 0 for ingest.
    """

    pack: int
    pack_id: PackId
    size: int
    retired: int | None
    lease: str | None
    effort: int


def pack_from_row(row: Sequence[object]) -> PackRow:
    """Return a pack from its columns.

    Raises:
        CatalogDamagedError: They are none of a pack; SQLite does not see that in a damaged page.
    """
    match row:
        case (
            int(pack),
            bytes(pack_id),
            int(size),
            int() | None as retired,
            str() | None as lease,
            int(effort),
        ) if len(pack_id) == ID_BYTES and size > 0:
            return PackRow(pack, PackId(pack_id), size, retired, lease, effort)
    raise CatalogDamagedError("the catalog's row of a pack makes no sense")


PLACE = (
    "p.id, c.pack, c.block, b.offset, b.stored, b.raw, c.offset, c.length, b.depth, b.cost,"
    " b.kind FROM chunks c JOIN blocks b ON b.pack = c.pack AND b.block = c.block"
    " JOIN packs p ON p.pack = c.pack AND p.retired IS NULL"
)


def place_of(row: tuple[object, ...]) -> ChunkPlace:
    """Return a row of ``PLACE`` after seeing that it makes sense."""
    pack_id, *numbers = row
    whole = isinstance(pack_id, bytes) and len(pack_id) == ID_BYTES
    if not whole or set(map(type, numbers)) != {int} or min(numbers) < 0:  # type: ignore[type-var, operator]
        raise CatalogDamagedError("the catalog's place of a chunk makes no sense")
    return ChunkPlace(*row)  # type: ignore[arg-type]


def layer_record_of(diff_id: object, item: object, record: object) -> bytes:
    """Return a layer's encoded record after comparing it with the id of its item."""
    from layerstore.store.records import layer_item_id  # lazily: the fast path reads no layers

    if not isinstance(record, bytes) or layer_item_id(record) != item:
        raise CatalogDamagedError(f"the catalog's record of layer {diff_id} is damaged")
    return record


def image_of(row: tuple[object, ...], layers: Sequence[DiffId]) -> ImageRecord:
    """Return the image of a row of ``images`` after checking its seal."""
    image_id, manifest, created, size, found = row
    record = ImageRecord(
        ImageId(Digest(str(image_id))),
        Digest(str(manifest)),
        str(created),
        tuple(layers),
        size if isinstance(size, int) else -1,
    )
    if found != image_seal(record):
        raise CatalogDamagedError(
            f"the catalog lists something else of image {str(image_id)[:80]} than it was given"
        )
    return record


def image_seal(record: ImageRecord) -> bytes:
    """Return the seal of an image's row and of its rows in ``image_layers``."""
    return seal(
        "images",
        record.image_id,
        record.manifest_digest,
        record.created,
        record.size,
        *record.layers,
    )


def cache_seal(record: CacheRecord) -> bytes:
    """Return the seal of a build step's row."""
    return seal("build_cache", record.key, record.diff_id, record.value)


def tagged_image(name: object, image_id: object, found: object) -> ImageId:
    """Return the image of a row of ``tags`` after checking its seal."""
    if found != seal("tags", str(name), str(image_id)):
        raise CatalogDamagedError(f"the catalog's row of the name {str(name)[:300]!r} is damaged")
    return ImageId(Digest(str(image_id)))
