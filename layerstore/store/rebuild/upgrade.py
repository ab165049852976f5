"""Bringing a store of an older format to this one, in place, and back again.

Packs, blobs and names.log stay as they are: this version reads what older ones wrote.
Only the catalog's tables and the number in config.toml change. The catalog changes in
one transaction, in the same file, so that servers of mounted views, which have it open,
go on reading. Order of an upgrade: the catalog, then config.toml; of an undo the other
way round. What lies between is read by this version and refused by older ones, and
running either again completes it. Normative: docs/format/changes.md.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import ConflictError, FormatError
from layerstore.formats.pack import HEADER, PLAIN_VERSION, decode_header
from layerstore.linux.files import publish_bytes, read_at, read_file, remove_if_present
from layerstore.linux.locks import is_held
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.catalog.replacing import catalog_alone
from layerstore.store.catalog.schema import (
    CATALOG_VERSION,
    CHANGED_IN_2,
    NEW_IN_2,
    SCHEMA,
    SCHEMA_1,
)
from layerstore.store.collect.sweep import pack_files
from layerstore.store.config import (
    CONFIG_MAX_BYTES,
    FORMAT_VERSION,
    load_config,
    parse_config,
)
from layerstore.store.failures import SQLITE_ERRORS, catalog_error, storage_errors
from layerstore.store.locks.exclusion import alone
from layerstore.store.locks.leases import lock_file_ids
from layerstore.store.names.pins import pins
from layerstore.store.packs.pack_reader import open_pack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import PackId
    from layerstore.store.paths import StorePaths

OLDEST_FORMAT = 1


class UpgradeReport(NamedTuple):
    """What an upgrade or its undoing did, or would do.

    Attributes:
        before: The format that config.toml named.
        after: The format it names then.
        catalog_before: The catalog's version before.
        catalog_after: And after.
    """

    before: int
    after: int
    catalog_before: int
    catalog_after: int

    @property
    def changed(self) -> bool:
        """Whether there is, or was, anything to do."""
        return (self.before, self.catalog_before) != (self.after, self.catalog_after)


class CannotUndoError(ConflictError):
    """The store holds what the older version could not read; nothing was changed."""


class StoreInUseError(ConflictError):
    """Commands are at work in the store; nothing was changed."""


def upgrade(paths: StorePaths, *, dry_run: bool = False) -> UpgradeReport:
    """Bring a store to this version's format, durably; harmless when it has it.

    Raises:
        StoreInUseError: A command is at work in the store.
        GcRunningError: So is a gc, check or repair.
        UnsupportedVersionError: The store is newer than this layerstore.
        CatalogDamagedError: It must be made again first; the hint says how.
    """
    config = load_config(paths)
    report = UpgradeReport(config.format, FORMAT_VERSION, _version(paths), CATALOG_VERSION)
    if dry_run or not report.changed:
        return report
    with _standing_still(paths), storage_errors("upgrade the store"):
        _change_catalog(paths, CATALOG_VERSION, _UPWARDS)
        _name_format(paths, FORMAT_VERSION)
    return report


def undo_upgrade(paths: StorePaths, *, dry_run: bool = False) -> UpgradeReport:
    """Bring a store back to the format before this one, as long as it can be read there.

    Raises:
        CannotUndoError: It holds what that version cannot read; the message names it.
        StoreInUseError: A command is at work in the store.
        GcRunningError: So is a gc, check or repair.
    """
    config = load_config(paths)
    report = UpgradeReport(config.format, OLDEST_FORMAT, _version(paths), OLDEST_FORMAT)
    if not report.changed:
        return report
    _refuse_newer_content(paths, shared=config.shared)
    _refuse_views(paths)
    if dry_run:
        return report
    with _standing_still(paths), storage_errors("undo the upgrade"):
        _refuse_newer_content(paths, shared=config.shared)
        _name_format(paths, OLDEST_FORMAT)
        _change_catalog(paths, OLDEST_FORMAT, _BACKWARDS)
    return report


def _refuse_views(paths: StorePaths) -> None:
    """Refuse while servers of views read the tables that are to go."""
    if any(name.endswith(".json") for name in os.listdir(paths.views)):
        raise StoreInUseError(
            "views of the store are mounted", hint="unmount them first: layerstore umount --all"
        )


def _version(paths: StorePaths) -> int:
    """Return the catalog's version, after checking that it is one."""
    with contextlib.closing(Catalog(paths)) as catalog:
        return catalog.version


