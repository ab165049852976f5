"""Pins: names and images that no rule may remove, and ``rm`` only when forced.

A pin on a name goes with the name, whatever image it means; a pin on an image id keeps
that image even when nothing names it. Kept in the catalog and in names.log, so that a
rebuilt catalog has them. Functions for use inside a catalog write transaction, except
:func:`pins`. Normative: docs/format/names.md. On the fast path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import ConflictError
from layerstore.store.catalog.seals import seal
from layerstore.store.failures import CatalogDamagedError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from layerstore.store.catalog.catalog import Catalog


class PinnedError(ConflictError):
    """What was to be removed is pinned."""


def pins(catalog: Catalog) -> frozenset[str]:
    """Return the normalized names and the image ids that are pinned.

    Raises:
        CatalogDamagedError: A row is damaged.
    """
    rows = catalog.query("SELECT target, seal FROM pins")
    for target, found in rows:
        if found != seal("pins", str(target)):
            raise CatalogDamagedError(
                f"the catalog's row of the pin {str(target)[:300]!r} is damaged"
            )
    return frozenset(str(target) for target, _ in rows)


def refuse_pinned(catalog: Catalog, targets: Iterable[str]) -> None:
    """Raise if one of these names or image ids is pinned.

    Raises:
        PinnedError: It is.
    """
    pinned = pins(catalog)
    for target in targets:
        if target in pinned:
            raise PinnedError(
                f"{target} is pinned", hint=f"layerstore unpin {target}, or pass --force"
            )


def insert_pins(connection: sqlite3.Connection, targets: Iterable[str]) -> None:
    """Insert pins into the catalog alone; one that is there already changes nothing."""
    connection.executemany(
        "INSERT OR IGNORE INTO pins VALUES (?, ?)",
        [(target, seal("pins", target)) for target in targets],
    )


def delete_pins(connection: sqlite3.Connection, targets: Iterable[str]) -> None:
    """Delete pins from the catalog alone."""
    connection.executemany("DELETE FROM pins WHERE target = ?", [(t,) for t in targets])
