"""Why something is kept, and what would let it go: ``gc --explain``.

Everything is read from one pinned state. An image is kept by names, pins, views and
running commands; a layer by images, views, commands and build steps; a pack by the
layers whose items live in it, and by what collecting it would cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest, ImageId, PackId
from layerstore.errors import NotFoundError
from layerstore.formats.reference import PREFIX_MIN_HEX, ReferenceSyntaxError
from layerstore.store.collect.item_table import ItemTable
from layerstore.store.collect.marks import Marks, Roots, find_roots, view_roots
from layerstore.store.collect.received import is_received
from layerstore.store.collect.resting import PREFIX
from layerstore.store.failures import ImageNotFoundError
from layerstore.store.locks.leases import live_leases
from layerstore.store.names.names import AmbiguousIdError
from layerstore.store.names.usage import step_uses
from layerstore.store.records import decode_layer
from layerstore.store.references import layer_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.store.catalog.rows import ImageRecord, PackRow
    from layerstore.store.collect.marks import ViewRoots
    from layerstore.store.store import Store


class Reason(NamedTuple):
    """One thing that keeps something, and the command that takes it away ("" if none does)."""

    why: str
    remedy: str


class LayerKept(NamedTuple):
    """A layer with everything that keeps it."""

    diff_id: DiffId
    reasons: tuple[Reason, ...]


class PackKept(NamedTuple):
    """A pack that holds something of what was asked for.

    Attributes:
        living: Stored bytes of its items that anything needs.
        own: Stored bytes of its items that what was asked for needs.
        alone: Whether nothing else keeps the pack: it would go with it.
    """

    pack_id: PackId
    size: int
    living: int
    own: int
    alone: bool


class Explanation(NamedTuple):
    """The answer.

    Attributes:
        kind: ``image``, ``layer`` or ``pack``.
        what: Its id.
        reasons: What keeps it directly; nothing means that the next gc takes it.
        layers: Of an image, its layers; of a pack, those that have items in it.
        packs: Where its items are.
    """

    kind: str
    what: str
    reasons: tuple[Reason, ...]
    layers: tuple[LayerKept, ...]
    packs: tuple[PackKept, ...]


def explain(store: Store, reference: str) -> Explanation:
    """Return why an image (by name or id), a layer or a pack (by the beginning of its id) is kept.

    Raises:
        NotFoundError: Nothing is called that.
    """
    views = view_roots(store.paths)
    with store.catalog.pinned() as catalog:
        view = store.with_catalog(catalog)
        try:
            return _Explainer(view, views).answer(reference)
        finally:
            view.reader.close()


class _Explainer:
    """One question."""

    def __init__(self, store: Store, views: ViewRoots) -> None:
        self._store = store
        self._views = views
        self._table = ItemTable.load(store.catalog)
        self._images = store.images()
        self._of_image, self._of_layer = _all_reasons(store, views, self._images)

    def answer(self, reference: str) -> Explanation:
        try:
            image = self._store.resolve(reference)
        except (ImageNotFoundError, ReferenceSyntaxError):
            return self._layer_or_pack(reference)
        reasons = self._of_image.get(image.image_id, [])
        layers = tuple(LayerKept(d, tuple(self._reasons_of(d))) for d in image.layers)
        without = Marks(self._table.clone())
        roots = find_roots(self._store, self._views, keep_cache=True)
        roots.images.pop(image.image_id, None)
        without.add(self._store, roots)
        packs = self._packs(image.layers, without.table)
        return Explanation("image", image.image_id, tuple(reasons), layers, packs)

    def _layer_or_pack(self, reference: str) -> Explanation:
        digits = reference.removeprefix("sha256:")
        if len(digits) >= PREFIX_MIN_HEX:
            rows = self._store.catalog.query("SELECT diff_id FROM layers ORDER BY diff_id")
            layers = [str(name) for (name,) in rows if str(name).startswith(f"sha256:{digits}")]
            packs = [row.pack_id.hex().startswith(digits) for row in self._table.packs]
            if len(layers) + sum(packs) > 1:
                raise AmbiguousIdError(
                    f"several layers or packs have an id that begins with {reference!r}",
                    hint="give more digits of the id",
                )
            if layers:
                return self._layer(DiffId(Digest(layers[0])))
            if any(packs):
                index = packs.index(True)
                return self._pack(index, self._table.packs[index])
        raise NotFoundError(
            f"no image, layer or pack {reference!r} in the store",
            hint="'layerstore images' and 'layerstore inspect' list images and layers",
        )

    def _layer(self, diff_id: DiffId) -> Explanation:
        without = Marks(self._table.clone())
        roots = find_roots(self._store, self._views, keep_cache=True)
        others = {
            image.image_id
            for image in self._images
            if diff_id not in (*image.layers, *self._store.origins(image).kept)
        }
        roots.layers.pop(diff_id, None)
        kept = {i: why for i, why in roots.images.items() if i in others}
        without.add(self._store, Roots(kept, roots.layers, []))
        packs = self._packs([diff_id], without.table)
        return Explanation("layer", diff_id, tuple(self._reasons_of(diff_id)), (), packs)

    def _pack(self, index: int, row: PackRow) -> Explanation:
        full = self._everything()
        ids = {item.item_id for b in self._store.reader.footer(row.pack_id) for item in b.items}
        here = {item_id for item_id in ids if full.is_marked_in(item_id, index)}
        layers = []
        for diff_id, needed in self._needs():
            if not here.isdisjoint(needed):
                layers.append(LayerKept(diff_id, tuple(self._reasons_of(diff_id))))
        living = round(full.living_share(index))
        reasons = [Reason(f"{len(here)} of its {len(ids)} items are needed", "")] if here else []
        if row.lease is not None:
            reasons.append(Reason("a running command writes it", ""))
        own = PackKept(row.pack_id, row.size, living, living, alone=True)
        return Explanation("pack", row.pack_id.hex(), tuple(reasons), tuple(layers), (own,))

    def _everything(self) -> ItemTable:
        marks = Marks(self._table.clone())
        marks.add(self._store, find_roots(self._store, self._views, keep_cache=True))
        return marks.table

    def _needs(self) -> Iterator[tuple[DiffId, set[bytes]]]:
        """Yield every layer with all items it needs, what those are differences against too."""
        for name, item, record in self._store.catalog.query(
            "SELECT diff_id, item, record FROM layers ORDER BY diff_id"
        ):
            assert isinstance(item, bytes)
            assert isinstance(record, bytes)
            chunks = layer_chunks(decode_layer(record), self._store.read_refs)
            needed: set[bytes] = {*chunks, item}
            yield DiffId(Digest(str(name))), needed | self._store.catalog.bases_of(needed)

    def _packs(self, layers: Iterable[DiffId], without: ItemTable) -> tuple[PackKept, ...]:
        full = self._everything()
        own = Marks(self._table.clone())
        own.add(self._store, Roots({}, dict.fromkeys(layers, "the question"), []))
        return tuple(
            PackKept(
                row.pack_id,
                row.size,
                round(full.living_share(index)),
                round(own.table.living_share(index)),
                alone=not without.marked[index],
            )
            for index, row in enumerate(self._table.packs)
            if own.table.marked[index]
        )

    def _reasons_of(self, diff_id: DiffId) -> list[Reason]:
        found = list(self._of_layer.get(diff_id, []))
        for image in self._images:
            if diff_id in image.layers:
                found += self._of_image.get(image.image_id, [])
            if diff_id in self._store.origins(image).kept:
                remedy = f"layerstore originals drop {image.image_id}"
                found.append(Reason(f"a compressed original of image {image.image_id}", remedy))
        return found


def _all_reasons(
    store: Store, views: ViewRoots, stored: Iterable[ImageRecord]
) -> tuple[dict[ImageId, list[Reason]], dict[DiffId, list[Reason]]]:
    """Return everything that keeps each image and each layer directly."""
    images: dict[ImageId, list[Reason]] = {}
    layers: dict[DiffId, list[Reason]] = {}
    pinned = store.pins()
    for name, image_id in store.tags().items():
        remedy = f"layerstore rm {name}"
        if name in pinned:
            images.setdefault(image_id, []).append(
                Reason(f"name {name}, which is pinned", f"layerstore unpin {name}; {remedy}")
            )
        else:
            images.setdefault(image_id, []).append(Reason(f"name {name}", remedy))
    for image in stored:
        if image.image_id in pinned:
            images.setdefault(image.image_id, []).append(
                Reason("a pin on its id", f"layerstore unpin {image.image_id}")
            )
    for view in views.views:
        reason = Reason(
            f"view {view.name.removesuffix('.json')}",
            f"layerstore umount {view.name.removesuffix('.json')}",
        )
        if view.image_id is not None:
            images.setdefault(view.image_id, []).append(reason)
        for diff_id in view.layers:
            layers.setdefault(diff_id, []).append(reason)
    _add_lease_reasons(store, images, layers)
    uses = step_uses(store.catalog)
    for key, made in store.catalog.query(
        "SELECT key, diff_id FROM build_cache WHERE diff_id IS NOT NULL ORDER BY key"
    ):
        if str(key) in uses:
            layers.setdefault(DiffId(Digest(str(made))), []).append(
                Reason(_row_in_words(str(key)), "layerstore gc --all")
            )
    return images, layers


def _row_in_words(key: str) -> str:
    """Return what a row of the build cache is called."""
    if key.startswith(PREFIX):
        return "a cache mount at rest"
    return "a pull that did not end" if is_received(key) else f"build step {key[:12]}"


def _add_lease_reasons(
    store: Store, images: dict[ImageId, list[Reason]], layers: dict[DiffId, list[Reason]]
) -> None:
    living = {lease.lease_id: lease for lease in live_leases(store.catalog)}
    for lease_id, kind, held in store.catalog.query("SELECT lease, kind, id FROM lease_holds"):
        lease = living.get(str(lease_id))
        if lease is None:
            continue
        reason = Reason(f"running {lease.purpose!r} (process {lease.pid})", "")
        if kind == "image":
            images.setdefault(ImageId(Digest(str(held))), []).append(reason)
        else:
            layers.setdefault(DiffId(Digest(str(held))), []).append(reason)
