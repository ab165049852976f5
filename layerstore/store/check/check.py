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
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from layerstore.digest import DiffId, Digest, PackId
from layerstore.errors import FormatError, IntegrityError, LayerstoreError, NotFoundError
from layerstore.formats.origins import NO_ORIGINS, Origins
from layerstore.formats.reference import is_index_name
from layerstore.formats.tree import decode_changeset
from layerstore.progress import Silent
from layerstore.store.blobs import BlobNotFoundError, blob_digests
from layerstore.store.check.check_packs import (
    Harm,
    PackResult,
    PackTask,
    open_tables,
    pack_harm,
    read_pack,
    tables_bytes,
)
from layerstore.store.check.findings import CheckReport, Finding, HarmedFile, Problem
from layerstore.store.check.scrub import mounted_damage, scrub_objects
from layerstore.store.collect.sweep import pack_files
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.locks.exclusion import without_gc
from layerstore.store.names import names_log
from layerstore.store.names.indexes import named_index
from layerstore.store.rebuild.config_again import longest_of, strange_cuts, wrong_format
from layerstore.store.references import layer_chunks, paths_with
from layerstore.store.sharing import access_mismatches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from layerstore.digest import ImageId
    from layerstore.formats.pack import Block
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord, PackRow
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store

READERS = 2
"""Packs read at once: hashing and decoding one overlaps with reading the other."""

_NEEDS_UNKNOWN = frozenset(
    {
        Problem.CATALOG_DAMAGED,
        Problem.CATALOG_DIFFERS,
        Problem.LAYER_DAMAGED,
        Problem.LAYER_MISSING,
        Problem.IMAGE_MISSING,
    }
)
"""With one of these found, nobody can say what layers need."""

_OF_BASES = frozenset({Problem.BASE_DAMAGED, Problem.CHUNK_MISSING})

T = TypeVar("T")


def check(
    store: Store,
    *,
    read_data: bool,
    only: Sequence[ImageId] = (),
    progress: Progress | None = None,
) -> CheckReport:
    """Check a store and return everything that is wrong with it.

    Args:
        store: The store.
        read_data: Whether to read and hash every byte.
        only: Look at these images and what they need; at the whole store when empty.
        progress: Told the bytes of packs read, or packs when only their footers are.

    Raises:
        GcRunningError: A gc or rebuild is at work.
    """
    began = time.monotonic()
    with without_gc(store.paths):
        # Files first, rows second: what a writer adds in between is in neither or in the rows.
        files = dict(pack_files(store.paths))
        with store.catalog.pinned() as catalog:
            view = store.with_catalog(catalog)
            files.update(_sizes(view, files))
            work = _Check(view, files, only, read_data=read_data, progress=progress or Silent())
            report = work.run()
            view.reader.close()
        return report._replace(
            findings=tuple(_still_true(store, report)), seconds=time.monotonic() - began
        )


def _sizes(store: Store, files: dict[PackId, int]) -> Iterator[tuple[PackId, int]]:
    """Yield the packs that came between listing the files and looking at the rows."""
    for row in store.catalog.pack_rows():
        if row.pack_id not in files:
            with contextlib.suppress(FileNotFoundError):
                yield row.pack_id, os.stat(store.paths.pack(row.pack_id)).st_size


def _still_true(store: Store, report: CheckReport) -> Iterator[Finding]:
    """Yield the findings that are not merely a writer caught between two steps."""
    passing = {Problem.UNKNOWN_FILE, Problem.NAMES_LOG_DIFFERS, Problem.ACCESS_DIFFERS}
    if any(finding.problem is Problem.CATALOG_DAMAGED for finding in report.findings):
        passing.remove(Problem.NAMES_LOG_DIFFERS)  # it could not be read again
    doubted = [finding for finding in report.findings if finding.problem in passing]
    excused: list[Finding] = []
    if doubted:
        with store.catalog.between_writers():
            excused = [finding for finding in doubted if not _is_true_now(store, finding)]
    yield from (finding for finding in report.findings if finding not in excused)


