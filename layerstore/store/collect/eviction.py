"""Which unpacked files kernel views need, and removing the others.

A view's record names its layers, the sidecar of its chain lists the objects; instances over
packs have a list of their own, of those few that packs do not give, and lazy views one of all
that their image has. What no record leads to is
evictable, with metadata images of chains that no record has, and pack images that are mounted
nowhere. A record counts for as long as its file exists, as for gc. If a record or a list that is
needed cannot be read, nothing is evicted: an object that goes from under a view is an I/O error
in it.

Rules (:class:`KeepUnpacked`) may let files stay that images needed lately. When that was is the
time of a chain's sidecar, set whenever a view of it is made or ends; of a pack image's, set when an
instance over packs is made. Rules decide about what no view needs, and about nothing else: a wrong
clock costs space or unpacking.

Normative: docs/format/store.md, "Objects".
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, PackId, chain_id, hex_of, parse_digest
from layerstore.errors import FormatError, LayerstoreError
from layerstore.formats.sidecar import decode_sidecar
from layerstore.linux.files import read_file, remove_if_present
from layerstore.linux.locks import FileLock, LockBusyError, is_held
from layerstore.linux.removal import remove_tree
from layerstore.store.collect.marks import VIEW_RECORD_MAX_BYTES
from layerstore.store.failures import storage_errors
from layerstore.store.names.usage import age_reference
from layerstore.store.objects.objects import ObjectFile, object_sizes
from layerstore.store.objects.tier import SIDECAR_MAX_BYTES
from layerstore.store.objects.whole_images import forget
from layerstore.store.paths import METADATA_SUFFIX, SIDECAR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from layerstore.digest import ObjectId
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.names.usage import Reference
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

_HELD_OFF = "a view is being made, or a build reads them"
_KERNEL = "kernel"
_KERNEL_PACKS = "kernel-packs"
_INSTANCE = "lower-"
_CHAIN_HEX = 32
"""Instances lie in directories named by so much of a chain's id."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class KeepUnpacked(NamedTuple):
    """Which files stay unpacked although no view needs them.

    Attributes:
        chains: Those of images that the store has; files of no such image go.
        within_s: An image's files stay that a view of it needed within so many seconds.
        max_bytes: Unless the tier would take more than this on disk: the longest unused go.
        reference: What ages are measured from.
    """

    chains: frozenset[str]
    within_s: float
    max_bytes: int | None
    reference: Reference


def keep_of_images(
    store: Store,
    images: Iterable[ImageRecord],
    within_s: float,
    max_bytes: int | None = None,
    *,
    trust: bool = False,
) -> KeepUnpacked:
    """Return the rule that keeps what some images needed lately.

    Args:
        store: The store.
        images: Those that stay in it.
        within_s: See :class:`KeepUnpacked`, as of the next.
        max_bytes: See there.
        trust: Believe the clock even if it seems to have jumped.
    """
    from layerstore.store.collect.selection import recorded_uses  # lazily: rules alone ask it

    uses = [*chain_uses(store.paths).values(), *recorded_uses(store)]
    return KeepUnpacked(
        frozenset(hex_of(chain_id(image.layers)) for image in images),
        within_s,
        max_bytes,
        age_reference(time.time(), uses, trust=trust),
    )


class Evictable(NamedTuple):
    """What no view needs, and no rule keeps.

    Attributes:
        objects: Files of the object tier.
        metadata: Paths of metadata and pack images, sidecars, and what killed writers left of
            them.
        size: Bytes of all of these, holes included.
        disk_size: Bytes that the file system allocated for them.
        kept: Objects that views need.
        doubt: Why nothing may be evicted, "" if it may.
        recent: Objects that only rules keep.
        recent_bytes: What these take on disk.
    """

    objects: tuple[ObjectId, ...]
    metadata: tuple[str, ...]
    size: int
    disk_size: int
    kept: int
    doubt: str
    recent: int = 0
    recent_bytes: int = 0


def find_evictable(
    paths: StorePaths,
    keep: KeepUnpacked | None = None,
    sizes: dict[ObjectId, ObjectFile] | None = None,
) -> Evictable:
    """Return what :func:`evict` would remove now; reads only.

    Args:
        paths: The store's.
        keep: What stays beside that which views need; None for nothing.
        sizes: All objects, of somebody who has looked at them already.
    """
    found = object_sizes(paths) if sizes is None else sizes
    users, doubt = object_users(paths)
    if doubt:
        return Evictable((), (), 0, 0, len(found), doubt)
    unused = {name: file for name, file in found.items() if name not in users}
    recent = _Recent(frozenset(), {})
    if keep is not None:
        needed = sum(file.disk_size for name, file in found.items() if name in users)
        recent = _find_recent(paths, keep, unused, needed)
        for name in recent.objects:
            del unused[name]
    loose = {
        **_loose_files(paths.metadata, _used_lists(paths).chains | recent.chains),
        **_loose_files(paths.pack_images, _used_pack_images(paths, keep)),
    }
    files = [*unused.values(), *loose.values()]
    return Evictable(
        tuple(sorted(unused)),
        tuple(sorted(loose)),
        sum(file.size for file in files),
        sum(file.disk_size for file in files),
        len(found) - len(unused) - len(recent.objects),
        "",
        len(recent.objects),
        sum(file.disk_size for file in recent.objects.values()),
    )


