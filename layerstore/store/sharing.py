"""Opening a store to a group, and telling who may enter it.

A store is its owner's alone unless it was opened to a group. Then its directories have
the set-group-ID bit, so that the kernel gives everything made inside the group, and
:mod:`layerstore.linux.files` sees by that bit which modes to give; SQLite gives its log
the mode of its database. So nothing else needs to know whether a store is shared.

The conversion goes from the outside in, directories before files; then config.toml says
that the store is shared, and its root, which lets nobody in until then, is opened last. So
what a kill leaves is a store that its owner can use as before; doing it again finishes it.
Normative: docs/format/store.md, "Who may enter".
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import ConflictError
from layerstore.linux.files import (
    PRIVATE_DIR,
    PRIVATE_FILE,
    SHARED_DIR,
    SHARED_FILE,
    fsync_directory,
    publish_bytes,
    read_file,
    remove_if_present,
)
from layerstore.linux.locks import exclusive, is_held
from layerstore.store.config import (
    CONFIG_MAX_BYTES,
    SHARED_GROUP,
    load_config,
    require_writable,
    with_feature,
)
from layerstore.store.failures import storage_errors
from layerstore.store.locks.exclusion import alone
from layerstore.store.locks.leases import lock_file_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.paths import StorePaths

_OF_VIEWS = ("views", "uppers", "tmp")
"""What lies below these belongs to who mounted or builds; only they themselves are shared."""


_WRITERS = stat.S_IWGRP | stat.S_IWOTH


class StoreBusyError(ConflictError):
    """Somebody is at work in a store that has to stand still."""


class Mismatch(NamedTuple):
    """A file or directory that others may enter than the store says."""

    path: str
    mode: int
    wanted: int


def share_store(paths: StorePaths, group: int) -> None:
    """Open a store to the group with id ``group``; harmless when it is open to it already.

    Raises:
        StoreBusyError: A command is at work in the store, or views of it are mounted.
        GcRunningError: A gc, check or repair is at work.
        StorageError: Not the owner, or no member of the group.
    """
    require_writable(load_config(paths))
    with alone(paths), exclusive(paths.catalog_lock):
        _refuse_company(paths)
        with storage_errors("open the store to the group"):
            for path, is_directory in _tree(paths):
                if path != paths.root:
                    _open_to(group, path, SHARED_DIR if is_directory else SHARED_FILE)
            staging = paths.temporary("share", str(os.getpid()))
            remove_if_present(staging)
            config = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES)
            data = with_feature(config, SHARED_GROUP)
            publish_bytes(data, staging=staging, target=paths.config)
            # Published in a directory that is not open yet: it got a private file's mode.
            _open_to(group, paths.config, SHARED_FILE)
            _open_to(group, paths.root, SHARED_DIR)
            fsync_directory(paths.root)


def _open_to(group: int, path: str, mode: int) -> None:
    os.chown(path, -1, group, follow_symlinks=False)
    os.chmod(path, mode)


def _refuse_company(paths: StorePaths) -> None:
    """Refuse while files are being made that would get the old modes.

    The caller holds the catalog lock, under which every lease begins.
    """
    if any(is_held(paths.lease(lease_id)) for lease_id in lock_file_ids(paths)):
        raise StoreBusyError(
            "commands are at work in the store", hint="run it again when they have ended"
        )
    if any(name.endswith(".json") for name in os.listdir(paths.views)):
        raise StoreBusyError(
            "views of the store are mounted", hint="unmount them first: layerstore umount --all"
        )


def access_mismatches(paths: StorePaths, *, shared: bool) -> Iterator[Mismatch]:
    """Yield what others may enter than those whom the store is for.

    What vanishes meanwhile is passed over. Reads only.
    """
    group = os.stat(paths.root).st_gid
    for path, is_directory in _tree(paths):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(status.st_mode)
        if shared:
            wanted = SHARED_DIR if is_directory else SHARED_FILE
            right = mode == wanted and status.st_gid == group
        else:
            wanted = PRIVATE_DIR if is_directory else PRIVATE_FILE
            # Who made the root before there was a store may let others look at names.
            open_bits = _WRITERS if path == paths.root else stat.S_IRWXG | stat.S_IRWXO
            right = not mode & open_bits
        if not right:
            yield Mismatch(path, mode, wanted)


def _tree(paths: StorePaths) -> Iterator[tuple[str, bool]]:
    """Yield the store's directories from the outside in, then its files; True for directories."""
    yield paths.root, True
    folders = _folders(paths.root)
    for folder in (paths.packs, os.path.dirname(paths.blobs), paths.objects):
        folders += _folders(folder)
    for folder in folders:
        yield folder, True
    inner = [f for f in folders if os.path.basename(f) not in _OF_VIEWS]
    for folder in [paths.root, *inner]:
        for entry in _entries(folder):
            if entry.is_file(follow_symlinks=False):
                yield entry.path, False


def _folders(parent: str) -> list[str]:
    return [entry.path for entry in _entries(parent) if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
