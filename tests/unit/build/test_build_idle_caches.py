"""Cache mounts that nothing uses: found, removed, and never under a step."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.build.graph import MountSpec
from layerstore.build.run.caches import take_caches
from layerstore.build.run.idle_caches import find_idle_caches, remove_idle_caches
from layerstore.build.waiting import Patience
from layerstore.linux import removal
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.store import put_layer

if TYPE_CHECKING:
    from pathlib import Path


def cache(name: str, sharing: str = "locked") -> MountSpec:
    return MountSpec(type="cache", target=f"/{name}", id=name, sharing=sharing)


@contextlib.contextmanager
def taken(root: Path, spec: MountSpec):
    with contextlib.ExitStack() as stack:
        patience = Patience(threading.Event(), lambda _: None)
        (directory,) = take_caches([spec], root, stack, patience, lambda *_: False).values()
        yield directory


def fill(root: Path, name: str, size: int, days_ago: float = 0) -> str:
    with taken(root, cache(name)) as directory:
        (directory / "f").write_bytes(b"x" * size)
        top = directory.parent
    moment = time.time() - days_ago * 86400
    os.utime(top / "lock", (moment, moment))
    return top.name


def test_idle_caches_are_listed_and_removed(tmp_path: Path) -> None:
    assert find_idle_caches(tmp_path / "none") == []
    old, new = fill(tmp_path, "old", 700, 9), fill(tmp_path, "new", 50)
    idle = find_idle_caches(tmp_path)
    assert [(c.name, c.size) for c in idle] == [(new, 50), (old, 700)]
    assert [c.name for c in remove_idle_caches(tmp_path, idle[1:])] == [old]
    assert os.listdir(tmp_path) == [new]


@pytest.mark.parametrize("sharing", ["shared", "locked", "private"])
def test_a_cache_in_use_is_neither_listed_nor_removed(tmp_path: Path, sharing: str) -> None:
    fill(tmp_path, "a", 10)
    idle = find_idle_caches(tmp_path)
    with taken(tmp_path, cache("a", sharing)) as directory:
        assert find_idle_caches(tmp_path) == []
        assert remove_idle_caches(tmp_path, idle) == []
        assert (directory / "f").exists()
    assert remove_idle_caches(tmp_path, idle) == [], "used since it was listed"
    assert len(find_idle_caches(tmp_path)) == 1


def test_a_cache_that_may_not_be_removed_is_no_failure(tmp_path: Path, monkeypatch) -> None:
    """Of a shared store another member's, whose files are closed to the group."""
    fill(tmp_path, "a", 10)
    fill(tmp_path, "b", 20)
    idle = find_idle_caches(tmp_path)
    refused = f"{tmp_path}/{idle[0].name}."
    remove_tree = removal.remove_tree

    def may_not(path: str) -> None:
        if path.startswith(refused):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        remove_tree(path)

    monkeypatch.setattr(removal, "remove_tree", may_not)
    assert remove_idle_caches(tmp_path, idle) == idle[1:]
    monkeypatch.undo()
    assert [cache.size for cache in remove_idle_caches(tmp_path, find_idle_caches(tmp_path))] == [
        idle[0].size
    ]
    assert os.listdir(tmp_path) == []


def test_a_step_that_waited_for_a_removed_cache_makes_it_anew(tmp_path: Path) -> None:
    fill(tmp_path, "a", 10)
    stop = threading.Event()

    def collect() -> None:
        while not stop.is_set():
            remove_idle_caches(tmp_path, find_idle_caches(tmp_path))

    worker = threading.Thread(target=collect)
    worker.start()
    try:
        for number in range(200):
            with taken(tmp_path, cache("a")) as directory:
                (directory / "f").write_bytes(b"%d" % number)
                assert (directory / "f").read_bytes() == b"%d" % number
    finally:
        stop.set()
        worker.join()


def test_gc_collects_them_by_age_or_all(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    tree.mkdir()
    cli.ok("import", tree, "-t", "a:1")
    root = tmp_path / "store" / "cache-mounts"
    fill(root, "old", 700, 40)
    assert cli.ok("gc", "--dry-run", "--keep-cache-within", "30d", "--json").json()[
        "cache_mounts"
    ], "the image was used since"
    fill(root, "new", 50)
    awake = ("--rest-caches-after", "60d")
    assert cli.ok("gc", "--json", *awake).json()["cache_mounts"] == 0
    planned = cli.ok("gc", "--dry-run", "--keep-cache-within", "30d")
    assert "1 cache mount with 700B" in planned.out
    assert len(os.listdir(root)) == 2
    cli.ok("gc", "--keep-cache-within", "30d")
    assert len(os.listdir(root)) == 1
    assert cli.ok("gc", "--all", "--json").json()["cache_mount_bytes"] == 50
    assert os.listdir(root) == []


def test_a_cap_says_that_it_does_not_count_them(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    tree.mkdir()
    cli.ok("import", tree, "-t", "a:1")
    assert "cache mounts" not in cli.ok("gc", "--max-size", "1g").err
    fill(tmp_path / "store" / "cache-mounts", "old", 700, 40)
    told = cli.ok("gc", "--max-size", "1g", "--rest-caches-after", "60d")
    assert "--max-size does not count cache mounts, which hold 700B" in told.err
    assert "cache mounts" not in told.out
    assert len(os.listdir(tmp_path / "store" / "cache-mounts")) == 1
    assert "cache mounts" not in cli.ok("gc").err
    assert "cache mounts" not in cli.ok("gc", "--max-size", "1g").err, "it rests"


def test_ages_are_measured_before_anything_goes(tmp_path: Path) -> None:
    """Without the uses of what is removed there would be a silence, and a doubt of the clock."""
    cli = Cli(tmp_path / "store")
    with Store.open(tmp_path / "store", create=True) as store:
        now = time.time()
        for number, days in enumerate((160, 80, 0)):
            with store.begin("build") as session:
                layer = put_layer(session, {b"f": b"%d" % number}).diff_id
                used = now - days * 86400
                session.cache_put(CacheRecord(str(number), layer, b"", used))
    root = tmp_path / "store" / "cache-mounts"
    fill(root, "old", 700, 150)
    fill(root, "new", 50)
    rules = ("--keep-cache-within", "30d", "--json")
    planned = cli.ok("gc", "--dry-run", *rules).json()
    done = cli.ok("gc", *rules).json()
    assert planned["cache_mount_bytes"] == done["cache_mount_bytes"] == 700
    assert len(done["cache_keys"]) == 2
