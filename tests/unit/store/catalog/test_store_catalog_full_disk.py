"""A catalog that is read as it is, because the disk has no room for SQLite's own files."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from layerstore.measure.inventory import one_moment
from layerstore.store.catalog import catalog_file
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_another_log_that_appears_ends_no_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        paths = store.paths
    connect = catalog_file._connect

    def without_room(path: str, *, immutable: bool) -> sqlite3.Connection:
        if not immutable:
            raise sqlite3.OperationalError("database or disk is full")
        return connect(path, immutable=True)

    monkeypatch.setattr(catalog_file, "_connect", without_room)
    monkeypatch.setattr(catalog_file, "_is_for_want_of_room", lambda *_: True)
    log = tmp_path / "store" / "catalog.sqlite-wal"
    catalog = Catalog(paths)
    assert not log.exists()
    with one_moment(catalog):
        assert catalog.images() == []
        log.touch()  # as another command does that finds room
        assert catalog.images() == []
    catalog.close()
