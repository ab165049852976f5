"""The ledger: every byte on disk with its owner.

Two sums hold exactly, always, and :func:`assert_exact` checks them:

- the sizes of all parts add up to the sizes of all files under the store's root;
- those and the allocation slack (blocks beyond the files' ends, directories) add
  up to ``disk_size``, the bytes the host file system allocates, which is what
  ``du`` prints.

Bytes inside packs are divided by :mod:`layerstore.measure.attribution`; everything
else belongs to the area of the store it lies in.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import hex_of
from layerstore.formats.origins import NO_ORIGINS
from layerstore.measure.attribution import Attribution, Group, attribute
from layerstore.measure.inventory import ChunkReader, Inventory
from layerstore.measure.summary import take_summarised

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from layerstore.digest import DiffId, ImageId
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class Owner(enum.StrEnum):
    """Who or what a part of the disk belongs to, most useful first."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"
    ORIGINALS = "originals"
    METADATA = "image_metadata"
    BLOBS = "blobs"
    CACHE = "build_cache"
    HELD = "held"
    WRITABLE = "writable_layers"
    VOLUMES = "volumes"
    CONTAINERS = "containers"
    MOUNTS = "cache_mounts"
    RESTING = "cache_mounts_at_rest"
    OBJECTS = "unpacked_files"
    UNREFERENCED = "unreferenced"
    FRAMING = "pack_framing"
    CATALOG = "catalog"
    NAMES = "names_log"
    CONFIG = "config"
    RESERVE = "reserve"
    VIEWS = "views"
    LOCKS = "locks"
    WORK = "work_in_progress"
    QUARANTINE = "quarantine"
    SCANS = "remembered_scans"
    MEASURED = "remembered_sums"
    BUILDS = "records_of_builds"
    OTHER = "other"


LABELS = {
    Owner.EXCLUSIVE: "file contents of one image",
    Owner.SHARED: "file contents shared by images",
    Owner.ORIGINALS: "compressed originals of layers",
    Owner.METADATA: "trees, recipes and layer records",
    Owner.BLOBS: "image configs and manifests",
    Owner.CACHE: "build cache only",
    Owner.HELD: "in use by views or commands only",
    Owner.WRITABLE: "writable layers",
    Owner.VOLUMES: "volumes of containers",
    Owner.CONTAINERS: "records and logs of containers",
    Owner.MOUNTS: "cache mounts of builds",
    Owner.RESTING: "cache mounts at rest only",
    Owner.OBJECTS: "unpacked files for kernel views, a cache",
    Owner.UNREFERENCED: "unreferenced, for gc to free",
    Owner.FRAMING: "pack headers, padding and footers",
    Owner.CATALOG: "catalog",
    Owner.NAMES: "log of names",
    Owner.CONFIG: "store config",
    Owner.RESERVE: "set aside for gc on a full disk",
    Owner.VIEWS: "state of mounted views",
    Owner.LOCKS: "locks",
    Owner.WORK: "work in progress",
    Owner.QUARANTINE: "quarantine",
    Owner.SCANS: "remembered scans",
    Owner.MEASURED: "remembered sums of df",
    Owner.BUILDS: "records of builds",
    Owner.OTHER: "other files",
}

_AREAS = {
    "uppers": Owner.WRITABLE,
    "volumes": Owner.VOLUMES,
    "containers": Owner.CONTAINERS,
    "cache-mounts": Owner.MOUNTS,
    "objects": Owner.OBJECTS,
    "views": Owner.VIEWS,
    "locks": Owner.LOCKS,
    "tmp": Owner.WORK,
    "quarantine": Owner.QUARANTINE,
    "scans": Owner.SCANS,
    "measured": Owner.MEASURED,
    "builds": Owner.BUILDS,
    "catalog.sqlite": Owner.CATALOG,
    "catalog.sqlite-wal": Owner.CATALOG,
    "catalog.sqlite-shm": Owner.CATALOG,
    "catalog.rebuilt": Owner.CATALOG,
    "names.log": Owner.NAMES,
    "config.toml": Owner.CONFIG,
    "reserve": Owner.RESERVE,
}


class Part(msgspec.Struct, frozen=True):
    """Bytes of one owner; a part of nothing is left out of a ledger."""

    owner: Owner
    size: int

    @property
    def label(self) -> str:
        """What people read."""
        return LABELS[self.owner]


class ImageShare(msgspec.Struct, frozen=True):
    """What one named image has in the store, metadata included.

    Attributes:
        exclusive_size: Stored bytes that no other named image needs.
        shared_size: Stored bytes that other named images need as well.
        freed_size: What becomes unreferenced when the image loses its names: its exclusive
            bytes without those that the build cache, a view or a command needs.
    """

    image_id: str
    names: tuple[str, ...]
    exclusive_size: int
    shared_size: int
    freed_size: int


class WritableLayer(msgspec.Struct, frozen=True):
    """One writable layer: a directory below ``uppers/``."""

    name: str
    size: int
    disk_size: int