def _is_true_now(store: Store, finding: Finding) -> bool:
    match finding.problem:
        case Problem.UNKNOWN_FILE:
            row = store.catalog.pack_row(PackId(bytes.fromhex(finding.digest)))
            return row is None and os.path.lexists(finding.where)
        case Problem.NAMES_LOG_DIFFERS:
            return not _log_agrees(store, names_log_content(store))
        case _:
            return any(access_mismatches(store.paths, shared=store.config.shared))


def names_log_content(store: Store) -> names_log.LogContent:
    """Return what names.log says now."""
    return names_log.read_log(store.paths.names_log)


def _log_agrees(store: Store, log: names_log.LogContent) -> bool:
    """Return whether the log and the catalog agree on names and pins."""
    images = {str(row[0]) for row in store.catalog.query("SELECT image_id FROM images")}
    names = names_log.replay(log.records, images)
    pins = names_log.replay_pins(log.records, names, images)
    return names == store.tags() and pins == store.pins()


class _Check:
    """One check. Findings gather in order; which images they harm is worked out at the end."""

    def __init__(
        self,
        store: Store,
        files: dict[PackId, int],
        only: Sequence[ImageId],
        *,
        read_data: bool,
        progress: Progress,
    ) -> None:
        self._store = store
        self._files = files
        self._only = tuple(only)
        self._read_data = read_data
        self._progress = progress
        self._findings: list[Finding] = []
        self._bad_items: dict[bytes, list[int]] = {}
        self._dependents: set[bytes] = set()
        self._bases: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._missing_bases: set[bytes] = set()
        self._harmful: set[bytes] = set()
        self._passed_over: set[int] = set()
        self._unlisted: dict[bytes, PackId] = {}
        self._bad_layers: dict[int, set[DiffId]] = {}
        self._bad_files: dict[int, list[HarmedFile]] = {}
        self._chunks = 0
        self._bytes_read = 0
        self._longest = 0
        """Bytes of the longest chunk of content, as far as packs' tables were read."""

    def run(self) -> CheckReport:
        self._integrity()
        no_images: list[ImageRecord] = []
        images = self._listed(self._store.catalog.images, no_images)
        if self._only:
            images = [image for image in images if image.image_id in self._only]
        diff_ids = self._layers_of(images) if self._only else self._all_layers()
        packs = self._check_packs(self._needed_by(diff_ids) if self._only else None)
        for diff_id in diff_ids:
            self._check_layer(diff_id)
        blobs = self._check_images(images, set(diff_ids))
        if not self._only:
            self._check_names({image.image_id for image in images})
            self._check_access()
            self._check_config()
            if self._read_data:
                self._findings += scrub_objects(self._store, self._progress)
                self._findings += mounted_damage(self._store.paths, self._findings)
        self._pass_over_dead_differences()
        told = [index for index in range(len(self._findings)) if index not in self._passed_over]
        lost = {
            item for item, why in self._bad_items.items() if not self._passed_over.issuperset(why)
        }
        return CheckReport(
            tuple(self._explained(index, images) for index in told),
            self._read_data,
            packs,
            self._chunks,
            len(diff_ids),
            len(images),
            blobs,
            self._bytes_read,
            only=self._only,
            lost_items=frozenset(lost - self._dependents),
            dependent_items=frozenset(lost & self._dependents),
            harmed_layers=frozenset().union(*self._bad_layers.values()),
        )

    def _find(
        self, problem: Problem, where: str, digest: str, message: str, layer: DiffId | None = None
    ) -> None:
        if layer is not None:
            self._bad_layers.setdefault(len(self._findings), set()).add(layer)
        self._findings.append(Finding(problem, where, digest, message))

    def _add(self, harms: Iterable[Harm]) -> None:
        for harm in harms:
            if harm.finding.problem is Problem.BASE_DAMAGED:
                self._dependents.update(harm.items)
            for item_id in harm.items:
                self._bad_items.setdefault(item_id, []).append(len(self._findings))
            self._findings.append(harm.finding)

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

    # -- what to look at

    def _all_layers(self) -> list[DiffId]:
        rows = self._store.catalog.query("SELECT diff_id FROM layers ORDER BY diff_id")
        return [DiffId(Digest(str(name))) for (name,) in rows]

    def _layers_of(self, images: list[ImageRecord]) -> list[DiffId]:
        named = {d for image in images for d in (*image.layers, *self._origins_of(image).kept)}
        return [diff_id for diff_id in self._all_layers() if diff_id in named]

    def _origins_of(self, image: ImageRecord) -> Origins:
        """Return what is remembered of an image; nothing if its manifest is damaged."""
        try:
            return self._store.origins(image)
        except (IntegrityError, NotFoundError):
            return NO_ORIGINS

    def _needed_by(self, diff_ids: Iterable[DiffId]) -> set[bytes]:
        """Return the items that layers need, as far as their trees can be read."""
        needed: set[bytes] = set()
        for diff_id in diff_ids:
            with contextlib.suppress(IntegrityError, NotFoundError):
                record = self._store.layer(diff_id)
                needed |= self._own_items(record)
                needed |= layer_chunks(record, self._store.read_refs).keys()
        return needed | self._store.catalog.bases_of(needed)

    # -- packs

    def _check_packs(self, wanted: set[bytes] | None) -> int:
        """Check every pack in use, or those that hold ``wanted``; return how many."""
        catalog = self._store.catalog
        packs = catalog.pack_rows()
        looked_at = [pack for pack in packs if pack.retired is None]
        if wanted is not None:
            holding = {key.pack_id for key in catalog.places(wanted).values()}
            looked_at = [pack for pack in looked_at if pack.pack_id in holding]
        for number, block, base in catalog.base_rows():
            self._bases[number, block] = (*self._bases.get((number, block), ()), base)
        total = sum(pack.size for pack in looked_at) if self._read_data else len(looked_at)
        self._progress.start("reading packs", total)
        with ThreadPoolExecutor(READERS, "layerstore-check") as pool:
            pending: list[Future[PackResult]] = []
            for pack in looked_at:
                task = self._check_tables(pack, wanted)
                if task is not None and self._read_data:
                    pending.append(pool.submit(read_pack, task))
                # Tables wait in memory with their task: no more of them than are read soon.
                self._collect(pending, keep=READERS)
                self._progress.advance(pack.size if self._read_data else 1)
            self._collect(pending, keep=0)
        self._progress.finish()
        self._check_bases(wanted)
        if wanted is None:
            self._check_strays(packs)
            self._check_unknown(packs)
        return len(looked_at)

    def _collect(self, pending: list[Future[PackResult]], *, keep: int) -> None:
        while len(pending) > keep:
            result = pending.pop(0).result()
            self._add(result.harms)
            self._bytes_read += result.bytes_read

    def _check_tables(self, pack: PackRow, wanted: set[bytes] | None) -> PackTask | None:
        """Compare a pack's tables with the catalog; None when they cannot be read."""
        path = self._store.paths.pack(pack.pack_id)
        if pack.pack_id not in self._files:
            items = self._items_of(pack)
            missing = Problem.PACK_MISSING
            self._add([pack_harm(path, pack, "pack file is missing", items, missing)])
            return None
        try:
            blocks = open_tables(path, pack)
        except (FormatError, OSError) as err:
            self._add([pack_harm(path, pack, str(err), self._items_of(pack))])
            return None
        if not self._read_data:
            self._bytes_read += tables_bytes(blocks, pack)
        self._longest = max(self._longest, longest_of(blocks))
        here = self._compare(pack, blocks)
        prefix_of = partial(self._store.prefix_of, pack.pack_id.hex())
        return PackTask(path, pack, blocks, here, wanted, prefix_of)

    def _items_of(self, pack: PackRow) -> tuple[bytes, ...]:
        """Return the items that the catalog places in a pack; reads the whole index."""
        rows = self._store.catalog.query("SELECT id FROM chunks WHERE pack = ?", (pack.pack,))
        return tuple(row[0] for row in rows if isinstance(row[0], bytes))

    def _compare(self, pack: PackRow, blocks: list[Block]) -> frozenset[bytes]:
        """Compare a footer with the catalog's rows; return the items whose place is here."""
        catalog = self._store.catalog
        listed = {
            index: (b.offset, b.stored_length, b.raw_length, int(b.kind), b.bases, bool(b.bases))
            for index, b in enumerate(blocks)
        }
        # Depth and cost are the footer's of its time of writing, the catalog's of today; that
        # there is a depth tells readers to look for bases.
        stored = {
            number: (*row[2:6], self._bases.get((pack.pack, number), ()), bool(row.depth))
            for number, row in catalog.blocks_of(pack.pack_id).items()
        }
        here: set[bytes] = set()
        wrong: list[bytes] = []
        for index, block in enumerate(blocks):
            rows = catalog.chunk_places([item.item_id for item in block.items])
            offset = 0
            for item_id, length in block.items:
                row = rows.get(item_id)
                if row is None:
                    self._unlisted[item_id] = pack.pack_id
                elif row.pack == pack.pack:
                    right = row[2:] == (index, offset, length)
                    (here.add if right else wrong.append)(item_id)
                offset += length
        self._chunks += len(here) + len(wrong)
        if listed != stored or wrong:
            # What the footer does not list is not there: another file may lie in this one's place.
            wrong += sorted(set(self._items_of(pack)) - here - set(wrong))
            message = (
                f"the catalog's rows of pack {pack.pack_id.hex()} are not what its footer says: "
                f"{len(wrong)} chunks misplaced"
            )
            name = pack.pack_id.hex()
            finding = Finding(Problem.CATALOG_DIFFERS, "catalog.sqlite", name, message)
            self._add([Harm(finding, tuple(wrong))])
        return frozenset(here)

    def _tell_unlisted(self, needed: set[bytes]) -> None:
        """Find needed chunks that the catalog does not list although a pack has them.

        What nothing needs may be unlisted: two sessions stored it at once, and the pack
        that had its row is gone.
        """
        for pack_id in sorted({self._unlisted[i] for i in needed if i in self._unlisted}):
            lost = [i for i in needed if self._unlisted.get(i) == pack_id]
            for item_id in lost:
                del self._unlisted[item_id]  # told once, however many layers need it
            message = f"the catalog does not list {len(lost)} needed chunks of pack {pack_id.hex()}"
            self._find(Problem.CATALOG_DIFFERS, "catalog.sqlite", pack_id.hex(), message)

    def _check_bases(self, wanted: set[bytes] | None) -> None:
        """Find differences in use whose bases are missing or lie in what cannot be read."""
        missing = self._store.catalog.missing({b for bases in self._bases.values() for b in bases})
        self._missing_bases = missing
        harmed = True
        while harmed:  # a base may be a difference itself
            bad = missing | self._bad_items.keys()
            blocks = {key for key, bases in self._bases.items() if not bad.isdisjoint(bases)}
            harmed = bool(blocks) and self._add_dependents(blocks, bad, wanted)

    def _add_dependents(
        self, blocks: set[tuple[int, int]], bad: set[bytes], wanted: set[bytes] | None
    ) -> bool:
        """Note the chunks of blocks whose bases are bad; return whether any is new."""
        items: dict[tuple[int, int], list[bytes]] = {}
        for row in self._store.catalog.scan_chunks():
            key = (row.pack, row.block)
            looked_at = wanted is None or row.chunk_id in wanted
            if key in blocks and row.chunk_id not in bad and looked_at:
                items.setdefault(key, []).append(row.chunk_id)
        for (pack, block), ids in sorted(items.items()):
            lost = sorted(bad & set(self._bases[pack, block]))
            where = f"pack number {pack}, block {block}"
            message = (
                f"it holds {len(ids)} chunks as differences against {len(lost)} that are lost, "
                f"one is {lost[0].hex()}"
            )
            self._add([Harm(Finding(Problem.BASE_DAMAGED, where, "", message), tuple(ids))])
        gone = self._store.catalog.missing({b for key in items for b in self._bases[key]})
        for item_id in sorted(gone - self._bad_items.keys()):
            finding = Finding(
                Problem.CHUNK_MISSING, "catalog.sqlite", item_id.hex(), "chunk is in no pack"
            )
            self._add([Harm(finding, (item_id,))])
        return bool(items)

    def _pass_over_dead_differences(self) -> None:
        """Forget that differences have lost their bases where no layer needs them.

        Ordinary gc does that: it keeps bases of living blocks only. What a layer needs
        that cannot be read might be any of them, so then all are told.
        """
        if any(finding.problem in _NEEDS_UNKNOWN for finding in self._findings):
            needed = set(self._bad_items)
        else:
            needed = self._harmful | self._store.catalog.bases_of(self._harmful)
        self._tell_unlisted(self._missing_bases & needed)
        told = {index for item_id in needed for index in self._bad_items.get(item_id, ())}
        self._passed_over = {
            index
            for index, finding in enumerate(self._findings)
            if finding.problem in _OF_BASES and index not in told
        }

    def _check_strays(self, packs: list[PackRow]) -> None:
        """Find rows of the chunk index that no footer of a pack in use has."""
        row = self._store.catalog.one("SELECT count(*) FROM chunks")
        total = row[0] if row is not None and isinstance(row[0], int) else 0
        if total == self._chunks:
            return
        in_use = {pack.pack: pack for pack in packs if pack.retired is None}
        strays = [
            chunk.chunk_id
            for chunk in self._store.catalog.scan_chunks()
            if chunk.pack not in in_use
        ]
        self._chunks = total
        if strays:
            message = f"{len(strays)} chunks are listed in packs that are not in use"
            finding = Finding(Problem.CATALOG_DIFFERS, "catalog.sqlite", "", message)
            self._add([Harm(finding, tuple(strays))])

    def _check_unknown(self, packs: list[PackRow]) -> None:
        known = {row.pack_id for row in packs}
        for pack_id in self._files:
            if pack_id not in known:
                self._find(
                    Problem.UNKNOWN_FILE,
                    self._store.paths.pack(pack_id),
                    pack_id.hex(),
                    "pack is in no catalog row: left over from an interrupted command",
                )

    # -- layers, images, names

    def _own_items(self, record: LayerRecord) -> set[bytes]:
        """Return the items of a layer's record, tree and recipe."""
        own: set[bytes] = {chunk_id for _, chunk_id in record.tree + record.recipe}
        row = self._store.catalog.one(
            "SELECT item FROM layers WHERE diff_id = ?", (record.diff_id,)
        )
        if row is not None and isinstance(row[0], bytes):
            own.add(row[0])
        return own

    def _check_layer(self, diff_id: DiffId) -> None:
        """Check one layer of the catalog; what harms its items harms it."""
        try:
            record = self._store.layer(diff_id)
        except (IntegrityError, NotFoundError) as err:
            self._find(
                Problem.CATALOG_DIFFERS, "catalog.sqlite", diff_id, err.message, layer=diff_id
            )
            return
        where = f"layer {diff_id}"
        needed = self._own_items(record)
        try:
            needed |= layer_chunks(record, self._store.read_refs).keys()
        except (IntegrityError, NotFoundError) as err:
            message = f"its tree cannot be read: {err.message}"
            self._find(Problem.LAYER_DAMAGED, where, diff_id, message, layer=diff_id)
        missing = self._store.catalog.missing(needed)
        self._tell_unlisted(missing)
        for item_id in sorted(missing):
            finding = Finding(Problem.CHUNK_MISSING, where, item_id.hex(), "chunk is in no pack")
            self._add([Harm(finding, (item_id,))])
        self._note_harm(record, needed & self._bad_items.keys())

    def _note_harm(self, record: LayerRecord, bad: set[bytes]) -> None:
        """Remember for every finding that it harms this layer, and which files of it."""
        if not bad:
            return
        self._harmful |= bad
        for item_id in bad:
            for index in self._bad_items[item_id]:
                self._bad_layers.setdefault(index, set()).add(record.diff_id)
        with contextlib.suppress(IntegrityError, NotFoundError):
            changeset = decode_changeset(self._store.read_refs(record.tree))
            for path, items in paths_with(changeset, bad):
                file = HarmedFile(record.diff_id, os.fsdecode(path))
                for index in sorted({index for i in items for index in self._bad_items[i]}):
                    self._bad_files.setdefault(index, []).append(file)

    def _check_images(self, images: list[ImageRecord], layers: set[DiffId]) -> int:
        for image in images:
            origins = self._origins_of(image)
            for digest in (Digest(image.image_id), image.manifest_digest, *origins.documents):
                try:
                    self._store.get_blob(digest)
                except BlobNotFoundError as err:
                    self._add_image(Problem.BLOB_MISSING, image, digest, err.message)
                except LayerstoreError as err:
                    self._add_image(Problem.BLOB_DAMAGED, image, digest, err.message)
            for diff_id in (*image.layers, *origins.kept):
                if diff_id not in layers:
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
        for tag in sorted({n.partition("@")[0] for n in tags if is_index_name(n)} & tags.keys()):
            try:
                named_index(self._store, tag)
            except IntegrityError as err:
                self._find(Problem.BLOB_MISSING, f"name {tag}", tags[tag], err.message)
            except NotFoundError:
                pass  # its image, told above
        path = self._store.paths.names_log
        log = names_log_content(self._store)
        if log.unreadable:
            self._find(
                Problem.NAMES_LOG_DAMAGED, path, "", f"{log.unreadable} lines cannot be read"
            )
        if not self._listed(lambda: _log_agrees(self._store, log), False):
            self._find(
                Problem.NAMES_LOG_DIFFERS, path, "", "the log and the catalog disagree on names"
            )

    def _check_access(self) -> None:
        shared = self._store.config.shared
        wrong = list(access_mismatches(self._store.paths, shared=shared))
        if wrong:
            whom = "the group it is shared with" if shared else "its owner"
            message = (
                f"{len(wrong)} files or directories are not open to {whom} alone; one has mode "
                f"{wrong[0].mode:04o}, expected {wrong[0].wanted:04o}"
            )
            self._find(Problem.ACCESS_DIFFERS, wrong[0].path, "", message)

    def _check_config(self) -> None:
        config = self._store.config
        message = wrong_format(config, self._store.catalog.version)
        if message:
            self._find(Problem.FORMAT_DIFFERS, self._store.paths.config, "", message)
        message = strange_cuts(config, self._longest)
        if message:
            self._find(Problem.CUTS_STRANGE, self._store.paths.config, "", message)

    # -- who is harmed

    def _explained(self, index: int, images: list[ImageRecord]) -> Finding:
        """Return a finding with the images and files that it harms."""
        finding = self._findings[index]
        layers = self._bad_layers.get(index)
        if layers is None:
            return finding
        harmed = tuple(
            image.image_id
            for image in images
            if not layers.isdisjoint((*image.layers, *self._origins_of(image).kept))
        )
        return finding._replace(images=harmed, files=tuple(self._bad_files.get(index, ())))
