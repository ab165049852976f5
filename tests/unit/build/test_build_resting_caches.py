"""Cache mounts at rest: the same files again, whatever happens on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.build.graph import MountSpec
from layerstore.build.run import resting_caches
from layerstore.build.run.caches import cache_name, take_caches
from layerstore.build.run.idle_caches import find_idle_caches
from layerstore.build.run.resting_caches import Waking, forget_awake, put_to_rest
from layerstore.build.waiting import Patience
from layerstore.errors import BuildError
from layerstore.image import checkout
from layerstore.measure.df import take_df
from layerstore.measure.ledger import Owner
from layerstore.measure.savings import Scheme, take_savings
from layerstore.store.collect.resting import PREFIX, resting_key
from layerstore.store.failures import StoreFullError
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.measure import build, noise
from tests.support.store import disk_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's caches rest")

SPEC = MountSpec(type="cache", target="/c", id="c", sharing="locked")
NAME = cache_name(SPEC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


@contextlib.contextmanager
def taken(store: Store, spec: MountSpec = SPEC, told: list[str] | None = None) -> Iterator[Path]:
    """Take a cache as a step does."""
    root = Path(store.paths.cache_mounts)
    with store.begin("build") as session, contextlib.ExitStack() as stack:
        wake = Waking(store, session, [].append if told is None else told.append)
        patience = Patience(threading.Event(), lambda _: None)
        (directory,) = take_caches([spec], root, stack, patience, wake).values()
        yield directory


def rest(store: Store):
    return put_to_rest(store, find_idle_caches(Path(store.paths.cache_mounts)))


def fill(store: Store, content: bytes = b"one", *, days_ago: float = 0) -> None:
    with taken(store) as directory:
        (directory / "f").write_bytes(content)
    moment = time.time() - days_ago * 86400
    os.utime(directory.parent / "lock", (moment, moment))


def rows(store: Store) -> list[str]:
    return [record.key for record in store.cache_records() if record.key.startswith(PREFIX)]


def pictured(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything that can be told of a tree."""
    root = os.fsencode(top)
    found: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    for folder, folders, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, n) for n in sorted(files + folders))]:
            status = os.lstat(path)
            is_file = stat.S_ISREG(status.st_mode)
            found[path[len(root) :]] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev,
                0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
                0 if stat.S_ISDIR(status.st_mode) else status.st_size,
                Path(os.fsdecode(path)).read_bytes() if is_file else b"",
                os.readlink(path) if stat.S_ISLNK(status.st_mode) else b"",
                {n: os.getxattr(path, n, follow_symlinks=False)
                 for n in os.listxattr(path, follow_symlinks=False)},
                inodes.setdefault(status.st_ino, path[len(root) :]),
            )  # fmt: skip
    return found


def furnish(top: Path) -> None:
    """Make one of everything that a cache can hold."""
    deep = top / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "big").write_bytes(os.urandom(700_000))
    (deep / "empty").touch()
    os.link(deep / "big", top / "link")
    os.symlink("/etc/shadow", top / "symlink")
    os.lchown(top / "symlink", 7, 8)
    os.symlink("..", deep / "up")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe"))).write_bytes(b"odd")
    with (top / "sparse").open("wb") as file:
        file.truncate(5_000_000)
        file.seek(4_000_000)
        file.write(b"end")
    program = top / "program"
    program.write_bytes(b"x")
    os.chown(program, 1000, 2000)
    program.chmod(0o6751)
    os.setxattr(program, "user.note", b"\0\1")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(deep / "empty", "security.capability", capability)
    (top / "closed").mkdir()
    (top / "closed" / "f").write_bytes(b"f")
    (top / "closed").chmod(0)
    os.setxattr(top, "user.top", b"top")
    os.chown(top, 33, 34)
    top.chmod(0o3777)
    for number, path in enumerate([*deep.iterdir(), deep, top / "symlink", top]):
        os.utime(path, ns=(1, 1_500_000_000_123_456_789 + number), follow_symlinks=False)


