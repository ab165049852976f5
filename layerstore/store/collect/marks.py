"""What a store must keep: roots, and everything reachable from them.

Roots are names, remembered build steps (unless told otherwise), what living
leases hold, and the records of mounted views. Marking reads trees; whatever is
reachable but not there is *dangling*, and gc refuses to delete anything then.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest, ImageId, parse_digest
from layerstore.errors import IntegrityError, LayerstoreError, NotFoundError
from layerstore.linux.files import read_file
from layerstore.linux.locks import is_held
from layerstore.store.blobs import blob_size
from layerstore.store.failures import DanglingReferenceError
from layerstore.store.locks.leases import live_leases
from layerstore.store.records import decode_layer
from layerstore.store.references import layer_chunks
from layerstore.store.remotes.remote_users import is_dead_user

if TYPE_CHECKING:
    from collections.abc import Collection

    from layerstore.digest import PackId
    from layerstore.store.collect.item_table import ItemTable
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

VIEW_RECORD_MAX_BYTES = 1024 * 1024


class Roots(NamedTuple):
    """Where marking begins.

    Attributes:
        images: Image id → why it is a root.
        layers: Diff id → why it is a root.
        unreadable: Root records that cannot be understood: nothing may be deleted.
    """

    images: dict[ImageId, str]
    layers: dict[DiffId, str]
    unreadable: list[str]


class Marks:
    """Everything reachable so far; grows by :meth:`extend`.

    Attributes:
        table: The chunk index as it was when marking began, with what is needed marked.
        dangling: What is referenced but missing or unreadable, in words.
    """

    def __init__(self, table: ItemTable) -> None:
        self.images: set[ImageId] = set()
        self.layers: set[DiffId] = set()
        self.blobs: set[Digest] = set()
        self.blob_bytes = 0
        self.table = table
        self.dangling: list[str] = []
        self._records: dict[DiffId, bytes] = {}
        self._manifests: dict[ImageId, Digest] = {}
        self._based: set[PackId] = set()

    def clone(self) -> Marks:
        """Return a copy that grows by itself."""
        other = Marks(self.table.clone())
        other.images, other.layers = set(self.images), set(self.layers)
        other.blobs, other.blob_bytes = set(self.blobs), self.blob_bytes
        other.dangling = list(self.dangling)
        other._records = dict(self._records)
        other._manifests = dict(self._manifests)
        other._based = set(self._based)
        return other

    def become(self, other: Marks) -> None:
        """Take over another's state; that one is not to be used any more."""
        self.__dict__.update(other.__dict__)

    def includes(self, roots: Roots) -> bool:
        """Return whether roots are marked already, so that marking them changes nothing."""
        return self.images.issuperset(roots.images) and self.layers.issuperset(roots.layers)

    def extend(self, store: Store, roots: Roots) -> None:
        """Mark what ``roots`` reach, and anew what was described anew since it was marked."""
        self._mark_replaced(store)
        self.add(store, roots)

    def add(self, store: Store, roots: Roots) -> None:
        """Mark what ``roots`` reach."""
        self.dangling.extend(roots.unreadable)
        for image_id, why in sorted(roots.images.items()):
            self._image(store, image_id, why)
        for diff_id, why in sorted(roots.layers.items()):
            self._layer(store, diff_id, why)
        self._bases(store)

    def _bases(self, store: Store) -> None:
        """Mark what living blocks are differences against, and all of who is still writing."""
        lacking: set[tuple[int, int]] = set()
        for row in store.catalog.pack_rows():
            if row.retired is not None or row.pack_id in self._based:
                continue
            if not self.table.holds(row):
                self._based.add(row.pack_id)
                lacking |= self._bases_of_later(store, row.pack)
            elif row.lease is not None and is_held(store.paths.lease(row.lease)):
                self._based.add(row.pack_id)
                self.table.keep_bases_of(row.pack)
        lacking |= self.table.mark_bases()
        if lacking:
            self._note_lost_bases(store, lacking)

    def _bases_of_later(self, store: Store, pack: int) -> set[tuple[int, int]]:
        """Mark the bases of a pack that came later: its blocks are in no table.

        Returns:
            Pack and block of those that are nowhere.
        """
        rows = store.catalog.query("SELECT block, id FROM bases WHERE pack = ?", (pack,))
        absent = self.table.mark({base for _, base in rows if isinstance(base, bytes)})
        missing = store.catalog.missing(absent)
        self.table.add_later(absent - missing)
        return {(pack, block) for block, base in rows if base in missing}  # type: ignore[misc]

    def _note_lost_bases(self, store: Store, lacking: set[tuple[int, int]]) -> None:
        """Note differences that need what is missing, as the catalog is now.

        Bases that gc took count for nothing while nothing needs the block: who is writing it,
        or has found something in it, takes them back when it publishes. Since the table was made
        they may have been taken back, and items may have been written anew elsewhere.
        """
        needed = {
            (row.pack, row.block)
            for row in store.catalog.scan_chunks()
            if (row.pack, row.block) in lacking and self.table.is_needed(row.chunk_id)
        }
        for pack, block in sorted(needed):
            missing = store.catalog.missing(store.catalog.bases(pack, block))
            if missing:
                self.dangling.append(
                    f"block {block} of pack number {pack} needs {len(missing)} missing chunks"
                )

    def refuse_dangling(self) -> None:
        """Raise if anything that is needed is missing.

        Raises:
            DanglingReferenceError: It is, and nothing may be deleted.
        """
        if self.dangling:
            more = f", and {len(self.dangling) - 1} more" if len(self.dangling) > 1 else ""
            raise DanglingReferenceError(
                f"gc deletes nothing while references dangle: {self.dangling[0]}{more}",
                hint="run 'layerstore check' to see what is harmed and what to do",
            )

    def _mark_replaced(self, store: Store) -> None:
        """Mark anew what was described anew since it was marked, and so needs other things.

        The same tar may be cut or described in another way, and an image may have come under
        one more manifest.
        """
        for image_id, digest in store.catalog.query("SELECT image_id, manifest_digest FROM images"):
            image = ImageId(Digest(str(image_id)))
            if self._manifests.get(image, digest) != digest:
                self.images.discard(image)
                self._image(store, image, "its name")
        for diff_id, item_id in store.catalog.query("SELECT diff_id, item FROM layers"):
            layer = DiffId(Digest(str(diff_id)))
            if self._records.get(layer, item_id) != item_id:
                self.layers.discard(layer)
                self._layer(store, layer, "its name")

    def _image(self, store: Store, image_id: ImageId, why: str) -> None:
        if image_id in self.images:
            return
        self.images.add(image_id)
        image = store.catalog.image(image_id)
        if image is None:
            self.dangling.append(f"{why} needs image {image_id}, which is missing")
            return
        self._manifests[image_id] = image.manifest_digest
        for digest in (Digest(image_id), image.manifest_digest):
            self._blob(store, digest, image_id)
        for diff_id in image.layers:
            self._layer(store, diff_id, f"image {image_id}")
        try:
            origins = store.origins(image)
        except (IntegrityError, NotFoundError) as err:
            # What it remembers is unknown, so nobody may say what can go.
            self.dangling.append(f"image {image_id} has an unreadable manifest: {err.message}")
            return
        for digest in origins.documents:
            self._blob(store, digest, image_id)
        for diff_id in origins.kept:
            self._layer(store, diff_id, f"an original of image {image_id}")

    def _blob(self, store: Store, digest: Digest, image_id: ImageId) -> None:
        if digest in self.blobs:
            return
        self.blobs.add(digest)
        size = blob_size(store.paths, digest)
        if size is None:
            self.dangling.append(f"image {image_id} needs blob {digest}, which is missing")
        self.blob_bytes += size or 0

    def _layer(self, store: Store, diff_id: DiffId, why: str) -> None:
        if diff_id in self.layers:
            return
        self.layers.add(diff_id)
        row = store.catalog.one("SELECT item, record FROM layers WHERE diff_id = ?", (diff_id,))
        if row is None:
            self.dangling.append(f"{why} needs layer {diff_id}, which is missing")
            return
        item_id, encoded = row
        assert isinstance(item_id, bytes)
        assert isinstance(encoded, bytes)
        self._records[diff_id] = item_id
        try:
            record = decode_layer(encoded)
            needed: set[bytes] = {*layer_chunks(record, store.read_refs, checked=False), item_id}
        except (IntegrityError, NotFoundError) as err:
            self.dangling.append(f"layer {diff_id} cannot be read: {err.message}")
            return
        self._require(store, needed, f"layer {diff_id}")

    def _require(self, store: Store, items: set[bytes], who: str) -> None:
        absent = self.table.mark(items)
        missing = store.catalog.missing(absent)
        self.table.add_later(absent - missing)
        if missing:
            self.dangling.append(
                f"{who} needs {len(missing)} chunks that are missing, one is {min(missing).hex()}"
            )


