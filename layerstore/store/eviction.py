"""Which unpacked files kernel views need, and removing the others.

A view's record names its layers, the sidecar of its chain lists the objects: what no record
leads to is evictable, with metadata images of chains that no record has. A record counts
for as long as its file exists, as for gc. If a record or a sidecar that is needed cannot be
read, nothing is evicted: an object that goes from under a view is an I/O error in it.

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
    from layerstore.digest import ObjectId
    from layerstore.store.paths import StorePaths

_KERNEL = "kernel"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class Evictable(NamedTuple):
    """What no view needs.

    Attributes:
        objects: Files of the object tier.
        metadata: Paths of metadata images, sidecars, and what killed writers left of them.
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
    metadata = _metadata_files(paths)
    users, doubt = object_users(paths)
    if doubt:
        return Evictable((), (), 0, 0, len(found), doubt)
    chains = _used_chains(paths)[0]
    unused = {name: file for name, file in found.items() if name not in users}
    loose = {
        path: file
        for path, file in metadata.items()
        if os.path.basename(path).partition(".")[0] not in chains
        or not path.endswith((METADATA_SUFFIX, SIDECAR_SUFFIX))
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
    if not os.path.isdir(paths.objects) and not os.path.isdir(paths.metadata):
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
    chains, doubt = _used_chains(paths)
    users: dict[ObjectId, list[str]] = {}
    for chain, targets in chains.items():
        try:
            path = paths.metadata_sidecar(chain)
            sidecar = decode_sidecar(read_file(path, max_bytes=SIDECAR_MAX_BYTES))
        except (OSError, FormatError) as err:
            doubt = doubt or (
                f"the list of files that the view at {targets[0]} needs cannot be read: {err}"
            )
            continue
        for name in sidecar.objects:
            users.setdefault(name, targets)
    return users, doubt


def _used_chains(paths: StorePaths) -> tuple[dict[str, list[str]], str]:
    """Return the chains that views of the kernel's show, with their targets; and any doubt."""
    chains: dict[str, list[str]] = {}
    doubt = ""
    for name in sorted(os.listdir(paths.views)):
        if not name.endswith(".json"):
            continue
        path = f"{paths.views}/{name}"
        try:
            record = json.loads(read_file(path, max_bytes=VIEW_RECORD_MAX_BYTES))
            if record.get("backend") != _KERNEL:
                continue
            layers = [DiffId(parse_digest(text)) for text in record["layers"]]
        except FileNotFoundError:
            continue  # unmounted between listing and reading
        except (*_UNREADABLE, LayerstoreError) as err:
            doubt = f"view record {path} cannot be read: {err}"
            continue
        targets = chains.setdefault(hex_of(chain_id(layers)), [])
        # An instance's own record stands for views that are being made or unmade.
        target = record.get("target")
        if isinstance(target, str):
            targets.insert(0, target)
        else:
            targets.append(name)
    return chains, doubt


def _metadata_files(paths: StorePaths) -> dict[str, ObjectFile]:
    found = {}
    try:
        names = os.listdir(paths.metadata)
    except FileNotFoundError:
        return {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(f"{paths.metadata}/{name}")
            file = ObjectFile(status.st_size, status.st_blocks * 512)
            found[f"{paths.metadata}/{name}"] = file
    return found