def evict(paths: StorePaths, keep: KeepUnpacked | None = None) -> Evictable:
    """Remove what no view needs and no rule keeps; return what was removed.

    Removes nothing, and says so as its doubt, while a view is being made or a build reads
    objects. May be killed at any instant.

    Args:
        paths: The store's.
        keep: See :func:`find_evictable`.

    Raises:
        StorageError: Something could not be removed.
    """
    _remove_dead_fetches(paths)
    if not any(map(os.path.isdir, (paths.objects, paths.metadata, paths.pack_images))):
        return Evictable((), (), 0, 0, 0, "")
    try:
        with storage_errors("lock the objects"):
            lock = FileLock(paths.objects_lock, wait=False)
    except LockBusyError:
        return Evictable((), (), 0, 0, 0, _HELD_OFF)
    with lock, storage_errors("evict unpacked files"):
        found = find_evictable(paths, keep)
        for path in found.metadata:
            remove_if_present(path)
        if found.objects:
            forget(paths)  # untrue as soon as one of them goes
        for name in found.objects:
            remove_if_present(paths.object(name))
        return found


def evict_damaged(paths: StorePaths, names: Collection[ObjectId]) -> int:
    """Remove those of some objects that no view needs; return how many went.

    The next view that needs one unpacks it anew. Removes none while a view is being made, or
    if what views need is in doubt.

    Raises:
        StorageError: Something could not be removed.
    """
    if not names:
        return 0
    try:
        with storage_errors("lock the objects"):
            lock = FileLock(paths.objects_lock, wait=False)
    except LockBusyError:
        return 0
    with lock, storage_errors("remove damaged unpacked files"):
        users, doubt = object_users(paths)
        if doubt:
            return 0
        return sum(remove_if_present(paths.object(name)) for name in names if name not in users)


class _Recent(NamedTuple):
    """What rules keep: chains, and those of their objects that no view needs."""

    chains: frozenset[str]
    objects: Mapping[ObjectId, ObjectFile]


def _find_recent(
    paths: StorePaths, keep: KeepUnpacked, unused: Mapping[ObjectId, ObjectFile], needed: int
) -> _Recent:
    """Return what stays by a rule: the chains used last, for as long as there is room.

    Args:
        paths: The store's.
        keep: The rules.
        unused: What no view needs.
        needed: What that takes on disk which views need.
    """
    chains: set[str] = set()
    objects: dict[ObjectId, ObjectFile] = {}
    uses = chain_uses(paths)
    for chain in sorted(uses, key=lambda chain: (-uses[chain], chain)):
        if chain not in keep.chains or keep.reference.age_of(uses[chain]) > keep.within_s:
            continue
        try:
            sidecar = decode_sidecar(
                read_file(paths.metadata_sidecar(chain), max_bytes=SIDECAR_MAX_BYTES)
            )
        except (OSError, FormatError):
            continue  # made anew with the next view
        more = {name: unused[name] for name in sidecar.objects - objects.keys() if name in unused}
        needed += sum(file.disk_size for file in more.values())
        if keep.max_bytes is not None and needed > keep.max_bytes:
            break  # and not a smaller one that was used before it: the last used stay
        chains.add(chain)
        objects.update(more)
    return _Recent(frozenset(chains), objects)


def _used_pack_images(paths: StorePaths, keep: KeepUnpacked | None) -> set[str]:
    """Return the names of pack images that are mounted, or that rules keep with their packs."""
    used = set(names_in(paths.pack_mounts))
    if keep is None:
        return used
    for name, seconds in _sidecar_times(paths.pack_images).items():
        with contextlib.suppress(ValueError):
            pack = paths.pack(PackId(bytes.fromhex(name.partition(".")[0])))
            if keep.reference.age_of(seconds) <= keep.within_s and os.path.lexists(pack):
                used.add(name)
    return used


def chain_uses(paths: StorePaths) -> dict[str, float]:
    """Return when a view of each chain with a sidecar was made or ended last, in seconds."""
    return _sidecar_times(paths.metadata)