class Ledger(msgspec.Struct, frozen=True):
    """Every byte of a store.

    Attributes:
        parts: Bytes of files by owner, most useful first.
        file_size: Sum of the parts, and of the sizes of all files.
        slack: Blocks allocated beyond the files' ends, and directories; negative when a
            sparse file outweighs them.
        disk_size: Bytes the host file system allocates.
        images: Named images, oldest first.
        unreadable_layers: Layers whose trees are damaged: what only they need counts as
            unreferenced, although gc will refuse to free it.
        unpacked_disk_size: What is allocated of ``disk_size`` for unpacked files and what is
            made with them.
        cache_mounts_disk_size: What is allocated of ``disk_size`` for directories of cache mounts.
    """

    parts: tuple[Part, ...]
    file_size: int
    slack: int
    disk_size: int
    images: tuple[ImageShare, ...]
    writable: tuple[WritableLayer, ...]
    unreadable_layers: tuple[str, ...] = ()
    unpacked_disk_size: int = 0
    cache_mounts_disk_size: int = 0

    def size_of(self, owner: Owner) -> int:
        """Return the bytes of one owner, 0 when it has none."""
        return sum(part.size for part in self.parts if part.owner is owner)


class Census:
    """Classifies groups of items by the named images, cache entries and holders behind them."""

    def __init__(self, inventory: Inventory, among: Iterable[ImageRecord] | None = None) -> None:
        """Classify by the named images, or by those ``among`` them that count."""
        self._cache = inventory.cache_layers
        self._held = inventory.held_layers
        self._resting = frozenset(inventory.resting.values())
        self._images: dict[DiffId, set[ImageId]] = {}
        self._originals: set[DiffId] = set()
        for image in inventory.tagged() if among is None else among:
            for diff_id in image.layers:
                self._images.setdefault(diff_id, set()).add(image.image_id)
            origins = inventory.origins.get(image.image_id, NO_ORIGINS)
            for diff_id in origins.kept:
                self._images.setdefault(diff_id, set()).add(image.image_id)
                self._originals.add(diff_id)

    def images(self, group: Group) -> frozenset[ImageId]:
        """Return the named images that need a group."""
        return frozenset().union(*(self._images.get(diff_id, ()) for diff_id in group.layers))

    def is_original(self, group: Group) -> bool:
        """Return whether a group lies in compressed originals that are kept, and nowhere else."""
        return self._originals.issuperset(group.layers)

    def others(self, group: Group) -> Owner | None:
        """Return what beside images keeps a group alive: a holder, the cache, a cache mount."""
        if not self._held.isdisjoint(group.layers):
            return Owner.HELD
        if not self._cache.isdisjoint(group.layers):
            return Owner.CACHE
        return Owner.RESTING if not self._resting.isdisjoint(group.layers) else None


def ledger_of(
    inventory: Inventory,
    attribution: Attribution,
    census: Census | None = None,
    *,
    with_images: bool = True,
) -> Ledger:
    """Account for every file of an inventory; ``images`` are left out unless they are wanted."""
    census = census or Census(inventory)
    sizes = dict.fromkeys(Owner, 0)
    for group in attribution.groups:
        _add_group(sizes, group, census)
    lost = attribution.dead + attribution.retired + attribution.unknown
    sizes[Owner.UNREFERENCED] += lost
    sizes[Owner.FRAMING] += attribution.framing
    blobs = _blob_owners(inventory)
    allocated = dict.fromkeys(Owner, 0)
    for file in inventory.files:
        if not file.path.startswith("packs/"):
            owner = _area_of(file.path, blobs)
            sizes[owner] += file.apparent_size
            allocated[owner] += file.allocated_size
    file_size = sum(file.apparent_size for file in inventory.files)
    disk_size = sum(file.allocated_size for file in inventory.files)
    return Ledger(
        parts=tuple(Part(owner, size) for owner, size in sizes.items() if size),
        file_size=file_size,
        slack=disk_size - file_size,
        disk_size=disk_size,
        images=_image_shares(inventory, attribution, census) if with_images else (),
        writable=_writable(inventory),
        unpacked_disk_size=allocated[Owner.OBJECTS],
        cache_mounts_disk_size=allocated[Owner.MOUNTS],
    )


def assert_exact(ledger: Ledger) -> None:
    """Check that the ledger adds up; an AssertionError here is a bug of layerstore."""
    total = sum(part.size for part in ledger.parts)
    if total != ledger.file_size:
        raise AssertionError(f"parts add up to {total} bytes, files to {ledger.file_size}")
    if ledger.file_size + ledger.slack != ledger.disk_size:
        raise AssertionError("files and slack do not add up to the bytes on disk")
    if min((part.size for part in ledger.parts), default=0) < 0:
        raise AssertionError("a part of the ledger is negative")


