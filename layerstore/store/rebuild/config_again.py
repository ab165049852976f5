"""Making config.toml again where it is damaged or gone, or says what cannot be.

All it says stands elsewhere, too: the format's version in the catalog, whether the store is open
to a group in the root's mode, the cuts in the lengths of what was cut. Features are named
although the store may not use them: that keeps out older writers at most.

Normative: docs/format/store.md, "config.toml".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from layerstore.chunking.cutter import DEFAULT_CUTS, CutParameters
from layerstore.errors import IntegrityError, NotFoundError, UnsupportedVersionError
from layerstore.formats.pack import ItemKind
from layerstore.linux.files import fsync_directory, is_shared, publish_bytes, remove_if_present
from layerstore.linux.locks import exclusive
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.catalog.replacing import catalog_alone
from layerstore.store.collect.sweep import pack_files
from layerstore.store.config import (
    FORMAT_VERSION,
    INDEXES,
    ORIGINS,
    SHARED_GROUP,
    ConfigDamagedError,
    StoreConfig,
    load_config,
    new_config,
    parse_config,
    with_feature,
)
from layerstore.store.failures import CatalogDamagedError, storage_errors
from layerstore.store.packs.pack_reader import PackReader
from layerstore.store.paths import StorePaths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.pack import Block

_CUTS_OF_1 = CutParameters(256 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024, 2)
"""What stores of format 1 were made with, and have kept through an upgrade."""

_CUTS = (DEFAULT_CUTS, _CUTS_OF_1)


def make_config_again(root: str) -> bool:
    """Give a store whose config.toml is damaged, wrong or gone one again; return whether it was.

    The damaged one goes to ``quarantine/``. May be killed at any instant and run again.

    Raises:
        NotFoundError: No store there.
        UnsupportedVersionError: A newer layerstore made it.
        StorageError: It cannot be read or written.
    """
    paths = StorePaths(os.path.realpath(root))
    if not _is_damaged(paths):
        return False
    with (
        storage_errors("make config.toml again"),
        exclusive(paths.gc_lock),
        catalog_alone(paths),
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


def foreseen_config(root: str) -> StoreConfig | None:
    """Return what :func:`make_config_again` would make a store's config; None if it is whole.

    Changes nothing.

    Raises:
        NotFoundError: No store there.
        UnsupportedVersionError: A newer layerstore made it.
    """
    paths = StorePaths(os.path.realpath(root))
    return parse_config(_config_of(paths)) if _is_damaged(paths) else None


def wrong_format(config: StoreConfig, version: int) -> str:
    """Return what is wrong with the format that a config names; "" for nothing.

    Args:
        config: Of a store.
        version: Of its catalog. An upgrade that was killed leaves the two apart, too.
    """
    if config.format == version:
        return ""
    return f"config.toml names format {config.format}, the catalog is one of format {version}"


def strange_cuts(config: StoreConfig, longest: int) -> str:
    """Return what is strange about where a config cuts; "" for nothing.

    Other parameters harm nothing that is there; what comes then shares less with it.

    Args:
        config: Of a store.
        longest: Bytes of the longest chunk of content in its packs.
    """
    cuts = config.cutting
    if cuts not in _CUTS:
        return f"config.toml cuts content as no layerstore makes a store do: {tuple(cuts)}"
    if longest > max(cuts.max_bytes, cuts.whole_max_bytes):
        return (
            f"config.toml cuts content after {cuts.max_bytes} bytes at most, and there is a chunk "
            f"of {longest}: it is another store's config, or the chunk came from another store"
        )
    return ""


def _is_wrong(paths: StorePaths, config: StoreConfig) -> bool:
    """Whether a config that can be read cannot be the store's."""
    if not config.writable:  # what a newer layerstore has made of it, only that can judge
        return False
    if config.cutting not in _CUTS:
        return True
    try:
        with contextlib.closing(Catalog(paths)) as catalog:
            return bool(wrong_format(config, catalog.version))
    except (CatalogDamagedError, NotFoundError):
        return False


def _is_damaged(paths: StorePaths) -> bool:
    try:
        return _is_wrong(paths, load_config(paths))
    except ConfigDamagedError:
        return True
    except UnsupportedVersionError as err:
        raise UnsupportedVersionError(
            err.message,
            hint=f"{err.hint}; if there was none, the file is damaged: move {paths.config} away "
            "and repair again, which makes another",
        ) from err


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
                if longest_of(reader.footer(pack_id)) > DEFAULT_CUTS.max_bytes:
                    return _CUTS_OF_1
    finally:
        reader.close()
    return DEFAULT_CUTS


def longest_of(blocks: Sequence[Block]) -> int:
    """Return the bytes of the longest chunk of content in some blocks; 0 for none."""
    items = (item for block in blocks if block.kind is ItemKind.DATA for item in block.items)
    return max((item.length for item in items), default=0)
