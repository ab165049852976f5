"""Records of snapshots: what is written is read, and what is damaged is set aside."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import DiffId, sha256_digest
from layerstore.snapshotter.failures import SnapshotExistsError, SnapshotNotFoundError
from layerstore.snapshotter.records import (
    ACTIVE,
    COMMITTED,
    Snapshot,
    load_records,
    record_path,
    write_record,
)
from layerstore.snapshotter.table import Table
from layerstore.store.collect.marks import view_roots
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.store.paths import StorePaths

LAYERS = tuple(DiffId(sha256_digest(bytes([number]))) for number in range(3))


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[StorePaths]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store.paths


def committed(number: int, parent: int | None = None, **fields: object) -> Snapshot:
    defaults = {"has_upper": True, "created_ns": 1, "updated_ns": 2, **fields}
    return Snapshot(number=number, key=f"k{number}", kind=COMMITTED, parent=parent, **defaults)


def damage(paths: StorePaths, number: int, change: object) -> None:
    path = record_path(paths, number)
    with open(path) as file:
        value = json.load(file)
    value = change(value)  # type: ignore[operator]
    with open(path, "w") as file:
        json.dump(value, file)


def test_what_is_written_is_read(paths: StorePaths) -> None:
    full = Snapshot(
        number=7, key="ns/1/ä", kind=ACTIVE, parent=3, labels={"a": "b"}, created_ns=5,
        updated_ns=6, has_upper=True, over_uppers=(3,), over_layers=LAYERS[:2],
    )  # fmt: skip
    write_record(paths, full)
    write_record(paths, committed(12, layer=LAYERS[2], has_upper=False, chain="sha256:x", size=9))
    loaded = load_records(paths)
    assert loaded.damaged == []
    assert loaded.snapshots[0] == full
    assert [each.number for each in loaded.snapshots] == [7, 12]
    kept = view_roots(paths)
    assert kept.unreadable == ()
    assert sorted(layer for view in kept.views for layer in view.layers) == sorted(LAYERS)


@pytest.mark.parametrize(
    "change",
    [
        lambda value: [],
        lambda value: {**value, "kind": "lower"},
        lambda value: {**value, "snapshot": {**value["snapshot"], "number": 3}},
        lambda value: {**value, "snapshot": {**value["snapshot"], "kind": "other"}},
        lambda value: {**value, "snapshot": {**value["snapshot"], "over_layers": ["sha256:x"]}},
        lambda value: {**value, "snapshot": {**value["snapshot"], "layer": "../../x"}},
        lambda value: {**value, "snapshot": {**value["snapshot"], "has_upper": False}},
        lambda value: {**value, "snapshot": {**value["snapshot"], "labels": 1}},
    ],
)
def test_a_damaged_record_stops_only_what_is_built_on_it(paths: StorePaths, change: object) -> None:
    for number, parent in ((1, None), (2, 1), (3, 2), (4, None)):
        write_record(paths, committed(number, parent))
    damage(paths, 1, change)
    told: list[str] = []
    table = Table(paths, told.append)
    assert [each.key for each in table.all()] == ["k4"]
    assert len(told) == 3
    assert load_records(paths).damaged == []
    assert view_roots(paths).unreadable == ()
    # Their numbers are not used again, and what they wrote stays.
    assert table.new_number() == 5
    assert table.orphans() == []


def test_half_a_record_is_set_aside(paths: StorePaths) -> None:
    write_record(paths, committed(1))
    path = record_path(paths, 1)
    with open(path, "r+") as file:
        file.truncate(20)
    assert Table(paths, lambda _: None).all() == []


def test_files_without_a_record_are_found(paths: StorePaths) -> None:
    write_record(paths, committed(1))
    write_record(paths, committed(2, has_upper=False, layer=LAYERS[0]))
    for number in (1, 2, 3):
        os.mkdir(f"{paths.uppers}/snapshot-{number}")
    os.mkdir(f"{paths.uppers}/0123456789ab-view")
    table = Table(paths, lambda _: None)
    assert table.orphans() == [2, 3]
    assert table.new_number() == 4


def test_keys_are_unique(paths: StorePaths) -> None:
    table = Table(paths, lambda _: None)
    table.add(committed(1))
    with pytest.raises(SnapshotExistsError):
        table.add(Snapshot(number=2, key="k1", kind=ACTIVE, created_ns=1, updated_ns=1))
    with pytest.raises(SnapshotNotFoundError):
        table.find("k2")
    assert [each.number for each in Table(paths, lambda _: None).all()] == [1]