def _sidecar_times(directory: str) -> dict[str, float]:
    times = {}
    for name in names_in(directory):
        stem, dot, suffix = name.rpartition(".")
        if dot + suffix == SIDECAR_SUFFIX:
            with contextlib.suppress(OSError):
                times[stem] = os.lstat(f"{directory}/{name}").st_mtime
    return times


def _remove_dead_fetches(paths: StorePaths) -> None:
    """Remove what lazy views had fetched and not passed on when their servers were killed."""
    for chain in names_in(paths.lowers):
        for instance in names_in(f"{paths.lowers}/{chain}"):
            directory = f"{paths.lowers}/{chain}/{instance}"
            if os.path.islink(directory) or is_held(f"{directory}/alive"):
                continue
            with storage_errors("remove what a lazy view left"):
                for name in ("staged", "partial"):  # made by a server that holds the lock
                    remove_tree(f"{directory}/{name}")


def object_users(paths: StorePaths) -> tuple[dict[ObjectId, list[str]], str]:
    """Return which views need each object, and why that may not be all of it, "" if it is."""
    used = _used_lists(paths)
    doubt = used.doubt
    users: dict[ObjectId, list[str]] = {}
    for path, targets in used.lists.items():
        try:
            sidecar = decode_sidecar(read_file(path, max_bytes=SIDECAR_MAX_BYTES))
        except (OSError, FormatError) as err:
            doubt = doubt or (
                f"the list of files that the view at {targets[0]} needs cannot be read: {err}"
            )
            continue
        for name in sidecar.objects:
            users.setdefault(name, targets)
    return users, doubt


class _Used(NamedTuple):
    """What records of views lead to.

    Attributes:
        lists: Paths of lists of objects, with the targets of the views that need these.
        chains: Chains whose metadata images views show.
        doubt: Why there may be more, "" if there is not.
    """

    lists: dict[str, list[str]]
    chains: set[str]
    doubt: str


def _used_lists(paths: StorePaths) -> _Used:
    """Return what views of the kernel's need."""
    lists: dict[str, list[str]] = {}
    chains: set[str] = set()
    doubt = ""
    for name in sorted(os.listdir(paths.views)):
        if not name.endswith(".json"):
            continue
        path = f"{paths.views}/{name}"
        try:
            record = json.loads(read_file(path, max_bytes=VIEW_RECORD_MAX_BYTES))
            if record.get("backend") not in (_KERNEL, _KERNEL_PACKS):
                continue
            if record.get("remote"):
                continue  # a lazy view: its instance's own record speaks for it
            layers = [DiffId(parse_digest(text)) for text in record["layers"]]
            lazy = record.get("lazy")  # an instance's, of an image that is not here
            chain = bytes.fromhex(lazy).hex() if lazy else hex_of(chain_id(layers))
            if record["backend"] == _KERNEL and not lazy:
                needed = paths.metadata_sidecar(chain)
            else:
                needed = _instance_list(paths, chain, name, record)
        except FileNotFoundError:
            continue  # unmounted between listing and reading
        except (*_UNREADABLE, LayerstoreError) as err:
            doubt = f"view record {path} cannot be read: {err}"
            continue
        chains.add(chain)
        if not needed:
            continue
        targets = lists.setdefault(needed, [])
        # An instance's own record stands for views that are being made or unmade.
        target = record.get("target")
        if isinstance(target, str):
            targets.insert(0, target)
        else:
            targets.append(name)
    return _Used(lists, chains, doubt)


def _instance_list(paths: StorePaths, chain: str, name: str, record: dict[str, object]) -> str:
    """Return an instance's own list, "" if it has none yet and so no mount either.

    Raises:
        TypeError: The record of a view does not say which instance it lies over.
    """
    if name.startswith(_INSTANCE):
        instance = name[len(_INSTANCE) : -len(".json")]
    else:
        lower = record["lower"]
        if not isinstance(lower, str):
            raise TypeError("it names no instance")
        instance = os.path.basename(lower)
    path = paths.instance_objects(chain[:_CHAIN_HEX], instance)
    return path if instance and os.path.lexists(path) else ""


def _loose_files(directory: str, used: Collection[str]) -> dict[str, ObjectFile]:
    """Return images and sidecars that are not among the used, and what is neither."""
    found = {}
    for name in names_in(directory):
        stem, dot, suffix = name.rpartition(".")
        if stem in used and dot + suffix in (METADATA_SUFFIX, SIDECAR_SUFFIX):
            continue
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(f"{directory}/{name}")
            found[f"{directory}/{name}"] = ObjectFile(status.st_size, status.st_blocks * 512)
    return found


def names_in(directory: str) -> list[str]:
    """Return the names in a directory, none if it is not there."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