def test_a_cache_comes_back_as_it_was(store: Store) -> None:
    with taken(store) as directory:
        furnish(directory)
        before = pictured(directory)
    rested = rest(store)
    assert [cache.name for cache in rested.caches] == [NAME]
    assert rested.kept == []
    assert os.listdir(store.paths.cache_mounts) == []
    with taken(store) as directory:
        assert pictured(directory) == before
        assert (directory / "sparse").stat().st_blocks * 512 < 1_000_000
        assert sorted(os.listdir(directory.parent)) == ["data", "lock"]


def test_what_images_hold_of_it_is_stored_once(store: Store) -> None:
    files = {b"lib/%d" % n: noise(n, 9000) for n in range(60)}
    build(store, "one", files)
    before = take_savings(store)
    with taken(store) as directory:
        for name, content in files.items():
            (directory / os.fsdecode(name).replace("/", "-")).write_bytes(content)
        (directory / "own").write_bytes(noise("own", 200_000))
    assert rest(store).new_bytes < 230_000
    usage = take_df(store)
    (row,) = (row for row in usage.rows if row.kind == "Cache mounts")
    assert row.count == 1
    assert 100_000 < row.size == usage.ledger.size_of(Owner.RESTING) < 115_000
    assert sum(row.size for row in usage.rows) + usage.slack == usage.disk_size
    grown = take_savings(store).size_of(Scheme.STORED) - before.size_of(Scheme.STORED)
    assert grown < 100_000, "overhead is shared in proportion"
    with taken(store):
        (row,) = (row for row in take_df(store).rows if row.kind == "Cache mounts")
        assert row.count == 1, "awake and at rest it is one cache"


def test_a_cache_in_use_does_not_rest(store: Store) -> None:
    fill(store)
    idle = find_idle_caches(Path(store.paths.cache_mounts))
    with taken(store) as directory:
        assert put_to_rest(store, idle) == ([], 0, [])
        assert (directory / "f").exists()
    assert put_to_rest(store, idle) == ([], 0, []), "used since it was listed"
    assert rows(store) == []