def take_ledger(
    store: Store, inventory: Inventory | None = None, *, with_images: bool = True
) -> Ledger:
    """Return the ledger of a store as it is now, or as it was when ``inventory`` was taken.

    Args:
        store: The store.
        inventory: Of it.
        with_images: Whether to say what each image has, too.

    Raises:
        IntegrityError: The catalog or a layer's record is damaged. A damaged tree is not
            an error: see ``unreadable_layers``.
        StorageError: The store cannot be read.
    """
    inventory = take_summarised(store) if inventory is None else inventory
    reader = ChunkReader(store, inventory)
    ledger = ledger_of(inventory, attribute(inventory, reader), with_images=with_images)
    assert_exact(ledger)
    unreadable = dict.fromkeys((*inventory.unreadable, *reader.unreadable))
    return msgspec.structs.replace(ledger, unreadable_layers=tuple(unreadable))


def _add_group(sizes: dict[Owner, int], group: Group, census: Census) -> None:
    images = census.images(group)
    if not images:
        sizes[census.others(group) or Owner.UNREFERENCED] += group.stored
        return
    owner = Owner.EXCLUSIVE if len(images) == 1 else Owner.SHARED
    sizes[Owner.ORIGINALS if census.is_original(group) else owner] += group.data_stored
    sizes[Owner.METADATA] += group.meta_stored


def blob_sizes(inventory: Inventory) -> dict[str, int]:
    """Return the bytes on disk of every config and manifest that an image names, by digest."""
    files = {file.path: file.apparent_size for file in inventory.files}
    return {
        digest: files.get(blob_path(digest), 0)
        for image in inventory.images
        for digest in blobs_of(inventory, image)
    }


def _blob_owners(inventory: Inventory) -> dict[str, Owner]:
    """Return the owner of each blob file that an image names; of several images the firmest."""
    owners: dict[str, Owner] = {}
    ranks = (Owner.UNREFERENCED, Owner.HELD, Owner.BLOBS)

    def rank(image: ImageRecord) -> int:
        return 2 if image.image_id in inventory.names else image.image_id in inventory.held_images

    for image in sorted(inventory.images, key=rank):
        owner = ranks[rank(image)]
        owners.update((blob_path(digest), owner) for digest in blobs_of(inventory, image))
    return owners


def blobs_of(inventory: Inventory, image: ImageRecord) -> tuple[str, ...]:
    """Return the digests of an image's config and manifest, and of what it came under."""
    origins = inventory.origins.get(image.image_id, NO_ORIGINS)
    return image.image_id, image.manifest_digest, *origins.documents


def blob_path(digest: str) -> str:
    """Return where a config, manifest or document lies, below the store's root."""
    return f"blobs/sha256/{hex_of(digest)}"


def _area_of(path: str, blobs: dict[str, Owner]) -> Owner:
    area = path.partition("/")[0]
    if area == "blobs":
        return blobs.get(path, Owner.UNREFERENCED)
    if area == "views" and path.startswith(("views/meta/", "views/packs/")):
        return Owner.OBJECTS  # made for them, and evicted with them
    return _AREAS.get(area, Owner.OTHER)


def _image_shares(
    inventory: Inventory, attribution: Attribution, census: Census
) -> tuple[ImageShare, ...]:
    images = inventory.tagged()
    exclusive = dict.fromkeys((image.image_id for image in images), 0)
    shared = dict(exclusive)
    freed = dict(exclusive)
    for owners, size, is_free in uses_of(inventory, attribution, census):
        alone = len(owners) == 1
        for image_id in owners:
            (exclusive if alone else shared)[image_id] += size
            freed[image_id] += size if alone and is_free else 0
    return tuple(
        ImageShare(
            image.image_id,
            inventory.names[image.image_id],
            exclusive[image.image_id],
            shared[image.image_id],
            freed[image.image_id],
        )
        for image in images
    )


def uses_of(
    inventory: Inventory, attribution: Attribution, census: Census
) -> Iterator[tuple[Collection[ImageId], int, bool]]:
    """Yield what named images need: which do, its bytes, and whether nothing else keeps it."""
    for group in attribution.groups:
        owners = census.images(group)
        if owners:
            yield owners, group.stored, census.others(group) is None
    sizes = blob_sizes(inventory)
    held = {
        digest
        for image in inventory.images
        if image.image_id in inventory.held_images
        for digest in blobs_of(inventory, image)
    }
    users: dict[str, list[ImageId]] = {}
    for image in inventory.tagged():
        for digest in dict.fromkeys(blobs_of(inventory, image)):
            users.setdefault(digest, []).append(image.image_id)
    for digest, owners_of_blob in users.items():
        yield owners_of_blob, sizes[digest], digest not in held


def _writable(inventory: Inventory) -> tuple[WritableLayer, ...]:
    sizes: dict[str, tuple[int, int]] = {}
    for file in inventory.files:
        area, _, rest = file.path.partition("/")
        if area == "uppers" and rest:
            name = rest.partition("/")[0]
            size, disk_size = sizes.get(name, (0, 0))
            sizes[name] = (size + file.apparent_size, disk_size + file.allocated_size)
    return tuple(WritableLayer(name, *pair) for name, pair in sorted(sizes.items()))
