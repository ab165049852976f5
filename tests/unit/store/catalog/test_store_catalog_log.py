"""The catalog's log stays small, and a reader in an old state holds up no writer."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from layerstore.store.catalog.catalog_file import CHECKPOINT_WAL_BYTES
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

LUMP = os.urandom(CHECKPOINT_WAL_BYTES // 4)


def fill(store: Store, number: int) -> None:
    with store.catalog.write() as connection:
        row = (f"key{number}", None, LUMP.hex(), "", b"")
        connection.execute("INSERT INTO build_cache VALUES (?, ?, ?, ?, ?)", row)


def test_a_reader_in_an_old_state_does_not_hold_up_writers(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        with store.catalog.pinned() as old:
            writing = threading.Thread(target=lambda: [fill(store, n) for n in range(6)])
            writing.start()
            writing.join(40)  # a minute for each commit if they wait for the reader
            assert not writing.is_alive()
            assert old.one("SELECT count(*) FROM build_cache") == (0,)
        assert store.catalog.one("SELECT count(*) FROM build_cache") == (6,)


def test_the_log_is_cut_short_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", create=True) as store:
        with store.catalog.pinned():  # meanwhile nothing of the log can be reused
            while os.stat(store.paths.catalog + "-wal").st_size <= 2 * CHECKPOINT_WAL_BYTES:
                fill(store, os.stat(store.paths.catalog + "-wal").st_size)
        fill(store, -1)
        assert os.stat(store.paths.catalog + "-wal").st_size < CHECKPOINT_WAL_BYTES


def test_a_log_that_was_long_once_costs_later_commits_nothing(tmp_path: Path) -> None:
    checkpoints: list[str] = []

    def note(statement: str) -> None:
        if "wal_checkpoint" in statement:
            checkpoints.append(statement)

    with Store.open(tmp_path / "store", create=True) as store:
        for number in range(4):
            fill(store, number)
        with store.catalog.write() as connection:
            connection.set_trace_callback(note)
        checkpoints.clear()
        for number in range(10):
            with store.catalog.write() as connection:
                connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (number,))
    assert checkpoints == []