def find_roots(
    store: Store,
    views: ViewRoots,
    *,
    keep_cache: bool,
    without_names: Collection[str] = (),
    without_steps: Collection[str] = (),
    without_pins: Collection[str] = (),
) -> Roots:
    """Return the roots as they are now.

    Args:
        store: The store.
        views: What views show, read before the catalog was.
        keep_cache: Whether remembered build steps are roots.
        without_names: Names that do not count.
        without_steps: Keys of build steps that do not count.
        without_pins: Image ids whose pins do not count.
    """
    roots = Roots({}, {}, list(views.unreadable))
    for name, image_id in store.catalog.tags().items():
        # What an index has goes with its tag.
        if name not in without_names and name.partition("@")[0] not in without_names:
            roots.images.setdefault(image_id, f"name {name}")
    for target in store.pins().difference(without_pins):
        image = store.catalog.image(target)
        if image is not None:  # otherwise it is the pin of a name
            roots.images.setdefault(image.image_id, "its pin")
    if keep_cache:
        for key, diff_id in store.catalog.query(
            # A step whose layer is gone is a miss for the builder, not a dangling root.
            "SELECT key, diff_id FROM build_cache WHERE diff_id IN (SELECT diff_id FROM layers)"
        ):
            if key not in without_steps:
                roots.layers.setdefault(DiffId(Digest(str(diff_id))), "the build cache")
    _add_leases(store, roots)
    _add_views(store, views, roots)
    return roots