@contextlib.contextmanager
def _standing_still(paths: StorePaths) -> Iterator[None]:
    """Keep everybody out who writes; readers go on.

    Under the catalog lock no lease begins, so nobody is at work who knows other tables.
    """
    with alone(paths), catalog_alone(paths):
        if any(is_held(paths.lease(lease_id)) for lease_id in lock_file_ids(paths)):
            raise StoreInUseError(
                "commands are at work in the store", hint="run it again when they have ended"
            )
        yield


def _change_catalog(paths: StorePaths, version: int, statements: Sequence[str]) -> None:
    """Run statements that lead to a version, in one transaction; nothing if it is that."""
    try:
        connection = sqlite3.connect(paths.catalog, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            # Off, renaming a table would rewrite what others say of it; nothing does here.
            connection.execute("PRAGMA legacy_alter_table=ON")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone() != (version,):
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={version}")
            connection.execute("COMMIT")
    except SQLITE_ERRORS as err:
        raise catalog_error(err) from err


def _table(schema: Sequence[str], name: str) -> str:
    """Return the statement that makes a table: opening compares its text."""
    (statement,) = (text for text in schema if text.startswith(f"CREATE TABLE {name} "))
    return statement


_ASIDE = tuple(f"ALTER TABLE {name} RENAME TO {name}_before" for name in CHANGED_IN_2)
_AWAY = tuple(f"DROP TABLE {name}_before" for name in CHANGED_IN_2)
_UPWARDS = (
    *_ASIDE,
    *(_table(SCHEMA, name) for name in (*CHANGED_IN_2, *NEW_IN_2)),
    "INSERT INTO packs SELECT pack, id, size, retired, lease, 0 FROM packs_before",
    "INSERT INTO blocks SELECT pack, block, offset, stored, raw, kind, 0, raw FROM blocks_before",
    *_AWAY,
)
_BACKWARDS = (
    *_ASIDE,
    *(_table(SCHEMA_1, name) for name in CHANGED_IN_2),
    "INSERT INTO packs SELECT pack, id, size, retired, lease FROM packs_before",
    "INSERT INTO blocks SELECT pack, block, offset, stored, raw, kind FROM blocks_before",
    # Format 1 takes every row of a chunk for a place to read from.
    "DELETE FROM chunks WHERE pack IN (SELECT pack FROM packs_before WHERE retired IS NOT NULL)",
    *_AWAY,
    *(f"DROP TABLE {name}" for name in NEW_IN_2),
)


def _name_format(paths: StorePaths, version: int) -> None:
    """Write the format's number into config.toml, which stays otherwise as it is."""
    text = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES).decode()
    text = re.sub(r"(?m)^format *= *\d+", f"format = {version}", text, count=1)
    if parse_config(text.encode()).format != version:
        raise FormatError("config.toml was edited: its format cannot be changed safely")
    staging = paths.temporary("upgrade", str(os.getpid()))
    remove_if_present(staging)
    publish_bytes(text.encode(), staging=staging, target=paths.config)


def _refuse_newer_content(paths: StorePaths, *, shared: bool) -> None:
    """Refuse to go back while the store holds what the older version could not read."""
    if shared:
        raise CannotUndoError(
            f"the store is open to a group, which format {OLDEST_FORMAT} does not know"
        )
    with contextlib.closing(Catalog(paths)) as catalog:
        pinned = sorted(pins(catalog))
    if pinned:
        raise CannotUndoError(
            f"{pinned[0]} is pinned, which format {OLDEST_FORMAT} does not know",
            hint=f"layerstore unpin {' '.join(pinned)}",
        )
    newer = [pack_id for pack_id, _ in pack_files(paths) if _is_newer(paths, pack_id)]
    if newer:
        raise CannotUndoError(
            f"{len(newer)} packs were written in format {FORMAT_VERSION} since the upgrade, "
            f"one is {newer[0].hex()[:16]}: format {OLDEST_FORMAT} cannot read them",
            hint="save the images to keep (layerstore save), and import them into a new store",
        )


def _is_newer(paths: StorePaths, pack_id: PackId) -> bool:
    """Return whether a pack is of a later version than the first; a damaged one is not."""
    try:
        with contextlib.closing(open_pack(paths, pack_id)) as file:
            return decode_header(read_at(file.fd, HEADER.size, 0)).version > PLAIN_VERSION
    except (FormatError, OSError):
        return False
