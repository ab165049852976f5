"""The catalog: an SQLite index over packs, layers, images, tags, leases and build cache.

It owns every question that other floors ask of it; packs and blobs are not its
business, and connections and locking are :mod:`layerstore.store.catalog.catalog_file`'s. It is an
index: everything except leases and build cache can be made again from packs, blobs and
names.log (:mod:`layerstore.store.rebuild.rebuild`). On the fast path: nothing heavy is imported.
Normative: docs/format/catalog.md.
"""

from __future__ import annotations

from layerstore.digest import ID_BYTES, ChunkId, DiffId, Digest, ImageId
from layerstore.light_typing import TYPE_CHECKING
from layerstore.store.catalog.catalog_file import CatalogFile
from layerstore.store.catalog.rows import (
    IN_USE,
    PLACE,
    BlockRow,
    ChunkPlace,
    ChunkRow,
    ImageRecord,
    PackRow,
    image_of,
    layer_record_of,
    pack_from_row,
    place_of,
    tagged_image,
)
from layerstore.store.failures import SQLITE_ERRORS, CatalogDamagedError, catalog_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.digest import PackId
    from layerstore.store.catalog.rows import IndexRow


class Catalog(CatalogFile):
    """An open catalog, shared by threads; close it when done."""

    # -- images and tags

    def images(self) -> list[ImageRecord]:
        """Return every image, newest first by its config's time."""
        return _images_of(self.query(f"{_IMAGES} ORDER BY i.created DESC, i.image_id, l.position"))

    def image(self, image_id: str) -> ImageRecord | None:
        """Return one image by its full id."""
        rows = self.query(f"{_IMAGES} WHERE i.image_id = ? ORDER BY l.position", (image_id,))
        return next(iter(_images_of(rows)), None)

    def image_after_writers(self, image_id: str) -> ImageRecord | None:
        """Return one image as it is once the write transaction under way, if any, has ended.

        Who makes a root for the garbage collector (a view's record) outside the catalog
        asks this afterwards: a collection that did not see the root has committed by
        now, and one that comes later will see it.
        """
        with self.locked():
            return self.image(image_id)

    def image_ids(self, prefix: str, limit: int = 3) -> list[ImageId]:
        """Return ids of images whose id or manifest digest begins with ``prefix``."""
        rows = self.query(
            "SELECT image_id FROM images WHERE substr(image_id, 1, ?1) = ?2"
            " OR (?1 = 71 AND manifest_digest = ?2) LIMIT ?3",
            (len(prefix), prefix, limit),
        )
        return [ImageId(Digest(str(row[0]))) for row in rows]

    def tags(self) -> dict[str, ImageId]:
        """Return every name with its image, sorted by name."""
        rows = self.query("SELECT name, image_id, seal FROM tags ORDER BY name")
        return {str(name): tagged_image(name, image_id, found) for name, image_id, found in rows}

    def tag(self, name: str) -> ImageId | None:
        """Return the image that a normalized name points at."""
        row = self.one("SELECT name, image_id, seal FROM tags WHERE name = ?", (name,))
        return tagged_image(*row) if row else None

    # -- layers

    def layer(self, diff_id: str) -> bytes | None:
        """Return a layer's encoded record, which matches the id of its item.

        Raises:
            CatalogDamagedError: It does not.
        """
        row = self.one("SELECT item, record FROM layers WHERE diff_id = ?", (diff_id,))
        return layer_record_of(diff_id, *row) if row is not None else None

    def layers(self) -> list[tuple[DiffId, bytes]]:
        """Return every layer's id and encoded record, sorted by id."""
        rows = self.query("SELECT diff_id, item, record FROM layers ORDER BY diff_id")
        return [
            (DiffId(Digest(str(diff_id))), layer_record_of(diff_id, item, record))
            for diff_id, item, record in rows
        ]

    # -- chunks

    def locate(self, chunk_id: bytes) -> ChunkPlace | None:
        """Return where a chunk (or a layer item) lies, or None."""
        row = self.one(f"SELECT {PLACE} WHERE c.id = ?", (chunk_id,))
        return place_of(row) if row is not None else None

    def places(self, chunk_ids: Iterable[bytes]) -> dict[ChunkId, ChunkPlace]:
        """Return where each of ``chunk_ids`` lies that a committed pack holds."""
        rows = self._each(f"SELECT c.id, {PLACE}", list(chunk_ids), "c.id")
        return {ChunkId(row[0]): place_of(row[1:]) for row in rows}  # type: ignore[arg-type]

    def bases(self, pack: int, block: int) -> list[ChunkId]:
        """Return what a block is a difference against, in order; nothing if it stands alone.

        Raises:
            CatalogDamagedError: What it lists are no ids.
        """
        return _base_ids(
            self.query(
                "SELECT id FROM bases WHERE pack = ? AND block = ? ORDER BY position", (pack, block)
            )
        )

    def bases_of(self, item_ids: Iterable[bytes]) -> set[ChunkId]:
        """Return what the blocks of items are differences against, however indirectly.

        It holds bases that no committed pack has, but nothing of what those were against.

        Raises:
            CatalogDamagedError: As :meth:`bases`.
        """
        sql = (
            "SELECT DISTINCT b.id FROM chunks c JOIN bases b"
            " ON b.pack = c.pack AND b.block = c.block"
        )
        found: set[ChunkId] = set()
        level: Iterable[bytes] = item_ids
        while rows := list(self._each(sql, list(level), "c.id", f" AND c.{IN_USE}")):
            level = set(_base_ids(rows)) - found
            found |= level
        return found

    def base_rows(self) -> list[tuple[int, int, ChunkId]]:
        """Return pack, block and base of every difference in use, in order."""
        return self.query(
            f"SELECT pack, block, id FROM bases WHERE {IN_USE} ORDER BY pack, block, position"  # noqa: S608 -- a constant
        )  # type: ignore[return-value]

    def has_chunk(self, chunk_id: bytes) -> bool:
        """Return whether a committed pack holds a chunk."""
        with self._guard():
            try:
                cursor = self._live().execute(
                    "SELECT 1 FROM chunks c JOIN packs p ON p.pack = c.pack"
                    " WHERE c.id = ? AND p.retired IS NULL",
                    (chunk_id,),
                )
                return cursor.fetchone() is not None
            except SQLITE_ERRORS as err:
                raise catalog_error(err) from err

    def missing(self, chunk_ids: Iterable[bytes]) -> set[bytes]:
        """Return those of ``chunk_ids`` that no committed pack holds."""
        wanted = list(chunk_ids)
        held = self._each("SELECT id FROM chunks", wanted, condition=f" AND {IN_USE}")
        return set(wanted) - {row[0] for row in held}

    def chunk_places(self, chunk_ids: Sequence[bytes]) -> dict[bytes, ChunkRow]:
        """Return the rows of those of ``chunk_ids`` that the index has in packs in use."""
        sql = "SELECT id, pack, block, offset, length FROM chunks"
        rows = self._each(sql, chunk_ids, condition=f" AND {IN_USE}")
        return {row[0]: ChunkRow(*row) for row in rows}  # type: ignore[misc, arg-type]

    def scan_chunks(self) -> Iterator[ChunkRow]:
        """Yield the whole chunk index in order of id, as it is now, in little memory.

        Reads through a connection of its own: what is published meanwhile is not seen.
        """
        sql = f"SELECT id, pack, block, offset, length FROM chunks WHERE {IN_USE} ORDER BY id"  # noqa: S608 -- a constant
        for rows in self.scan(sql):
            yield from map(ChunkRow._make, rows)

    def chunk_rows(self) -> list[ChunkRow]:
        """Return the whole chunk index in order of position: pack, block, offset."""
        return sorted(self.scan_chunks(), key=lambda row: row[1:])

    def index_rows(self, after: int = 0) -> list[IndexRow]:
        """Return the chunk index in order of position, through this connection's transaction.

        Args:
            after: Rows of packs with higher numbers than this; by default those of all.
        """
        return self.query(
            "SELECT id, pack, block, offset, length FROM chunks"  # noqa: S608 -- a constant
            f" WHERE pack > ? AND {IN_USE} ORDER BY pack, block, offset",
            (after,),
        )  # type: ignore[return-value]

    def block_rows(self) -> list[BlockRow]:
        """Return every block of every pack in use."""
        rows = self.query(
            "SELECT pack, block, offset, stored, raw, kind, depth, cost FROM blocks"  # noqa: S608 -- a constant
            f" WHERE {IN_USE} ORDER BY pack, block"
        )
        return [BlockRow(*row) for row in rows]  # type: ignore[arg-type]

    def blocks_of(self, pack_id: PackId) -> dict[int, BlockRow]:
        """Return the blocks of one pack by their numbers."""
        rows = self.query(
            "SELECT b.pack, block, offset, stored, raw, kind, depth, cost FROM blocks b"
            " JOIN packs p ON p.pack = b.pack WHERE p.id = ?",
            (pack_id,),
        )
        return {row[1]: BlockRow(*row) for row in rows}  # type: ignore[arg-type, misc]

    def pack_row(self, pack_id: PackId) -> PackRow | None:
        """Return one pack, or None when it is no more."""
        row = self.one(
            "SELECT pack, id, size, retired, lease, effort FROM packs WHERE id = ?", (pack_id,)
        )
        return pack_from_row(row) if row is not None else None

    def pack_rows(self) -> list[PackRow]:
        """Return every pack, retired ones too.

        Raises:
            CatalogDamagedError: A row is none of a pack.
        """
        rows = self.query("SELECT pack, id, size, retired, lease, effort FROM packs ORDER BY pack")
        return [pack_from_row(row) for row in rows]

    def epoch(self) -> int:
        """Return how often gc has taken packs out of use: leases begin in an epoch."""
        row = self.one("SELECT value FROM meta WHERE key = 'epoch'")
        if row is None or not isinstance(row[0], int):
            raise CatalogDamagedError("the catalog has no epoch")
        return row[0]


# In one statement: between two a commit could add the one without the other.
_IMAGES = (
    "SELECT i.image_id, i.manifest_digest, i.created, i.size, i.seal, l.diff_id"
    " FROM images i LEFT JOIN image_layers l ON l.image_id = i.image_id"
)


def _images_of(rows: Iterable[tuple[object, ...]]) -> list[ImageRecord]:
    """Return the images of rows of ``_IMAGES``, of which each has one for every layer."""
    layers: dict[tuple[object, ...], list[DiffId]] = {}
    for *image, diff_id in rows:
        found = layers.setdefault(tuple(image), [])
        if diff_id is not None:
            found.append(DiffId(Digest(str(diff_id))))
    return [image_of(image, diff_ids) for image, diff_ids in layers.items()]


def _base_ids(rows: Iterable[Sequence[object]]) -> list[ChunkId]:
    ids = [row[0] for row in rows]
    if not all(isinstance(base, bytes) and len(base) == ID_BYTES for base in ids):
        raise CatalogDamagedError("the catalog's bases of a block make no sense")
    return ids  # type: ignore[return-value]
