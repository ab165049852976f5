"""Files of a store that nothing accounts for: finding them, and removing them.

Retired packs whose time has come, pack files without a row (left by a crash
between naming and commit, or between a collection's commit and its unlinking),
blobs that no image names, and what dead leases left in ``tmp/`` and ``locks/``.
Packs and blobs are removed under the catalog lock, where they appear too.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import ID_BYTES, PackId
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.linux.files import fsync_directory, remove_if_present
from layerstore.linux.locks import is_held
from layerstore.linux.removal import remove_leftover, tree_size
from layerstore.store.blobs import blob_digests
from layerstore.store.failures import storage_errors
from layerstore.store.locks.leases import UNLISTED, is_lease_id, live_leases, lock_file_ids
from layerstore.store.locks.pacing import Pace, turns
from layerstore.store.names import names_log
from layerstore.store.names.tags import STAMP_ROWS, recorded_stamp
from layerstore.store.paths import LEASE_PREFIX, PACK_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from layerstore.digest import Digest
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store


_FILES_A_TURN = 16


class Leavings(NamedTuple):
    """Files to remove, with their bytes.

    Attributes:
        packs: Pack files without a row, and retired ones nobody can need.
        blobs: Manifests and configs of no image.
        temporary: Paths in ``tmp/`` of dead leases.
        size: Bytes of all of these.
        deferred_size: Bytes of retired packs that a living lease may still need.
    """

    packs: dict[PackId, int]
    blobs: dict[Digest, int]
    temporary: dict[str, int]
    size: int
    deferred_size: int


def dead_leases(catalog: Catalog) -> list[str]:
    """Return ids of leases whose holder is gone, whatever still speaks of them."""
    rows = catalog.query(
        "SELECT lease FROM leases UNION SELECT lease FROM packs WHERE lease IS NOT NULL"
    )
    known = {str(row[0]) for row in rows} | set(lock_file_ids(catalog.paths))
    return sorted(name for name in known if not is_held(catalog.paths.lease(name)))


def oldest_lease_epoch(catalog: Catalog, *, own_lease: str | None) -> int | None:
    """Return the epoch of the oldest living lease, or None when there is none.

    A living lease without a row (the catalog was rebuilt under it) counts as epoch 0. One that
    never has a row needs no retired pack, and does not count.
    """
    epochs = {lease.lease_id: lease.epoch for lease in live_leases(catalog)}
    for lease_id in lock_file_ids(catalog.paths):
        if lease_id in epochs or lease_id.startswith(UNLISTED):
            continue
        if is_held(catalog.paths.lease(lease_id)):
            epochs[lease_id] = 0
    if own_lease is not None:
        epochs.pop(own_lease, None)
    return min(epochs.values(), default=None)


def may_free(catalog: Catalog, *, own_lease: str | None) -> bool:
    """Return whether packs that are retired now could be unlinked at once."""
    return oldest_lease_epoch(catalog, own_lease=own_lease) is None


def find_leavings(store: Store, needed_blobs: Collection[str]) -> Leavings:
    """Return what :func:`remove_leavings` would remove once rows of dead things are gone."""
    oldest = oldest_lease_epoch(store.catalog, own_lease=None)
    kept: set[PackId] = set()
    deferred = 0
    for row in store.catalog.pack_rows():
        if row.retired is None:
            kept.add(row.pack_id)
        elif oldest is not None and row.retired > oldest:
            kept.add(row.pack_id)
            deferred += row.size
    packs: dict[PackId, int] = {}
    blobs: dict[Digest, int] = {}
    if not log_is_ahead(store):
        packs = {pack_id: size for pack_id, size in pack_files(store.paths) if pack_id not in kept}
        for digest in blob_digests(store.paths):
            if digest not in needed_blobs:
                blobs[digest] = _size(store.paths.blob(digest))
    temporary = dict(dead_temporaries(store.catalog, own_lease=None))
    size = sum(packs.values()) + sum(blobs.values()) + sum(temporary.values())
    return Leavings(packs, blobs, temporary, size, deferred)


def log_is_ahead(store: Store) -> bool:
    """Return whether names.log names an image whose config is stored but not in the catalog.

    Then the catalog may be an older copy, and files without rows may be somebody's
    only data: they are left alone until the index is rebuilt or the name is set anew.
    """
    if recorded_stamp(store.catalog.query(STAMP_ROWS)) == names_log.stamp(store.paths.names_log):
        return False
    records = names_log.read_log(store.paths.names_log).records
    known: set[str] = {image.image_id for image in store.images()}
    named = {record[2] for record in records if record[0] == names_log.TAG} - known
    stored: set[str] = set(blob_digests(store.paths))
    return not named.isdisjoint(stored)


def pack_files(paths: StorePaths) -> Iterator[tuple[PackId, int]]:
    """Yield id and size of every pack file, in order of id."""
    for prefix in sorted(os.listdir(paths.packs)):
        directory = f"{paths.packs}/{prefix}"
        if not os.path.isdir(directory):
            continue
        for name in sorted(os.listdir(directory)):
            pack_id = pack_id_of(name)
            if pack_id is not None and pack_id[:1].hex() == prefix:
                yield pack_id, _size(f"{directory}/{name}")


def pack_id_of(name: str) -> PackId | None:
    """Return the id that a pack's file name spells, or None if it is not one."""
    if not name.endswith(PACK_SUFFIX):
        return None
    text = name.removesuffix(PACK_SUFFIX)
    if len(text) != 2 * ID_BYTES or text != text.lower():
        return None
    try:
        return PackId(bytes.fromhex(text))
    except ValueError:
        return None


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def dead_temporaries(catalog: Catalog, *, own_lease: str | None) -> Iterator[tuple[str, int]]:
    """Yield paths in ``tmp/`` whose lease is not alive, with the bytes below them."""
    paths = catalog.paths
    for name in sorted(os.listdir(paths.tmp)):
        if not name.startswith(LEASE_PREFIX):
            continue
        lease_id = name.removeprefix(LEASE_PREFIX).partition(".")[0]
        if lease_id == own_lease or is_held(paths.lease(lease_id)):
            continue
        yield f"{paths.tmp}/{name}", tree_size(f"{paths.tmp}/{name}")