def _add_leases(store: Store, roots: Roots) -> None:
    living = {lease.lease_id: lease.purpose for lease in live_leases(store.catalog)}
    for lease_id, kind, held in store.catalog.query("SELECT lease, kind, id FROM lease_holds"):
        if str(lease_id) not in living:
            continue
        why = f"running {living[str(lease_id)]!r}"
        if kind == "image":
            roots.images.setdefault(ImageId(Digest(str(held))), why)
        else:
            roots.layers.setdefault(DiffId(Digest(str(held))), why)


def _add_views(store: Store, views: ViewRoots, roots: Roots) -> None:
    for view in views.views:
        for diff_id in view.layers:
            roots.layers.setdefault(diff_id, f"view {view.name}")
        # The layers are what the view reads: an image that was removed as such is no damage.
        if view.image_id is not None and store.catalog.image(view.image_id) is not None:
            roots.images.setdefault(view.image_id, f"view {view.name}")


class ViewRoot(NamedTuple):
    """What a mounted view's record says it needs."""

    name: str
    image_id: ImageId | None
    layers: tuple[DiffId, ...]


class ViewRoots(NamedTuple):
    """All records of views, and why some cannot be understood."""

    views: tuple[ViewRoot, ...]
    unreadable: tuple[str, ...]


# RecursionError: JSON nested deeper than Python's stack.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LayerstoreError,
)  # fmt: skip


def view_roots(paths: StorePaths) -> ViewRoots:
    """Return what mounted views show; a record counts for as long as its file exists."""
    views: list[ViewRoot] = []
    unreadable: list[str] = []
    for name in sorted(os.listdir(paths.views)):
        if not name.endswith(".json"):
            continue
        path = f"{paths.views}/{name}"
        if is_dead_user(path):
            continue
        try:
            document = json.loads(read_file(path, max_bytes=VIEW_RECORD_MAX_BYTES))
            image_id = document.get("image_id")
            layers = tuple(DiffId(parse_digest(text)) for text in document["layers"])
            image = ImageId(parse_digest(image_id)) if image_id else None
        except FileNotFoundError:
            continue  # unmounted between listing and reading
        except _UNREADABLE as err:
            unreadable.append(
                f"view record {path} cannot be read: {err} (layerstore umount "
                f"{name.removesuffix('.json')} gives it up)"
            )
            continue
        views.append(ViewRoot(name, image, layers))
    return ViewRoots(tuple(views), tuple(unreadable))