def test_what_no_layer_can_hold_stays_a_directory(store: Store, tmp_path: Path) -> None:
    with taken(store) as directory:
        here = os.open(directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
    ((cache, why),) = rest(store).kept
    assert (cache.name, "'s'" in why, "socket" in why) == (NAME, True, True)
    assert (directory / "s").is_socket()
    assert rows(store) == []


def test_another_user_s_cache_stays_a_directory(store: Store) -> None:
    """Ids mean something else to whoever builds in a user namespace."""
    fill(store)
    os.chown(f"{store.paths.cache_mounts}/{NAME}", 1000, 1000)
    ((_, why),) = rest(store).kept
    assert why == "only root's caches can be put to rest"
    assert rows(store) == []


def test_a_cache_that_begins_with_files_of_a_stage_comes_back(store: Store) -> None:
    fill(store)
    rest(store)
    spec = MountSpec(type="cache", target="/c", id="c", sharing="locked", input=0)
    assert cache_name(spec) == NAME
    with taken(store, spec) as directory:
        assert (directory / "f").read_bytes() == b"one"


def test_the_directory_counts_where_there_are_both(store: Store) -> None:
    fill(store, b"one")
    rest(store)
    fill(store, b"two")
    assert rows(store) == [resting_key(NAME)]
    with taken(store) as directory:
        forget_awake(store)
        assert rows(store) == [resting_key(NAME)], "a step has it"
        assert (directory / "f").read_bytes() == b"two"
    forget_awake(store)
    assert rows(store) == []
    rest(store)
    forget_awake(store)
    with taken(store) as directory:
        assert (directory / "f").read_bytes() == b"two"


KILLED = """
import os, signal, sys
from pathlib import Path
from layerstore.build.run import idle_caches, resting_caches
from layerstore.image.layers import layer_writer
from layerstore.store.writing.session import WriteSession
from layerstore.store.store import Store

def dying(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

place, name = {
    "layer": (layer_writer, "write_sorted_layer"),
    "row": (WriteSession, "cache_put"),
    "directory": (resting_caches, "remove_held"),
    "removal": (idle_caches, "remove_leftover"),
}[sys.argv[2]]
setattr(place, name, dying)
with Store.open(sys.argv[1]) as store:
    caches = idle_caches.find_idle_caches(Path(store.paths.cache_mounts))
    resting_caches.put_to_rest(store, caches)
"""


@pytest.mark.parametrize("where", ["layer", "row", "directory", "removal"])
def test_a_kill_leaves_the_directory_or_the_layer(store: Store, where: str) -> None:
    fill(store)
    command = [sys.executable, "-c", KILLED, store.paths.root, where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    root = Path(store.paths.cache_mounts)
    assert (root / NAME).exists() == (where != "removal")
    assert bool(rows(store)) == (where in ("directory", "removal"))
    with taken(store) as directory:
        assert (directory / "f").read_bytes() == b"one"
    Cli(store.root).ok("gc", "--rest-caches-after", "0s")
    assert os.listdir(root) == []
    with taken(store) as directory:
        assert (directory / "f").read_bytes() == b"one"


def test_what_a_killed_step_left_in_bringing_a_cache_back_goes(store: Store) -> None:
    fill(store)
    rest(store)
    top = Path(store.paths.cache_mounts, NAME)
    (top / "fresh-1").mkdir(parents=True)
    (top / "lock").touch()
    (top / "fresh-1" / "half").write_bytes(b"half")
    forget_awake(store)
    assert rest(store) == ([], 0, [])
    assert not top.exists()
    with taken(store) as directory:
        assert (directory / "f").read_bytes() == b"one"


def test_steps_and_gc_side_by_side_lose_nothing(store: Store) -> None:
    stop = threading.Event()

    def collect() -> None:
        with Store.open(store.root) as other:
            while not stop.is_set():
                forget_awake(other)
                rest(other)

    worker = threading.Thread(target=collect)
    fill(store, b"0")
    worker.start()
    try:
        for number in range(60):
            with taken(store) as directory:
                assert (directory / "f").read_bytes() == b"%d" % number
                (directory / "f").write_bytes(b"%d" % (number + 1))
    finally:
        stop.set()
        worker.join()


def test_a_damaged_cache_is_empty_and_said_so(store: Store) -> None:
    fill(store, noise("big", 400_000))
    rest(store)
    (pack,) = Path(store.paths.packs).glob("*/*.pack")
    data = bytearray(pack.read_bytes())
    data[1000:300_000] = bytes(299_000)
    pack.chmod(0o600)
    pack.write_bytes(data)
    told: list[str] = []
    with Store.open(store.root) as again, taken(again, told=told) as directory:
        assert os.listdir(directory) == []
        assert os.listdir(directory.parent).count("data") == 1
        assert len(os.listdir(directory.parent)) == 2
    (text,) = told
    assert text.startswith(
        "a cache mount is empty, what was at rest of it cannot be brought back: "
    )


def test_a_full_disk_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    rest(store)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkout, "restore", full)
    with pytest.raises(BuildError, match="no room for a cache mount"), taken(store):
        pass
    monkeypatch.undo()
    with taken(store) as directory:
        assert (directory / "f").read_bytes() == b"one"


def test_a_full_disk_does_not_keep_gc_from_freeing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    rest(store)
    fill(store, b"two")

    def full(*_: object) -> None:
        raise StoreFullError("the disk is full")

    monkeypatch.setattr(store, "cache_drop", full)
    forget_awake(store)
    assert rows(store) == [resting_key(NAME)]


def test_without_room_for_both_it_stays_a_directory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    room = os.statvfs(store.root)
    full = os.statvfs_result([*room[:4], 0, *room[5:]])
    monkeypatch.setattr(resting_caches.os, "statvfs", lambda _: full)
    ((_, why),) = rest(store).kept
    assert "room" in why


def test_gc_puts_to_rest_what_was_idle_for_a_day(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    with Store.open(tmp_path / "store", create=True) as store:
        fill(store, b"x" * 700, days_ago=0.5)
        assert "put to rest" not in cli.ok("gc").out
        fill(store, b"x" * 700, days_ago=2)
        assert "1 cache mount with 700B put to rest\n" in cli.ok("gc", "--dry-run").out
        assert rows(store) == []
        later = cli.ok("gc", "--rest-caches-after", "3d", "--json").json()
        assert later["cache_mounts_rested"] == 0
        assert "1 cache mount with 700B put to rest, " in cli.ok("gc").out
        assert rows(store) == [resting_key(NAME)]
        assert cli.ok("gc", "--json").json()["cache_keys"] == []
        assert "OK" in cli.ok("check").out.upper()
        (layer,) = (record.diff_id for record in store.cache_records())
        assert "a cache mount at rest" in cli.ok("gc", "--explain", str(layer)).out
        with taken(store) as directory:
            assert (directory / "f").read_bytes() == b"x" * 700


OTHER = MountSpec(type="cache", target="/o", id="o", sharing="locked")


@pytest.mark.parametrize("after", ["0s", "1d"])
def test_a_dry_run_foresees_to_the_byte(tmp_path: Path, after: str) -> None:
    """Of a cache that woke, one that never rested, and garbage beside them."""
    cli = Cli(tmp_path / "store")
    words = ("gc", "--json", "--rest-caches-after", after)
    with Store.open(tmp_path / "store", create=True) as store:
        fill(store, noise("before", 90_000))
        rest(store)
        with taken(store) as directory:
            (directory / "f").write_bytes(noise("after", 50_000))
        with taken(store, OTHER) as directory:
            (directory / "o").write_bytes(noise("other", 30_000))
        build(store, "gone:1", {b"g": noise("gone", 70_000)})
        store.untag("gone:1")
        before = disk_bytes(store.root)
        foreseen = cli.ok(*words, "--dry-run").json()
        assert rows(store) == [resting_key(NAME)]
        assert disk_bytes(store.root) == before
        done = cli.ok(*words).json()
        told_apart = ("dry_run", "size_after")
        assert {k: v for k, v in foreseen.items() if k not in told_apart} == {
            k: v for k, v in done.items() if k not in told_apart
        }
        assert done["freed_bytes"] > (30_000 if after == "0s" else 75_000)
        assert done["cache_mounts_rested"] == (2 if after == "0s" else 0)
        if after == "1d":
            assert before - disk_bytes(store.root) == done["freed_bytes"]
        at_rest = [NAME, cache_name(OTHER)] if after == "0s" else []
        assert sorted(rows(store)) == sorted(map(resting_key, at_rest))
        with taken(store) as directory:
            assert (directory / "f").read_bytes() == noise("after", 50_000)
        assert cli.ok("check", "--read-data").code == 0


def test_a_cap_counts_what_is_put_to_rest_and_says_so(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "store")
    with Store.open(tmp_path / "store", create=True) as store:
        fill(store, noise("capped", 90_000))
        words = ("gc", "--rest-caches-after", "0s", "--max-size", "20k")
        assert "only doing it tells" in cli.ok(*words, "--dry-run").err
        cli.ok(*words)
        assert rows(store) == [], "it rested, and was over the cap"
        assert os.listdir(store.paths.cache_mounts) == []


@pytest.mark.parametrize("rule", [("--all",), ("--keep-cache-within", "30d"), ("--max-size", "1")])
def test_rules_for_caches_hold_at_rest(tmp_path: Path, rule: tuple[str, ...]) -> None:
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    tree.mkdir()
    with Store.open(tmp_path / "store", create=True) as store:
        fill(store, days_ago=40)
        cli.ok("gc")
        assert rows(store) == [resting_key(NAME)]
        cli.ok("import", tree, "-t", "now:1")
        assert "1 cache mount at rest" in cli.ok("gc", *rule, "--dry-run").out
        assert cli.ok("gc", *rule, "--json").json()["resting_cache_mounts"] == 1
        assert rows(store) == []
        with taken(store) as directory:
            assert os.listdir(directory) == []
