"""Making config.toml again where it is damaged or gone.

All it says stands elsewhere, too: the format's version in the catalog, whether the store is open
to a group in the root's mode, the cuts in the lengths of what was cut. Features are named
although the store may not use them: that keeps out older writers at most.

Normative: docs/format/store.md, "config.toml".
"""

from __future__ import annotations

import contextlib
import os

from layerstore.chunking.cutter import DEFAULT_CUTS, CutParameters
from layerstore.errors import IntegrityError, NotFoundError, UnsupportedVersionError
from layerstore.formats.pack import ItemKind
from layerstore.linux.files import fsync_directory, is_shared, publish_bytes, remove_if_present
from layerstore.linux.locks import exclusive
from layerstore.store.catalog import Catalog
from layerstore.store.config import (
    FORMAT_VERSION,
    INDEXES,
    ORIGINS,
    SHARED_GROUP,
    ConfigDamagedError,
    load_config,
    new_config,
    with_feature,
)
from layerstore.store.failures import CatalogDamagedError, storage_errors
from layerstore.store.pack_reader import PackReader
from layerstore.store.paths import StorePaths
from layerstore.store.sweep import pack_files

_CUTS_OF_1 = CutParameters(256 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024, 2)
"""What stores of format 1 were made with, and have kept through an upgrade."""


def make_config_again(root: str, *, dry_run: bool = False) -> bool:
    """Give a store whose config.toml is damaged or gone one again; return whether it needed one.

    The damaged one goes to ``quarantine/``. May be killed at any instant and run again.

    Args:
        root: The store.
        dry_run: Change nothing.

    Raises:
        ConfigDamagedError: Of a dry run: nothing else can be foreseen without it.
        NotFoundError: No store there.
        UnsupportedVersionError: A newer layerstore made it.
        StorageError: It cannot be read or written.
    """
    paths = StorePaths(os.path.realpath(root))
    if not _is_damaged(paths):
        return False
    if dry_run:
        load_config(paths)
    with (
        storage_errors("make config.toml again"),
        exclusive(paths.gc_lock),
        exclusive(paths.catalog_lock),
    ):
        if not _is_damaged(paths):  # another repair was faster
            return True
        data = _config_of(paths)
        if os.path.lexists(paths.config):
            os.rename(paths.config, f"{paths.quarantine}/config.toml.{os.urandom(4).hex()}")
            fsync_directory(paths.quarantine)
        staging = paths.temporary("config", str(os.getpid()))
        remove_if_present(staging)
        publish_bytes(data, staging=staging, target=paths.config)
    return True


def _is_damaged(paths: StorePaths) -> bool:
    try:
        load_config(paths)
    except ConfigDamagedError:
        return True
    except UnsupportedVersionError as err:
        raise UnsupportedVersionError(
            err.message,
            hint=f"{err.hint}; if there was none, the file is damaged: move {paths.config} away "
            "and repair again, which makes another",
        ) from err
    return False


def _config_of(paths: StorePaths) -> bytes:
    version = _version(paths)
    data = new_config(version, _cuts(paths))
    features = (ORIGINS, INDEXES) if version == FORMAT_VERSION else ()
    for feature in (*features, *([SHARED_GROUP] if is_shared(paths.root) else [])):
        data = with_feature(data, feature)
    return data


def _version(paths: StorePaths) -> int:
    """Return the format that a store has; this one's if its catalog is to be made again, too."""
    try:
        with contextlib.closing(Catalog(paths)) as catalog:
            return catalog.version
    except (CatalogDamagedError, NotFoundError):
        return FORMAT_VERSION


def _cuts(paths: StorePaths) -> CutParameters:
    """Return where a store cuts: it is of those that were made with longer chunks if it has any."""
    reader = PackReader(paths)
    try:
        for pack_id, _ in pack_files(paths):
            with contextlib.suppress(IntegrityError, NotFoundError, FileNotFoundError):
                for block in reader.footer(pack_id):
                    longest = max((item.length for item in block.items), default=0)
                    if block.kind is ItemKind.DATA and longest > DEFAULT_CUTS.max_bytes:
                        return _CUTS_OF_1
    finally:
        reader.close()
    return DEFAULT_CUTS
