"""Images, names and pins in the catalog, written together with names.log.

Functions for use inside a catalog write transaction. The log's line is forced to
disk before the transaction commits, so a rebuilt catalog never forgets a name
that was acknowledged.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, parse_digest
from layerstore.errors import FormatError
from layerstore.formats.reference import is_index_name
from layerstore.store.catalog.rows import image_seal
from layerstore.store.catalog.seals import seal
from layerstore.store.names import names_log
from layerstore.store.names.pins import delete_pins, insert_pins

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import ImageId
    from layerstore.store.catalog.rows import ImageRecord


class ImageFacts(NamedTuple):
    """What the store needs from an image's config."""

    created: str
    diff_ids: tuple[DiffId, ...]


def image_facts(config: bytes) -> ImageFacts:
    """Return creation time and layers of a config.

    Raises:
        FormatError: Not an image config.

    Source: OCI image spec, config.md, "rootfs" and "created".
    """
    try:
        document = json.loads(config)
        created = document.get("created") or ""
        diff_ids = document["rootfs"]["diff_ids"] or ()
        facts = ImageFacts(created, tuple(DiffId(parse_digest(text)) for text in diff_ids))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as err:
        raise FormatError(f"not an image config: {type(err).__name__} {err}") from err
    if not isinstance(created, str):
        raise FormatError("not an image config: its creation time is not a string")
    return facts


def manifest_config(manifest: bytes) -> str:
    """Return the digest of the config that an image manifest names.

    Raises:
        FormatError: Not an image manifest.

    Source: OCI image spec, manifest.md, "config".
    """
    try:
        digest = json.loads(manifest)["config"]["digest"]
    except (ValueError, RecursionError, KeyError, TypeError) as err:
        raise FormatError(f"not an image manifest: {type(err).__name__} {err}") from err
    return parse_digest(digest if isinstance(digest, str) else repr(digest))


def insert_image(connection: sqlite3.Connection, record: ImageRecord) -> None:
    """Insert an image; of the same image again only the manifest can be new, and then counts."""
    connection.execute(
        "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT (image_id) DO UPDATE"
        " SET manifest_digest = excluded.manifest_digest, seal = excluded.seal"
        " WHERE manifest_digest <> excluded.manifest_digest",
        (
            record.image_id,
            record.manifest_digest,
            record.created,
            record.size,
            image_seal(record),
        ),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO image_layers VALUES (?, ?, ?)",
        [(record.image_id, place, diff_id) for place, diff_id in enumerate(record.layers)],
    )


def delete_image(connection: sqlite3.Connection, image_id: ImageId) -> bool:
    """Delete an image's rows unless a session holds it; return whether they are gone.

    What a session holds stays for its sake; gc deletes it once nothing needs it.
    """
    held = connection.execute(
        "SELECT 1 FROM lease_holds WHERE kind = 'image' AND id = ?", (image_id,)
    ).fetchone()
    if held is None:
        connection.execute("DELETE FROM images WHERE image_id = ?", (image_id,))
        connection.execute("DELETE FROM image_layers WHERE image_id = ?", (image_id,))
    return held is None


def tag_all(
    connection: sqlite3.Connection, log: str, names: Sequence[str], image_id: ImageId
) -> None:
    """Point normalized names at an image that the catalog has; a tag means no index then."""
    tag_each(connection, log, dict.fromkeys(names, image_id))


def tag_each(connection: sqlite3.Connection, log: str, named: Mapping[str, str]) -> None:
    """Point normalized names at images, all of them or none.

    A tag loses what its index had, unless that is in ``named``, too.
    """
    old = [name for name in _index_names(connection, named) if name not in named]
    if named:
        records = [(names_log.UNTAG, name) for name in old]
        tagged = [(names_log.TAG, name, image_id) for name, image_id in named.items()]
        log_names(connection, log, [*records, *tagged])
        _delete_tags(connection, old)
        insert_tags(connection, named.items())


def _index_names(connection: sqlite3.Connection, names: Iterable[str]) -> list[str]:
    """Return what says of the indexes of tags what they have; it comes and goes together."""
    tags = {name.partition("@")[0] for name in names if is_index_name(name) or "@" not in name}
    return [
        str(name)
        for tag in sorted(tags)
        for (name,) in connection.execute(
            # "A" follows "@": a range that the primary key answers.
            "SELECT name FROM tags WHERE name >= ? AND name < ?",
            (f"{tag}@", f"{tag}A"),
        )
    ]


def insert_tags(connection: sqlite3.Connection, named: Iterable[tuple[str, str]]) -> None:
    """Insert names with their images into the catalog alone."""
    connection.executemany(
        "INSERT OR REPLACE INTO tags VALUES (?, ?, ?)",
        [(name, image_id, seal("tags", name, image_id)) for name, image_id in named],
    )


def untag_all(connection: sqlite3.Connection, log: str, names: Sequence[str]) -> None:
    """Forget normalized names, and with a tag, or with any part of its index, all of that."""
    if names:
        going = list(dict.fromkeys([*names, *_index_names(connection, names)]))
        log_names(connection, log, [(names_log.UNTAG, name) for name in going])
        _delete_tags(connection, going)


def _delete_tags(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    connection.executemany("DELETE FROM tags WHERE name = ?", [(name,) for name in names])


def pin_all(connection: sqlite3.Connection, log: str, targets: Sequence[str]) -> None:
    """Pin normalized names or ids of images that the catalog has."""
    if targets:
        log_names(connection, log, [(names_log.PIN, target) for target in targets])
        insert_pins(connection, targets)


def unpin_all(connection: sqlite3.Connection, log: str, targets: Iterable[str]) -> list[str]:
    """Forget those of ``targets`` that are pinned; return them."""
    known = {row[0] for row in connection.execute("SELECT target FROM pins")}
    pinned = [target for target in targets if target in known]
    if pinned:
        log_names(connection, log, [(names_log.UNPIN, target) for target in pinned])
        delete_pins(connection, pinned)
    return pinned


def log_names(
    connection: sqlite3.Connection, log: str, records: Iterable[names_log.Record]
) -> None:
    """Append records to names.log, bringing it back in step with the catalog first.

    They differ when a crash came between an append and its commit: then the log
    holds changes that nobody was promised, and a snapshot of the names sets it right.
    """
    todo: list[names_log.Record] = []
    stamp = names_log.stamp(log)
    if recorded_stamp(connection.execute(STAMP_ROWS)) != stamp:
        known = dict(connection.execute("SELECT name, image_id FROM tags").fetchall())
        pins = [row[0] for row in connection.execute("SELECT target FROM pins")]
        todo = names_log.snapshot(known, pins)
    todo.extend(records)
    size = names_log.append(log, todo)
    record_stamp(connection, stamp._replace(size=size))


STAMP_ROWS = "SELECT key, value FROM meta WHERE key IN ('names_log_size', 'names_log_id')"


def recorded_stamp(rows: Iterable[tuple[object, ...]]) -> names_log.Stamp:
    """Return the stamp of names.log that the catalog has, from its ``STAMP_ROWS``."""
    values = {str(key): value for key, value in rows}
    size = values.get("names_log_size")
    return names_log.Stamp(
        size if isinstance(size, int) else -1, str(values.get("names_log_id", ""))
    )


def record_stamp(connection: sqlite3.Connection, stamp: names_log.Stamp) -> None:
    """Note, inside a write transaction, that the catalog and names.log are of one state."""
    rows = [("names_log_size", stamp.size), ("names_log_id", stamp.log_id)]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
