"""check beside everybody at work: it changes nothing and cries wolf over nothing."""

from __future__ import annotations

import itertools
import os
import random
import traceback
from typing import TYPE_CHECKING

import pytest

from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import GcRunningError
from layerstore.store.store import Store
from tests.support.store import add_image, add_version, noise, text, versions
from tests.support.views import image_of, needs_fuse, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from pathlib import Path

WRITERS = 8
TURNS = 10
CHECKS = 4


def enough(root: Path) -> Path:
    """Return the file that says to writers that they need not go on for the check's sake."""
    return root.with_name("enough")


def write(root: Path, writer: int) -> None:
    """Import, tag, untag and remove, as fast as it goes, until the check has seen enough."""
    source = random.Random(writer)
    for turn in itertools.count():
        if turn >= TURNS and enough(root).exists():
            break
        name = f"w{writer}:{turn}"
        files = {b"own": noise(100 * writer + turn, 9_000)}
        files |= {b"shared/%d" % n: text(n, 4_000) for n in range(source.randrange(1, 9))}
        image = add_image(root, name, files)
        with Store.open(root) as store:
            store.tag(f"also{writer}", image.image_id)
            if turn % 3 == 0:
                store.untag(name)
            elif turn % 3 == 1:
                store.remove_image(image.image_id)


def test_check_beside_eight_writers_and_a_collector(tmp_path: Path) -> None:
    root = tmp_path / "store"
    for number, files in enumerate(versions(2, files=1)):
        add_version(root, f"keep:{number}", files)

    def collect() -> None:
        for _ in range(15):
            with Store.open(root) as store:
                try:
                    execute(plan_gc(store))
                except GcRunningError:
                    continue

    works = [lambda writer=w: write(root, writer) for w in range(WRITERS)]  # type: ignore[misc]
    children = [spawn(work) for work in (*works, collect)]
    checks = 0
    with Store.open(root) as store:
        while children:
            try:
                report = check(store, read_data=checks % 2 == 0)
            except GcRunningError:
                report = None
            if report is not None:
                checks += 1
                wolves = [f for f in report.findings if f.problem is not Problem.UNKNOWN_FILE]
                assert wolves == []
            if checks >= CHECKS:
                enough(root).touch()
            children = [child for child in children if not ended(child)]
        assert check(store, read_data=True).ok
    assert checks >= CHECKS


def spawn(work: object) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        except BaseException:  # noqa: BLE001 -- the parent sees the code, people the trace
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> bool:
    """Whether a child has ended; it must have ended well."""
    pid, status = os.waitpid(child, os.WNOHANG)
    assert pid == 0 or os.waitstatus_to_exitcode(status) == 0
    return pid != 0


class TestUnderViews:
    pytestmark = [*needs_root, *needs_fuse]  # noqa: RUF012 -- pytest takes a list

    @pytest.mark.parametrize("read_data", [False, True])
    def test_check_changes_nothing_under_mounted_views(
        self, tmp_path: Path, read_data: bool
    ) -> None:
        from fuse_mount import mounts

        root = tmp_path / "store"
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "file").write_bytes(noise(1, 400_000))
        image = image_of(root, tree, "a:1")
        try:
            for number in range(6):
                target = tmp_path / f"view{number}"
                target.mkdir()
                mounts.mount(str(root), image, str(target), rw=number % 2 == 0, name="a:1")
                assert (target / "file").read_bytes() == noise(1, 400_000)
            before = stats(root)
            with Store.open(root) as store:
                for _ in range(3):
                    report = check(store, read_data=read_data)
                    assert report.findings == ()
            assert stats(root) == before
            assert (tmp_path / "view3" / "file").read_bytes() == noise(1, 400_000)
        finally:
            undo_all_mounts(root)


def stats(root: Path) -> dict[str, tuple[int, ...]]:
    """Everything that stat tells of a store's files but when they were read.

    Aside: lock files, and the two files through which SQLite's readers share memory.
    """
    aside = {"locks", "catalog.sqlite-shm", "catalog.sqlite-wal"}
    found = {}
    for path in [root, *root.rglob("*")]:
        inside = path.parts[len(root.parts) :]
        if "root" in inside or not aside.isdisjoint(inside):
            continue  # a mounted view, or what is aside
        status = path.lstat()
        found[str(path)] = (
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
    return found
