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
from layerstore.store.leases import live_leases
from layerstore.store.records import decode_layer
from layerstore.store.references import layer_chunks

if TYPE_CHECKING:
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
        items: Ids of chunks and layer items.
        dangling: What is referenced but missing or unreadable, in words.
    """

    def __init__(self) -> None:
        self.images: set[ImageId] = set()
        self.layers: set[DiffId] = set()
        self.blobs: set[Digest] = set()
        self.items: set[bytes] = set()
        self.dangling: list[str] = []
        self._records: dict[DiffId, bytes] = {}

    def extend(self, store: Store, roots: Roots) -> set[bytes]:
        """Mark what ``roots`` reach and return the item ids that were not marked before."""
        before = len(self.items)
        fresh: set[bytes] = set()
        self.dangling.extend(roots.unreadable)
        self._mark_replaced(store, fresh)
        for image_id, why in sorted(roots.images.items()):
            self._image(store, image_id, why, fresh)
        for diff_id, why in sorted(roots.layers.items()):
            self._layer(store, diff_id, why, fresh)
        assert len(self.items) == before + len(fresh)
        return fresh

    def _mark_replaced(self, store: Store, fresh: set[bytes]) -> None:
        """Mark anew the layers whose record was replaced by another since they were marked.

        The same tar may be cut or described in another way: then it needs other chunks.
        """
        for diff_id, item_id in store.catalog.query("SELECT diff_id, item FROM layers"):
            layer = DiffId(Digest(str(diff_id)))
            if self._records.get(layer, item_id) != item_id:
                self.layers.discard(layer)
                self._layer(store, layer, "its name", fresh)

    def _image(self, store: Store, image_id: ImageId, why: str, fresh: set[bytes]) -> None:
        if image_id in self.images:
            return
        self.images.add(image_id)
        image = store.catalog.image(image_id)
        if image is None:
            self.dangling.append(f"{why} needs image {image_id}, which is missing")
            return
        for digest in (Digest(image_id), image.manifest_digest):
            self.blobs.add(digest)
            if not store.has_blob(digest):
                self.dangling.append(f"image {image_id} needs blob {digest}, which is missing")
        for diff_id in image.layers:
            self._layer(store, diff_id, f"image {image_id}", fresh)

    def _layer(self, store: Store, diff_id: DiffId, why: str, fresh: set[bytes]) -> None:
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
            needed: set[bytes] = {*layer_chunks(decode_layer(encoded), store.read_refs), item_id}
        except (IntegrityError, NotFoundError) as err:
            self.dangling.append(f"layer {diff_id} cannot be read: {err.message}")
            return
        new = needed - self.items
        missing = store.catalog.missing(new)
        if missing:
            self.dangling.append(
                f"layer {diff_id} needs {len(missing)} chunks that are missing, "
                f"one is {min(missing).hex()}"
            )
        self.items |= new
        fresh |= new


def find_roots(store: Store, *, keep_cache: bool) -> Roots:
    """Return the roots as they are now."""
    roots = Roots({}, {}, [])
    for name, image_id in store.catalog.tags().items():
        roots.images.setdefault(image_id, f"name {name}")
    if keep_cache:
        for (diff_id,) in store.catalog.query(
            # A step whose layer is gone is a miss for the builder, not a dangling root.
            "SELECT DISTINCT diff_id FROM build_cache WHERE diff_id IN (SELECT diff_id FROM layers)"
        ):
            roots.layers.setdefault(DiffId(Digest(str(diff_id))), "the build cache")
    _add_leases(store, roots)
    _add_views(store, roots)
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


# RecursionError: JSON nested deeper than Python's stack.
_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LayerstoreError,
)  # fmt: skip


def _add_views(store: Store, roots: Roots) -> None:
    """Add what mounted views show; a record counts for as long as its file exists."""
    for name in sorted(os.listdir(store.paths.views)):
        if not name.endswith(".json"):
            continue
        path = f"{store.paths.views}/{name}"
        try:
            document = json.loads(read_file(path, max_bytes=VIEW_RECORD_MAX_BYTES))
            image_id = document.get("image_id")
            layers = [DiffId(parse_digest(text)) for text in document["layers"]]
            image = ImageId(parse_digest(image_id)) if image_id else None
        except FileNotFoundError:
            continue  # unmounted between listing and reading
        except _UNREADABLE as err:
            roots.unreadable.append(f"view record {path} cannot be read: {err}")
            continue
        for diff_id in layers:
            roots.layers.setdefault(diff_id, f"view {name}")
        # The layers are what the view reads: an image that was removed as such is no damage.
        if image is not None and store.catalog.image(image) is not None:
            roots.images.setdefault(image, f"view {name}")
