"""A mistake of ours in asking the catalog is told as one, and not as damage."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from layerstore.cli.failure import EXIT_INTERNAL, describe
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def ask_closed(store: Store) -> None:
    store.catalog._live().close()
    store.catalog.query("SELECT 1")


def write_wrongly(store: Store) -> None:
    with store.catalog.write() as connection:
        connection.execute("INSERT INTO meta VALUES (?, ?)", ("epoch",))


MISTAKES: dict[str, Callable[[Store], object]] = {
    "too few values": lambda store: store.catalog.query("SELECT ?"),
    "too many values": lambda store: store.catalog.query("SELECT 1", (1,)),
    "a value that is none": lambda store: store.catalog.query("SELECT ?", (object(),)),
    "a closed database": ask_closed,
    "in a transaction": write_wrongly,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nobody_is_told_to_rebuild(store: Store, mistake: str) -> None:
    with pytest.raises(AssertionError, match="asked wrongly") as caught:
        MISTAKES[mistake](store)
    told = describe(caught.value)
    assert told.exit_code == EXIT_INTERNAL
    assert "damaged" not in told.message
    assert "rebuild" not in f"{told.message} {told.hint}"


def test_a_transaction_with_a_mistake_leaves_nothing(store: Store) -> None:
    epoch = store.catalog.epoch()

    def change() -> None:
        with store.catalog.write() as connection:
            connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
            connection.execute("SELECT ?")

    with pytest.raises(AssertionError):
        change()
    assert store.catalog.epoch() == epoch


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "CAST(x'c328' AS TEXT)"])
def test_text_that_is_none_is_damage(store: Store, value: str) -> None:
    """Which the sqlite3 module tells in words of its own."""
    with store.catalog.write() as connection:
        connection.execute(f"INSERT INTO meta VALUES ('text', {value})")
    with pytest.raises(CatalogDamagedError):
        store.catalog.query("SELECT value FROM meta WHERE key = 'text'")


def test_a_length_that_nothing_has_is_damage(store: Store) -> None:
    store.catalog._live().setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100)
    with pytest.raises(CatalogDamagedError):
        store.catalog.query("SELECT zeroblob(101)")
