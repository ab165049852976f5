"""Checking a store: reads, compares, reports, changes nothing.

Structure: catalog and pack footers agree, everything referenced is there, trees
decode, manifests and configs match their digests. With ``read_data`` every byte
of every pack is hashed too, every frame decoded, every chunk compared with its id.

Runs beside writers and readers: it looks at one state of the catalog, and gc and
rebuild wait outside meanwhile, so nothing vanishes between being listed and being read.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

from blake3 import blake3

from layerstore.digest import DiffId, Digest, PackId
from layerstore.errors import FormatError, IntegrityError, LayerstoreError, NotFoundError
from layerstore.linux.files import ShortFileError, read_at
from layerstore.progress import Silent
from layerstore.store import names_log
from layerstore.store.blobs import BlobNotFoundError, blob_digests
from layerstore.store.codec import decompress_block
from layerstore.store.exclusion import without_gc
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.findings import CheckReport, Finding, Problem
from layerstore.store.pack_reader import read_footer
from layerstore.store.references import layer_chunks
from layerstore.store.rewrite import item_matches
from layerstore.store.sweep import pack_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.digest import ImageId
    from layerstore.formats.pack import Block
    from layerstore.progress import Progress
    from layerstore.store.catalog import BlockRow, ChunkRow, ImageRecord, PackRow
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store

READ_BYTES = 4 * 1024 * 1024

T = TypeVar("T")


def check(store: Store, *, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """Check a store and return everything that is wrong with it.

    Args:
        store: The store.
        read_data: Whether to read and hash every byte.
        progress: Told the bytes of packs read, or packs when only their footers are.

    Raises:
        GcRunningError: A gc or rebuild is at work.
    """
    with without_gc(store.paths):
        # Files first, rows second: what a writer adds in between is in neither or in the rows.
        files = dict(pack_files(store.paths))
        with store.catalog.pinned() as catalog:
            view = store.with_catalog(catalog)
            files.update(_sizes(view, files))
            work = _Check(view, files, read_data=read_data, progress=progress or Silent())
            report = work.run()
            view.reader.close()
        return report._replace(findings=tuple(_still_true(store, report)))


def _sizes(store: Store, files: dict[PackId, int]) -> Iterator[tuple[PackId, int]]:
    """Yield the packs that came between listing the files and looking at the rows."""
    for row in store.catalog.pack_rows():
        if row.pack_id not in files:
            with contextlib.suppress(FileNotFoundError):
                yield row.pack_id, os.stat(store.paths.pack(row.pack_id)).st_size


def _still_true(store: Store, report: CheckReport) -> Iterator[Finding]:
    """Yield the findings that are not merely a writer caught between two steps."""
    log = names_log_content(store)
    for finding in report.findings:
        match finding.problem:
            case Problem.UNKNOWN_FILE:
                if any(row.pack_id.hex() == finding.digest for row in store.catalog.pack_rows()):
                    continue
            case Problem.NAMES_LOG_DIFFERS if not any(
                other.problem is Problem.CATALOG_DAMAGED for other in report.findings
            ):
                tags = store.tags()
                if _logged(store, log) == tags or names_log_content(store) != log:
                    continue
            case _:
                pass
        yield finding


def names_log_content(store: Store) -> names_log.LogContent:
    """Return what names.log says now."""
    return names_log.load(store.paths.names_log)


def _logged(store: Store, log: names_log.LogContent) -> dict[str, str]:
    rows = store.catalog.query("SELECT image_id FROM images")
    return names_log.replay(log.records, {str(row[0]) for row in rows})


class _Check:
    """One check. Findings gather in order; which images they harm is worked out at the end."""

    def __init__(
        self, store: Store, files: dict[PackId, int], *, read_data: bool, progress: Progress
    ) -> None:
        self._store = store
        self._files = files
        self._read_data = read_data
        self._progress = progress
        self._findings: list[Finding] = []
        self._bad_items: dict[bytes, list[int]] = {}
        self._bad_layers: dict[DiffId, list[int]] = {}
        self._bytes_read = 0

    def run(self) -> CheckReport:
        catalog = self._store.catalog
        files = self._files
        self._integrity()
        packs = catalog.pack_rows()
        chunks = self._check_packs(packs, files)
        self._check_unknown(packs, files)
        no_images: list[ImageRecord] = []
        images = self._listed(catalog.images, no_images)
        needs = self._check_layers()
        blobs = self._check_images(images, needs)
        self._check_names({image.image_id for image in images})
        findings = tuple(
            finding._replace(images=self._harmed(index, needs, images))
            if not finding.images
            else finding
            for index, finding in enumerate(self._findings)
        )
        return CheckReport(
            findings,
            self._read_data,
            len(packs),
            chunks,
            len(needs),
            len(images),
            blobs,
            self._bytes_read,
        )

    def _find(
        self,
        problem: Problem,
        where: str,
        digest: str,
        message: str,
        *,
        items: tuple[bytes, ...] = (),
        layer: DiffId | None = None,
    ) -> None:
        index = len(self._findings)
        self._findings.append(Finding(problem, where, digest, message))
        for item_id in items:
            self._bad_items.setdefault(item_id, []).append(index)
        if layer is not None:
            self._bad_layers.setdefault(layer, []).append(index)

    def _listed(self, rows: Callable[[], T], nothing: T) -> T:
        """Return what the catalog lists, or nothing and a finding when that is damaged."""
        try:
            return rows()
        except CatalogDamagedError as err:
            self._find(Problem.CATALOG_DAMAGED, "catalog.sqlite", "", err.message)
            return nothing

    def _integrity(self) -> None:
        for (message,) in self._store.catalog.query("PRAGMA integrity_check"):
            if message != "ok":
                self._find(Problem.CATALOG_DAMAGED, "catalog.sqlite", "", str(message))

    # -- packs

    def _check_packs(self, packs: list[PackRow], files: dict[PackId, int]) -> int:
        chunks: dict[int, list[ChunkRow]] = {}
        count = 0
        for row in self._store.catalog.scan_chunks():
            chunks.setdefault(row.pack, []).append(row)
            count += 1
        blocks: dict[int, list[BlockRow]] = {}
        for block in self._store.catalog.block_rows():
            blocks.setdefault(block.pack, []).append(block)
        total = sum(row.size for row in packs) if self._read_data else len(packs)
        self._progress.start("reading packs", total)
        for pack in packs:
            if pack.retired is None:
                self._check_pack(pack, files, blocks.get(pack.pack, []), chunks.pop(pack.pack, []))
            self._progress.advance(pack.size if self._read_data else 1)
        self._progress.finish()
        for number, rows in chunks.items():
            self._find(
                Problem.CATALOG_DIFFERS,
                "catalog.sqlite",
                "",
                f"{len(rows)} chunks are listed in pack number {number}, which is not in use",
                items=tuple(row.chunk_id for row in rows),
            )
        return count

    def _check_pack(
        self,
        pack: PackRow,
        files: dict[PackId, int],
        block_rows: list[BlockRow],
        chunk_rows: list[ChunkRow],
    ) -> None:
        name = pack.pack_id.hex()
        path = self._store.paths.pack(pack.pack_id)
        items = tuple(row.chunk_id for row in chunk_rows)
        size = files.get(pack.pack_id)
        if size is None:
            self._find(Problem.PACK_MISSING, path, name, "pack file is missing", items=items)
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as err:
            self._find(Problem.PACK_DAMAGED, path, name, f"cannot be opened: {err}", items=items)
            return
        try:
            blocks = read_footer(fd)
            if size != pack.size:
                raise FormatError(f"has {size} bytes, the catalog says {pack.size}")
            self._compare(pack, blocks, block_rows, chunk_rows)
            if self._read_data:
                self._read_pack(fd, pack, blocks)
        except (FormatError, OSError) as err:
            self._find(Problem.PACK_DAMAGED, path, name, str(err), items=items)
        finally:
            os.close(fd)

    def _compare(
        self,
        pack: PackRow,
        blocks: list[Block],
        block_rows: list[BlockRow],
        chunk_rows: list[ChunkRow],
    ) -> None:
        """Compare a footer with the catalog's rows about the pack."""
        listed = [
            (index, b.offset, b.stored_length, b.raw_length, int(b.kind))
            for index, b in enumerate(blocks)
        ]
        places: dict[bytes, tuple[int, int, int]] = {}
        for index, block in enumerate(blocks):
            offset = 0
            for item_id, length in block.items:
                places[item_id] = (index, offset, length)
                offset += length
        wrong = tuple(
            row.chunk_id
            for row in chunk_rows
            if places.get(row.chunk_id) != (row.block, row.offset, row.length)
        )
        missing = tuple(self._store.catalog.missing(places))
        if listed != [row[1:] for row in block_rows] or wrong or missing:
            self._find(
                Problem.CATALOG_DIFFERS,
                "catalog.sqlite",
                pack.pack_id.hex(),
                f"the catalog's rows of pack {pack.pack_id.hex()} are not what its footer says: "
                f"{len(wrong)} chunks misplaced, {len(missing)} not listed",
                items=wrong,
            )

    def _read_pack(self, fd: int, pack: PackRow, blocks: list[Block]) -> None:
        """Hash a whole pack; only when that fails or not, decode every block and item too."""
        path = self._store.paths.pack(pack.pack_id)
        digest = blake3()
        for offset in range(0, pack.size, READ_BYTES):
            digest.update(read_at(fd, min(READ_BYTES, pack.size - offset), offset))
        self._bytes_read += pack.size
        before = len(self._findings)
        for block in blocks:
            self._read_block(fd, path, block)
        if digest.digest() != pack.pack_id and len(self._findings) == before:
            # Damage outside the frames: padding, header. Chunks can all be read.
            self._find(
                Problem.PACK_DAMAGED,
                path,
                pack.pack_id.hex(),
                "pack does not match its id although every chunk in it does",
            )

    def _read_block(self, fd: int, path: str, block: Block) -> None:
        try:
            raw = decompress_block(read_at(fd, block.stored_length, block.offset), block.raw_length)
        except (FormatError, ShortFileError) as err:
            self._find(
                Problem.BLOCK_DAMAGED,
                f"{path} offset {block.offset}",
                "",
                f"{err}; it holds {len(block.items)} chunks",
                items=tuple(item.item_id for item in block.items),
            )
            return
        offset = 0
        for item in block.items:
            if not item_matches(block.kind, item, raw[offset : offset + item.length]):
                self._find(
                    Problem.CHUNK_DAMAGED,
                    f"{path} offset {block.offset}",
                    item.item_id.hex(),
                    "chunk does not match its id",
                    items=(item.item_id,),
                )
            offset += item.length

    def _check_unknown(self, packs: list[PackRow], files: dict[PackId, int]) -> None:
        known = {row.pack_id for row in packs}
        for pack_id in files:
            if pack_id not in known:
                self._find(
                    Problem.UNKNOWN_FILE,
                    self._store.paths.pack(pack_id),
                    pack_id.hex(),
                    "pack is in no catalog row: left over from an interrupted command",
                )

    # -- layers, images, names

    def _check_layers(self) -> dict[DiffId, set[bytes]]:
        """Check every layer; return the items each needs."""
        needs: dict[DiffId, set[bytes]] = {}
        for (name,) in self._store.catalog.query("SELECT diff_id FROM layers ORDER BY diff_id"):
            diff_id = DiffId(Digest(str(name)))
            try:
                record = self._store.layer(diff_id)
            except (IntegrityError, NotFoundError) as err:
                self._find(
                    Problem.CATALOG_DIFFERS,
                    "catalog.sqlite",
                    diff_id,
                    err.message,
                    layer=diff_id,
                )
                needs[diff_id] = set()
                continue
            needs[diff_id] = self._check_layer(record)
        return needs

    def _check_layer(self, record: LayerRecord) -> set[bytes]:
        own: set[bytes] = {chunk_id for _, chunk_id in record.tree + record.recipe}
        row = self._store.catalog.one(
            "SELECT item FROM layers WHERE diff_id = ?", (record.diff_id,)
        )
        if row is not None and isinstance(row[0], bytes):
            own.add(row[0])
        try:
            chunks: set[bytes] = set(layer_chunks(record, self._store.read_refs))
        except (IntegrityError, NotFoundError) as err:
            self._find(
                Problem.LAYER_DAMAGED,
                f"layer {record.diff_id}",
                record.diff_id,
                f"its tree cannot be read: {err.message}",
                layer=record.diff_id,
            )
            chunks = set()
        needed = own | chunks
        for item_id in sorted(self._store.catalog.missing(needed)):
            self._find(
                Problem.CHUNK_MISSING,
                f"layer {record.diff_id}",
                item_id.hex(),
                "chunk is in no pack",
                items=(item_id,),
            )
        return needed

    def _check_images(self, images: list[ImageRecord], needs: dict[DiffId, set[bytes]]) -> int:
        for image in images:
            for digest in (Digest(image.image_id), image.manifest_digest):
                try:
                    self._store.get_blob(digest)
                except BlobNotFoundError as err:
                    self._add_image(Problem.BLOB_MISSING, image, digest, err.message)
                except LayerstoreError as err:
                    self._add_image(Problem.BLOB_DAMAGED, image, digest, err.message)
            for diff_id in image.layers:
                if diff_id not in needs:
                    self._add_image(
                        Problem.LAYER_MISSING, image, diff_id, f"layer {diff_id} is missing"
                    )
        return sum(1 for _ in blob_digests(self._store.paths))

    def _add_image(self, problem: Problem, image: ImageRecord, digest: str, message: str) -> None:
        # A concurrent untag and gc cannot be the reason: gc is locked out.
        where = f"image {image.image_id}"
        self._findings.append(Finding(problem, where, digest, message, (image.image_id,)))

    def _check_names(self, images: set[ImageId]) -> None:
        no_tags: dict[str, ImageId] = {}
        tags = self._listed(self._store.tags, no_tags)
        for name, image_id in tags.items():
            if image_id not in images:
                self._find(
                    Problem.IMAGE_MISSING,
                    f"name {name}",
                    image_id,
                    f"the name {name} points at an image that is not in the store",
                )
        path = self._store.paths.names_log
        log = names_log_content(self._store)
        if log.unreadable:
            self._find(
                Problem.NAMES_LOG_DAMAGED, path, "", f"{log.unreadable} lines cannot be read"
            )
        if _logged(self._store, log) != tags:
            self._find(
                Problem.NAMES_LOG_DIFFERS, path, "", "the log and the catalog disagree on names"
            )

    # -- who is harmed

    def _harmed(
        self, index: int, needs: dict[DiffId, set[bytes]], images: list[ImageRecord]
    ) -> tuple[ImageId, ...]:
        items = {item_id for item_id, where in self._bad_items.items() if index in where}
        layers = {diff_id for diff_id, where in self._bad_layers.items() if index in where}
        layers |= {diff_id for diff_id, needed in needs.items() if not items.isdisjoint(needed)}
        return tuple(image.image_id for image in images if not layers.isdisjoint(image.layers))
