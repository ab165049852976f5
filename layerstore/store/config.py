"""config.toml: the store's format version, its feature flags and frozen parameters.

Written once, when a store is made; its publication is what makes a directory a
store. Normative: docs/format/store.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.chunking.cutter import CUT_MAX_BYTES, DEFAULT_CUTS, CutParameters
from layerstore.digest import sha256_digest
from layerstore.errors import (
    FormatError,
    NotFoundError,
    UnsafeContentError,
    UnsupportedVersionError,
)
from layerstore.linux.files import (
    PRIVATE_DIR,
    fsync_directory,
    is_shared,
    make_private_dir,
    publish_bytes,
    read_file,
    remove_if_present,
)
from layerstore.linux.locks import FileLock, exclusive
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.failures import (
    ReadOnlyStoreError,
    StoreExistsError,
    UpgradeNeededError,
    storage_error,
    storage_errors,
)
from layerstore.store.paths import DIRECTORIES, StorePaths
from layerstore.store.reserve import set_aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeGuard

    from layerstore.digest import Digest

FORMAT_VERSION = 2
CONFIG_MAX_BYTES = 64 * 1024
_MIN_CUT_BYTES = 64
_MIN_AVERAGE_BYTES = 256
_MIN_MAX_BYTES = 1024
_NORMALIZATIONS = 3
_WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

KNOWN_INCOMPATIBLE: frozenset[str] = frozenset()
SHARED_GROUP = "shared-group"
"""The store is open to a group: who does not know that would make files only they can read."""

ORIGINS = "origins"
"""Manifests remember how images came: who does not know that would collect what only they name."""

INDEXES = "indexes"
"""Names say what indexes have: who does not know that would let a tag go and keep the rest."""

KNOWN_READ_ONLY_COMPATIBLE: frozenset[str] = frozenset({SHARED_GROUP, ORIGINS, INDEXES})

ALGORITHM = "fastcdc-2020"

_TEMPLATE = """\
# A layerstore store. Written once when the store was made; do not edit.
# docs/format/store.md says what everything here means.

[store]
format = {version}

[features]
incompatible = []
read_only_compatible = []
compatible = []

[chunking]
algorithm = "{algorithm}"
digest = "{digest}"
whole_max_bytes = {cuts.whole_max_bytes}
min_bytes = {cuts.min_bytes}
average_bytes = {cuts.average_bytes}
max_bytes = {cuts.max_bytes}
normalization = {cuts.normalization}
"""


class StoreNotFoundError(NotFoundError):
    """There is no store where one was expected."""


class ConfigDamagedError(FormatError):
    """config.toml is missing or no config: repair can make it again from what the store holds."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="restore config.toml from where the store came from, or run 'layerstore repair', "
            "which makes it again from what the store holds",
        )


class ExposedStoreError(UnsafeContentError):
    """Others than the store's owner may write it."""


class StoreConfig(NamedTuple):
    """What config.toml says, as far as this version cares.

    Attributes:
        writable: False when a read-only-compatible feature is unknown to us.
        cutting: Where content is cut; the same for the store's whole life.
        shared: Whether the store is open to the group that owns its directories.
        origins: Whether manifests may remember how images came.
        indexes: Whether names may say what indexes have.
    """

    format: int
    writable: bool
    cutting: CutParameters
    shared: bool = False
    origins: bool = False
    indexes: bool = False


def parse_config(data: bytes) -> StoreConfig:
    """Return the meaning of a config.toml.

    Raises:
        UnsupportedVersionError: The store needs a newer layerstore.
        ConfigDamagedError: Not a store's config.
    """
    flags = _features_as_written(data)
    if flags is not None:
        return _config_of(FORMAT_VERSION, DEFAULT_CUTS, flags)
    import tomllib  # 5 ms, with what it imports

    try:
        document = tomllib.loads(data.decode())
    # ValueError: not TOML, not text, or a number of more digits than Python takes.
    except (ValueError, RecursionError) as err:
        raise ConfigDamagedError(f"config.toml is damaged: {err}") from err
    version = _table(document, "store").get("format")
    if not _is_number(version) or version < 1:
        raise ConfigDamagedError("config.toml is damaged: it names no store format")
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
    read_only = _flags(features, "read_only_compatible")
    return _config_of(version, _cutting(_table(document, "chunking")), read_only)


def _features_as_written(data: bytes) -> set[str] | None:
    """Return the features of a config that is to the byte as this version writes it, else None.

    As nearly all are: what parses TOML takes longer to import than all else of opening a store.
    """
    before, begin, rest = data.partition(b"read_only_compatible = [")
    listed, end, after = rest.partition(b"]\n")
    if before + begin + end + after != new_config():
        return None
    known = {f'"{flag}"'.encode(): flag for flag in KNOWN_READ_ONLY_COMPATIBLE}
    quoted = listed.split(b", ") if listed else []
    return {known[flag] for flag in quoted} if known.keys() >= set(quoted) else None


