"""The catalog's tables, version 2. Normative: docs/format/catalog.md.

Changing a statement here is a format break: raise ``CATALOG_VERSION``.
"""

from __future__ import annotations

APPLICATION_ID = 0x4C595253
"""``LYRS``: what file(1) and we recognise the database by."""

CATALOG_VERSION = 2

SCHEMA: tuple[str, ...] = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    (
        "CREATE TABLE packs (pack INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"
        " size INTEGER NOT NULL, retired INTEGER, lease TEXT, effort INTEGER NOT NULL)"
    ),
    (
        "CREATE TABLE blocks (pack INTEGER NOT NULL, block INTEGER NOT NULL,"
        " offset INTEGER NOT NULL, stored INTEGER NOT NULL, raw INTEGER NOT NULL,"
        " kind INTEGER NOT NULL, depth INTEGER NOT NULL, cost INTEGER NOT NULL,"
        " PRIMARY KEY (pack, block)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE bases (pack INTEGER NOT NULL, block INTEGER NOT NULL,"
        " position INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (pack, block, position))"
        " WITHOUT ROWID"
    ),
    (
        "CREATE TABLE chunks (id BLOB PRIMARY KEY, pack INTEGER NOT NULL, block INTEGER NOT NULL,"
        " offset INTEGER NOT NULL, length INTEGER NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE layers (diff_id TEXT PRIMARY KEY, item BLOB NOT NULL, record BLOB NOT NULL)"
        " WITHOUT ROWID"
    ),
    (
        "CREATE TABLE images (image_id TEXT PRIMARY KEY, manifest_digest TEXT NOT NULL,"
        " created TEXT NOT NULL, size INTEGER NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE image_layers (image_id TEXT NOT NULL, position INTEGER NOT NULL,"
        " diff_id TEXT NOT NULL, PRIMARY KEY (image_id, position)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE tags (name TEXT PRIMARY KEY, image_id TEXT NOT NULL, seal BLOB NOT NULL)"
        " WITHOUT ROWID"
    ),
    (
        "CREATE TABLE leases (lease TEXT PRIMARY KEY, purpose TEXT NOT NULL, pid INTEGER NOT NULL,"
        " epoch INTEGER NOT NULL, created REAL NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE lease_holds (lease TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
        " PRIMARY KEY (lease, kind, id)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE build_cache (key TEXT PRIMARY KEY, diff_id TEXT, value BLOB NOT NULL,"
        " created REAL NOT NULL, seal BLOB NOT NULL) WITHOUT ROWID"
    ),
    "CREATE TABLE step_uses (key TEXT PRIMARY KEY, used REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE pins (target TEXT PRIMARY KEY, seal BLOB NOT NULL) WITHOUT ROWID",
)

INITIAL_META: tuple[tuple[str, int], ...] = (("epoch", 1), ("names_log_size", 0))

# -- version 1, read as it is and brought to version 2 by :mod:`layerstore.store.rebuild.upgrade`

_OLD_TABLES: tuple[str, ...] = (
    (
        "CREATE TABLE packs (pack INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,"
        " size INTEGER NOT NULL, retired INTEGER, lease TEXT)"
    ),
    (
        "CREATE TABLE blocks (pack INTEGER NOT NULL, block INTEGER NOT NULL,"
        " offset INTEGER NOT NULL, stored INTEGER NOT NULL, raw INTEGER NOT NULL,"
        " kind INTEGER NOT NULL, PRIMARY KEY (pack, block)) WITHOUT ROWID"
    ),
)

CHANGED_IN_2 = ("packs", "blocks")
NEW_IN_2 = ("bases", "step_uses", "pins")

SCHEMA_1: tuple[str, ...] = (
    *_OLD_TABLES,
    *(statement for statement in SCHEMA if statement.split()[2] not in {*CHANGED_IN_2, *NEW_IN_2}),
)

VIEWS_OF_1: tuple[str, ...] = (
    (
        "CREATE TEMP VIEW packs AS SELECT pack, id, size, retired, lease, 0 AS effort"
        " FROM main.packs"
    ),
    (
        "CREATE TEMP VIEW blocks AS SELECT pack, block, offset, stored, raw, kind, 0 AS depth,"
        " raw AS cost FROM main.blocks"
    ),
    "CREATE TEMP VIEW bases AS SELECT 0 AS pack, 0 AS block, 0 AS position, x'' AS id WHERE 0",
    "CREATE TEMP VIEW step_uses AS SELECT '' AS key, 0.0 AS used WHERE 0",
    "CREATE TEMP VIEW pins AS SELECT '' AS target, x'' AS seal WHERE 0",
)
"""What shows a catalog of version 1 as one of version 2, for reading: names in the temporary
schema hide those of the database."""
