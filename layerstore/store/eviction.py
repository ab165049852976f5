"""Which unpacked files kernel views need, and removing the others.

A view's record names its layers, the sidecar of its chain lists the objects; instances over
packs have a list of their own, of those few that packs do not give. What no record leads to is
evictable, with metadata images of chains that no record has, and pack images that are mounted
nowhere. A record counts for as long as its file exists, as for gc. If a record or a list that is
needed cannot be read, nothing is evicted: an object that goes from under a view is an I/O error
in it.

Normative: docs/format/store.md, "Objects".
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, chain_id, hex_of, parse_digest
from layerstore.errors import FormatError, LayerstoreError
from layerstore.formats.sidecar import decode_sidecar
from layerstore.linux.files import read_file, remove_if_present
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.store.failures import storage_errors
from layerstore.store.marks import VIEW_RECORD_MAX_BYTES
from layerstore.store.objects import SIDECAR_MAX_BYTES, ObjectFile, object_sizes
from layerstore.store.paths import METADATA_SUFFIX, SIDECAR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Collection

    from layerstore.digest import ObjectId
    from layerstore.store.paths import StorePaths

_KERNEL = "kernel"
_KERNEL_PACKS = "kernel-packs"
_INSTANCE = "lower-"
_CHAIN_HEX = 32
"""Instances lie in directories named by so much of a chain's id."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Evictable(NamedTuple):
    """What no view needs.

    Attributes:
        objects: Files of the object tier.
        metadata: Paths of metadata and pack images, sidecars, and what killed writers left of
            them.
        size: Bytes of all of these, holes included.
        disk_size: Bytes that the file system allocated for them.
        kept: Objects that views need.
        doubt: Why nothing may be evicted, "" if it may.
    """

    objects: tuple[ObjectId, ...]
    metadata: tuple[str, ...]
    size: int
    disk_size: int
    kept: int
    doubt: str


def find_evictable(paths: StorePaths) -> Evictable:
    """Return what :func:`evict` would remove now; reads only."""
    found = object_sizes(paths)
    users, doubt = object_users(paths)
    if doubt:
        return Evictable((), (), 0, 0, len(found), doubt)
    unused = {name: file for name, file in found.items() if name not in users}
    loose = {
        **_loose_files(paths.metadata, _used_lists(paths).chains),
        **_loose_files(paths.pack_images, names_in(paths.pack_mounts)),
    }
    files = [*unused.values(), *loose.values()]
    return Evictable(
        tuple(sorted(unused)),
        tuple(sorted(loose)),
        sum(file.size for file in files),
        sum(file.disk_size for file in files),
        len(found) - len(unused),
        "",
    )


def evict(paths: StorePaths) -> Evictable:
    """Remove what no view needs; return what was removed.

    Removes nothing, and says so as its doubt, while a view is being made. May be killed
    at any instant.

    Raises:
        StorageError: Something could not be removed.
    """
    if not any(map(os.path.isdir, (paths.objects, paths.metadata, paths.pack_images))):
        return Evictable((), (), 0, 0, 0, "")
    try:
        with storage_errors("lock the objects"):
            lock = FileLock(paths.objects_lock, wait=False)
    except LockBusyError:
        return Evictable((), (), 0, 0, 0, "a view is being made")
    with lock, storage_errors("evict unpacked files"):
        found = find_evictable(paths)
        for path in found.metadata:
            remove_if_present(path)
        for name in found.objects:
            remove_if_present(paths.object(name))
        return found


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
            layers = [DiffId(parse_digest(text)) for text in record["layers"]]
            chain = hex_of(chain_id(layers))
            if record["backend"] == _KERNEL:
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
    """Return the list of an instance over packs, "" if it has none yet and so no mount either.

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