def _config_of(version: int, cuts: CutParameters, read_only: set[str]) -> StoreConfig:
    return StoreConfig(
        version,
        not read_only - KNOWN_READ_ONLY_COMPATIBLE,
        cuts,
        SHARED_GROUP in read_only,
        ORIGINS in read_only,
        INDEXES in read_only,
    )


def _is_number(value: object) -> TypeGuard[int]:
    """Return whether a value is a number that any version may write, and messages can name."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _table(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = document.get(name)
    if not isinstance(table, dict):
        raise ConfigDamagedError(f"config.toml is damaged: it has no [{name}]")
    return table


def new_config(version: int = FORMAT_VERSION, cuts: CutParameters = DEFAULT_CUTS) -> bytes:
    """Return the config.toml of a store without features."""
    digest = cuts_digest(cuts)
    return _TEMPLATE.format(version=version, algorithm=ALGORITHM, digest=digest, cuts=cuts).encode()


def cuts_digest(cuts: Iterable[int]) -> Digest:
    """Return the digest of cut parameters, which stay for a store's life.

    A number that became another one may be as usable, and would silently lose all sharing.
    """
    return sha256_digest(" ".join([ALGORITHM, *map(str, cuts)]).encode())


def with_feature(data: bytes, feature: str) -> bytes:
    """Return a config.toml that has a read-only-compatible feature more; all else stays.

    Raises:
        FormatError: It has no list of features as this version writes it.
    """
    import re
    import tomllib

    key = "read_only_compatible"
    flags = sorted(_flags(_table(tomllib.loads(data.decode()), "features"), key) | {feature})
    listed = ", ".join(f'"{flag}"' for flag in flags)
    text = re.sub(rf"(?m)^{key} *= *\[[^]]*\]", f"{key} = [{listed}]", data.decode(), count=1)
    if feature not in _flags(_table(tomllib.loads(text), "features"), key):
        raise FormatError("config.toml was edited: its features cannot be changed safely")
    return text.encode()


def add_features(paths: StorePaths, *features: str) -> None:
    """Let a store have read-only-compatible features from now on, durably.

    Waits for a running gc: one of an older layerstore, which knows nothing of them, may not
    begin after this.

    Raises:
        StorageError: The store cannot be written.
    """
    with (
        storage_errors("write the store's config"),
        exclusive(paths.gc_lock),
        exclusive(paths.catalog_lock),
    ):
        data = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES)
        for feature in features:
            data = with_feature(data, feature)
        staging = paths.temporary("features", str(os.getpid()))
        remove_if_present(staging)
        publish_bytes(data, staging=staging, target=paths.config)


def _flags(features: Mapping[str, object], name: str) -> set[str]:
    flags = features.get(name)
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ConfigDamagedError(f"config.toml is damaged: it has no list features.{name}")
    return set(flags)


def _cutting(table: Mapping[str, object]) -> CutParameters:
    """Return the store's cut parameters; others would silently lose all sharing."""
    if table.get("algorithm") != ALGORITHM:
        raise UnsupportedVersionError(
            f"the store cuts content by {table.get('algorithm')!r}, this layerstore knows "
            f"{ALGORITHM!r}",
            hint="use the newer layerstore that made this store",
        )
    numbers = [number for name in CutParameters._fields if _is_number(number := table.get(name))]
    if len(numbers) < len(CutParameters._fields):
        raise ConfigDamagedError("config.toml is damaged: [chunking] lacks a number")
    # Earlier versions wrote none.
    if "digest" in table and table["digest"] != cuts_digest(numbers):
        raise ConfigDamagedError(
            "config.toml is damaged: its digest is not that of the numbers in [chunking], "
            f"{numbers}"
        )
    if not all(0 < number <= CUT_MAX_BYTES for number in numbers):
        raise _unknown_cuts(numbers)
    cuts = CutParameters(*numbers)
    ordered = _MIN_CUT_BYTES <= cuts.min_bytes < cuts.average_bytes < cuts.max_bytes
    large = cuts.average_bytes >= _MIN_AVERAGE_BYTES and cuts.max_bytes >= _MIN_MAX_BYTES
    known = cuts.average_bytes.bit_count() == 1 and cuts.normalization <= _NORMALIZATIONS
    if not (ordered and large and known):
        raise _unknown_cuts(numbers)
    return cuts


def _unknown_cuts(numbers: list[int]) -> UnsupportedVersionError:
    return UnsupportedVersionError(
        f"the store cuts content with parameters this layerstore cannot use: {numbers}",
        hint="use the newer layerstore that made this store",
    )