def remove_leavings(store: Store, *, own_lease: str | None) -> int:
    """Remove what nothing accounts for now; return its bytes.

    Files that came since they were listed are not touched: packs and blobs get their rows
    under the catalog lock, and are asked for there once more, a few at a time.
    """
    with storage_errors("remove garbage"):
        removed = _remove_dead_leases(store.catalog, own_lease)
        with store.catalog.locked():  # outside of it the log may be a line ahead of the catalog
            if log_is_ahead(store):
                return removed
        known = {row.pack_id for row in store.catalog.pack_rows()}
        orphans = [pack for pack in pack_files(store.paths) if pack[0] not in known]
        for some in turns(orphans, Pace(_FILES_A_TURN)):
            removed += _remove_packs(store, some)
        named = _named_blobs(store)
        nameless = [digest for digest in blob_digests(store.paths) if digest not in named]
        for digests in turns(nameless, Pace(_FILES_A_TURN)):
            removed += _remove_blobs(store, digests)
    return removed


def _remove_dead_leases(catalog: Catalog, own_lease: str | None) -> int:
    """Remove what dead leases left."""
    removed = 0
    for path, size in list(dead_temporaries(catalog, own_lease=own_lease)):
        lease_id = os.path.basename(path).removeprefix(LEASE_PREFIX).partition(".")[0]
        if is_lease_id(lease_id):
            remove_leftover(path)  # without a lock: its name is never used again
        else:
            # Never a lease's: who writes a manifest anew, say, has this lock while its file is
            # there, and may have had it when the names were listed.
            with catalog.locked():
                remove_leftover(path)
        removed += size - tree_size(path)  # what could not be removed is nobody's gain
    with catalog.locked():
        for lease_id in dead_leases(catalog):
            if lease_id != own_lease:
                remove_if_present(catalog.paths.lease(lease_id))
    return removed


def _remove_packs(store: Store, orphans: Iterable[tuple[PackId, int]]) -> int:
    removed = 0
    with store.catalog.locked():
        for pack_id, size in orphans:
            if store.catalog.one("SELECT 1 FROM packs WHERE id = ?", (pack_id,)) is None:
                store.reader.forget(pack_id)
                if remove_if_present(store.paths.pack(pack_id)):
                    removed += size
    for prefix in {pack_id[:1].hex() for pack_id, _ in orphans}:
        with contextlib.suppress(OSError):
            fsync_directory(f"{store.paths.packs}/{prefix}")
    return removed


def _remove_blobs(store: Store, digests: Iterable[Digest]) -> int:
    removed = 0
    with store.catalog.locked():
        named = _named_blobs(store)
        for digest in digests:
            path = store.paths.blob(digest)
            size = _size(path)
            if digest not in named and remove_if_present(path):
                removed += size
    return removed


def _named_blobs(store: Store) -> set[str]:
    """Return the configs and manifests of all images, and the documents they came under.

    All blobs, where a manifest cannot be read: it may name any.
    """
    named: set[str] = set()
    try:
        for image in store.images():
            named |= {image.image_id, image.manifest_digest, *store.origins(image).documents}
    except (IntegrityError, NotFoundError):
        return set(blob_digests(store.paths))
    return named


def retired_size(catalog: Catalog) -> int:
    """Return the bytes of packs that wait for living leases to end."""
    return sum(row.size for row in catalog.pack_rows() if row.retired is not None)
