"""config.toml: the store's format version, its feature flags and frozen parameters.

Written once, when a store is made; its publication is what makes a directory a
store. Normative: docs/format/store.md.
"""

from __future__ import annotations

import os
import stat
import tomllib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.chunking import cutter
from layerstore.errors import (
    FormatError,
    NotFoundError,
    UnsafeContentError,
    UnsupportedVersionError,
)
from layerstore.linux.files import publish_bytes, read_file, remove_if_present
from layerstore.linux.locks import exclusive
from layerstore.store.catalog import Catalog, make_store_directories
from layerstore.store.failures import (
    ReadOnlyStoreError,
    StoreExistsError,
    storage_error,
    storage_errors,
)
from layerstore.store.paths import DIRECTORIES, StorePaths

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION = 1
CONFIG_MAX_BYTES = 64 * 1024
_WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

KNOWN_INCOMPATIBLE: frozenset[str] = frozenset()
KNOWN_READ_ONLY_COMPATIBLE: frozenset[str] = frozenset()

_TEMPLATE = f"""\
# A layerstore store. Written once when the store was made; do not edit.
# docs/format/store.md says what everything here means.

[store]
format = {FORMAT_VERSION}

[features]
incompatible = []
read_only_compatible = []
compatible = []

[chunking]
algorithm = "fastcdc-2020"
whole_max_bytes = {cutter.WHOLE_MAX_BYTES}
min_bytes = {cutter.CUT_MIN_BYTES}
average_bytes = {cutter.CUT_AVERAGE_BYTES}
max_bytes = {cutter.CUT_MAX_BYTES}
normalization = {cutter.NORMALIZATION}
"""


class StoreNotFoundError(NotFoundError):
    """There is no store where one was expected."""


class ExposedStoreError(UnsafeContentError):
    """Others than the store's owner may write it."""


class StoreConfig(NamedTuple):
    """What config.toml says, as far as this version cares.

    Attributes:
        writable: False when a read-only-compatible feature is unknown to us.
    """

    format: int
    writable: bool


def parse_config(data: bytes) -> StoreConfig:
    """Return the meaning of a config.toml.

    Raises:
        UnsupportedVersionError: The store needs a newer layerstore.
        FormatError: Not a store's config.
    """
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as err:
        raise FormatError(f"config.toml is damaged: {err}") from err
    version = _table(document, "store").get("format")
    if not isinstance(version, int) or version < 1:
        raise FormatError("config.toml names no store format")
    if version > FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"the store has format {version}, this layerstore knows up to {FORMAT_VERSION}",
            hint="use the newer layerstore that made this store",
        )
    features = _table(document, "features")
    unknown = _flags(features, "incompatible") - KNOWN_INCOMPATIBLE
    if unknown:
        raise UnsupportedVersionError(
            f"the store uses features unknown to this layerstore: {', '.join(sorted(unknown))}",
            hint="use the newer layerstore that made this store",
        )
    read_only = _flags(features, "read_only_compatible") - KNOWN_READ_ONLY_COMPATIBLE
    _check_chunking(_table(document, "chunking"))
    return StoreConfig(version, not read_only)


def _table(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = document.get(name)
    if not isinstance(table, dict):
        raise FormatError(f"config.toml has no [{name}]")
    return table


def _flags(features: Mapping[str, object], name: str) -> set[str]:
    flags = features.get(name)
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise FormatError(f"config.toml has no list features.{name}")
    return set(flags)


def _check_chunking(table: Mapping[str, object]) -> None:
    """Refuse parameters other than ours: other cuts would silently lose all sharing."""
    ours = _table(tomllib.loads(_TEMPLATE), "chunking")
    different = sorted(key for key, value in ours.items() if table.get(key) != value)
    if different:
        raise UnsupportedVersionError(
            f"the store cuts content with other parameters: {', '.join(different)}",
            hint="use the newer layerstore that made this store",
        )


def load_config(paths: StorePaths) -> StoreConfig:
    """Read and check the config of an existing store.

    Raises:
        StoreNotFoundError: No store there.
        FormatError: There is one, but parts of it are missing.
    """
    try:
        data = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise _absent(paths) from err
    except OSError as err:
        if err.errno is None:
            raise FormatError(f"config.toml is damaged: {err}") from err
        raise storage_error(err, "read the store's config") from err
    config = parse_config(data)
    refuse_exposed(paths)
    lost = [name for name in DIRECTORIES if not os.path.isdir(f"{paths.root}/{name}")]
    if lost:
        raise FormatError(
            f"the store {paths.root} lacks {', '.join(lost)}: it was not wholly copied or mounted",
            hint="restore the missing directories from where the store came from",
        )
    return config


def refuse_exposed(paths: StorePaths) -> None:
    """Refuse a store that its group or everybody may write: what it holds could be anybody's.

    The one place that looks at the store's permissions, as ssh looks at those of keys.
    Who may reach the root decides: below it everything is private anyway.

    Raises:
        ExposedStoreError: Names the mode; the hint is the command that mends it.
    """
    mode = stat.S_IMODE(os.stat(paths.root).st_mode)
    if mode & _WRITE_BY_OTHERS:
        raise ExposedStoreError(
            f"others may write the store {paths.root}: it has mode {mode:04o}, expected 0700",
            hint=f"chmod 700 {paths.root}",
        )


def _absent(paths: StorePaths) -> Exception:
    if os.path.isdir(paths.packs) and os.listdir(paths.packs):
        return FormatError(
            f"{paths.root} holds packs but no config.toml: it was not wholly copied",
            hint="restore config.toml from where the store came from",
        )
    return StoreNotFoundError(
        f"no store at {paths.root}",
        hint="'layerstore bootstrap', 'import' or 'build' makes one; --store chooses another place",
    )


def create_store(paths: StorePaths) -> None:
    """Make a store, or finish one whose making was interrupted; harmless if it exists.

    Raises:
        StoreExistsError: The directory holds something else.
        StorageError: It cannot be written.
    """
    _refuse_foreign_directory(paths)
    with storage_errors(f"make the store {paths.root}"):
        os.makedirs(os.path.dirname(paths.root) or "/", exist_ok=True)
        make_store_directories(paths)
        with exclusive(paths.catalog_lock):
            if os.path.exists(paths.config):
                return
            Catalog.create(paths).close()
            staging = paths.temporary("create", str(os.getpid()))
            remove_if_present(staging)
            publish_bytes(_TEMPLATE.encode(), staging=staging, target=paths.config)


def _refuse_foreign_directory(paths: StorePaths) -> None:
    try:
        present = set(os.listdir(paths.root))
    except FileNotFoundError:
        return
    except OSError as err:
        raise storage_error(err, f"make the store {paths.root}") from err
    ours = {name.partition("/")[0] for name in DIRECTORIES}
    ours |= {"catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "lost+found"}
    foreign = sorted(present - ours)
    if foreign and "config.toml" not in present:
        raise StoreExistsError(
            f"{paths.root} is not empty and not a store: it holds {foreign[0]!r}",
            hint="choose an empty or new directory with --store",
        )
    if "config.toml" not in present and os.path.isdir(paths.packs) and os.listdir(paths.packs):
        raise _absent(paths)


def require_writable(config: StoreConfig) -> None:
    """Refuse to write a store that a newer layerstore lets us only read.

    Raises:
        ReadOnlyStoreError: It is one.
    """
    if not config.writable:
        raise ReadOnlyStoreError(
            "the store uses features that this layerstore may only read",
            hint="use the newer layerstore that made this store",
        )