def load_config(paths: StorePaths) -> StoreConfig:
    """Read and check the config of an existing store.

    Raises:
        StoreNotFoundError: No store there.
        ConfigDamagedError: There is one, but its config is damaged or missing.
        FormatError: Parts of it are missing.
    """
    try:
        data = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise _absent(paths) from err
    except OSError as err:
        if err.errno is None:
            raise ConfigDamagedError(f"config.toml is damaged: {err}") from err
        if err.errno == errno.ELOOP:
            raise ConfigDamagedError("config.toml is damaged: it is a symbolic link") from err
        raise storage_error(err, "read the store's config") from err
    config = parse_config(data)
    refuse_exposed(paths, shared=config.shared)
    lost = [name for name in DIRECTORIES if not os.path.isdir(f"{paths.root}/{name}")]
    if lost:
        raise FormatError(
            f"the store {paths.root} lacks {', '.join(lost)}: it was not wholly copied or mounted",
            hint="restore the missing directories from where the store came from",
        )
    return config


def refuse_exposed(paths: StorePaths, *, shared: bool) -> None:
    """Refuse a store that everybody may write, or its group unless it is shared with that.

    What it holds could be anybody's. The one place that looks at the store's permissions, as
    ssh looks at those of keys. Who may reach the root decides: below it everything is
    private anyway.

    Raises:
        ExposedStoreError: Names the mode; the hint is the command that mends it.
    """
    mode = stat.S_IMODE(os.stat(paths.root).st_mode)
    right = 0o2770 if shared else 0o700
    if mode & _WRITE_BY_OTHERS & ~right:
        raise ExposedStoreError(
            f"others may write the store {paths.root}: it has mode {mode:04o}, "
            f"expected {right:04o}",
            hint=f"chmod {right:o} {paths.root}",
        )


def _absent(paths: StorePaths) -> Exception:
    if holds_packs(paths):
        return ConfigDamagedError(f"{paths.root} holds packs but no config.toml")
    return StoreNotFoundError(
        f"no store at {paths.root}",
        hint="'layerstore bootstrap', 'import' or 'build' makes one; --store chooses another place",
    )


def holds_packs(paths: StorePaths) -> bool:
    """Whether a directory was a store: only those have packs."""
    return os.path.isdir(paths.packs) and bool(os.listdir(paths.packs))


def create_store(paths: StorePaths) -> None:
    """Make a store, or finish one whose making was interrupted; harmless if it exists.

    It is its owner's alone, wherever it is made: :mod:`layerstore.store.sharing` opens it.

    Raises:
        StoreExistsError: The directory holds something else.
        StorageError: It cannot be written.
    """
    _refuse_foreign_directory(paths)
    with storage_errors(f"make the store {paths.root}"):
        _make_parents(os.path.dirname(paths.root))
        _make_directories(paths)
        with exclusive(paths.catalog_lock):
            if os.path.exists(paths.config):
                return
            Catalog.create(paths).close()
            FileLock(paths.gc_lock, shared=True).close()  # gc and check need no inode for it later
            staging = paths.temporary("create", str(os.getpid()))
            remove_if_present(staging)
            publish_bytes(new_config(), staging=staging, target=paths.config)
    set_aside(paths)


def _make_parents(path: str) -> None:
    """Make the directories above a store that are not there, each name durable."""
    if path and not os.path.isdir(path):
        _make_parents(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
        fsync_directory(os.path.dirname(path) or ".")


def _make_directories(paths: StorePaths) -> None:
    """Make what is missing of a new store's directories, durably."""
    # Not even in a shared directory is a store shared before somebody says so.
    is_new = make_private_dir(paths.root, inherit=False)
    if not is_new and is_shared(paths.root) and not os.path.exists(paths.config):
        os.chmod(paths.root, PRIVATE_DIR)
    for name in DIRECTORIES:
        path = f"{paths.root}/{name}"
        if not make_private_dir(path):  # whose maker may have been killed before it was on disk
            fsync_directory(os.path.dirname(path))


def _refuse_foreign_directory(paths: StorePaths) -> None:
    try:
        present = set(os.listdir(paths.root))
    except FileNotFoundError:
        return
    except OSError as err:
        raise storage_error(err, f"make the store {paths.root}") from err
    ours = {name.partition("/")[0] for name in DIRECTORIES}
    # A making that was killed leaves any of SQLite's files: before WAL mode, a journal.
    ours |= {f"catalog.sqlite{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}
    ours.add("lost+found")
    foreign = sorted(present - ours)
    if "config.toml" in present:
        return
    if holds_packs(paths):
        raise _absent(paths)
    if foreign:
        raise StoreExistsError(
            f"{paths.root} is not empty and not a store: it holds {foreign[0]!r}",
            hint="choose an empty or new directory with --store",
        )


def require_writable(config: StoreConfig) -> None:
    """Refuse to write a store that a newer layerstore lets us only read, or an older one made.

    Raises:
        ReadOnlyStoreError: It is one.
    """
    if config.format < FORMAT_VERSION:
        raise UpgradeNeededError(config.format)
    if not config.writable:
        raise ReadOnlyStoreError(
            "the store uses features that this layerstore may only read",
            hint="use the newer layerstore that made this store",
        )
