"""Stores open to a group: real users side by side, and what stays private."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.config import create_store, load_config
from layerstore.store.failures import ReadOnlyStoreError
from layerstore.store.paths import StorePaths
from layerstore.store.sharing import StoreBusyError, access_mismatches, share_store
from layerstore.store.store import Store
from tests.support.forked import problem_in_child
from tests.support.killing import killed
from tests.support.store import add_image, noise, read_image, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = 54_321
ANN, BOB, EVE = 54_001, 54_002, 54_003
A = {b"a/%d" % n: text(n, 5_000) for n in range(10)}
B = {b"b/%d" % n: noise(n, 5_000) for n in range(10)}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")


def as_user(uid: int, groups: list[int], work: Callable[[], object], umask: int = 0o077) -> str:
    """Run ``work`` as a user with a hostile umask; return what it raised, "" if nothing."""

    def as_them() -> None:
        os.setgroups(groups)
        os.setgid(uid)
        os.setuid(uid)
        os.umask(umask)
        work()

    return problem_in_child(as_them)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody may pass; pytest's own are the tester's alone."""
    place = Path(tempfile.mkdtemp(prefix="layerstore-test-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def root(open_place: Path) -> Path:
    """A shared store with an image."""
    root = open_place / "store"
    add_image(root, "a", A)
    share_store(StorePaths(str(root)), GROUP if os.geteuid() == 0 else os.getegid())
    # What children import later they may not be able to read.
    with Store.open(root) as store:
        execute(plan_gc(store))
        assert check(store, read_data=True).ok
    return root


def modes(root: Path) -> set[tuple[str, int]]:
    """Kinds and modes of everything in a store."""
    found = set()
    for path in [root, *root.rglob("*")]:
        mode = path.lstat().st_mode
        found.add(("dir" if stat.S_ISDIR(mode) else "file", stat.S_IMODE(mode)))
    return found


def test_a_store_is_its_owners_alone_even_in_a_shared_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    before = os.umask(0)
    try:
        add_image(tmp_path / "store", "a", A)
    finally:
        os.umask(before)
    assert modes(tmp_path / "store") == {("dir", 0o700), ("file", 0o600)}
    assert not load_config(StorePaths(str(tmp_path / "store"))).shared


def test_an_empty_shared_directory_made_a_store_is_private(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2770)
    create_store(StorePaths(str(root)))
    assert modes(root) == {("dir", 0o700), ("file", 0o600)}


def test_everything_in_a_shared_store_is_the_groups_and_nobody_elses(root: Path) -> None:
    before = os.umask(0o077)
    try:
        add_image(root, "b", B)
    finally:
        os.umask(before)
    assert modes(root) == {("dir", 0o2770), ("file", 0o660)}
    assert len({path.lstat().st_gid for path in root.rglob("*")}) == 1
    paths = StorePaths(str(root))
    assert load_config(paths).shared
    assert list(access_mismatches(paths, shared=True)) == []
    share_store(paths, root.stat().st_gid)  # again is harmless
    create_store(paths)  # as `init` does
    assert modes(root) == {("dir", 0o2770), ("file", 0o660)}


@as_root
def test_members_and_root_work_side_by_side(root: Path) -> None:
    def ann() -> None:
        with Store.open(root) as store:
            assert read_image(store, "a") == [A]
        add_image(root, "ann", B)

    def bob() -> None:
        with Store.open(root) as store:
            assert read_image(store, "ann") == [B]
            store.untag("ann")
            assert execute(plan_gc(store)).packs_removed == 1
            store.tag("bobs", store.resolve("a").image_id)
        add_image(root, "bob", {b"x": noise(9, 9_000)})

    assert as_user(ANN, [GROUP], ann) == ""
    assert as_user(BOB, [GROUP], bob, umask=0o027) == ""
    add_image(root, "root", B)
    assert as_user(ANN, [GROUP], ann) == ""
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()
        assert set(store.tags()) >= {"a:latest", "bob:latest", "bobs:latest", "root:latest"}
    assert modes(root) == {("dir", 0o2770), ("file", 0o660)}
    owners = {path.lstat().st_uid for path in root.rglob("*.pack")}
    assert owners >= {0, BOB}
    assert {path.lstat().st_gid for path in root.rglob("*")} == {GROUP}


@as_root
def test_members_check_repair_and_rebuild_what_others_wrote(root: Path) -> None:
    from layerstore.image.repairing import repair_store
    from layerstore.store.rebuild.rebuild import rebuild_catalog

    def ann() -> None:
        add_image(root, "ann", B)

    def bob() -> None:
        with Store.open(root) as store:
            place = store.catalog.locate(store.layer(store.resolve("ann").layers[0]).tree[0][1])
            assert place is not None
            with open(store.paths.pack(place.pack_id), "r+b") as file:
                file.seek(100)
                file.write(b"damage")
        assert not repair_store(str(root), [], dry_run=False).ok
        add_image(root, "ann", B)
        rebuild_catalog(str(root))
        with Store.open(root) as store:
            assert read_image(store, "ann") == [B]
            assert check(store, read_data=True).ok

    repair_store(str(root), [], dry_run=False)
    rebuild_catalog(str(root))
    assert as_user(ANN, [GROUP], ann) == ""
    assert as_user(BOB, [GROUP], bob) == ""
    assert as_user(ANN, [GROUP], lambda: add_image(root, "more", A)) == ""


@as_root
def test_others_may_not_even_look(root: Path) -> None:
    said = as_user(EVE, [], lambda: Store.open(root))
    assert "Permission denied" in said


@as_root
def test_another_members_unfinished_build_does_not_stop_gc(root: Path) -> None:
    def ann() -> None:
        place = root / "tmp" / "lease-00000000000000aa.build"
        place.mkdir(mode=0o700)
        (place / "file").write_bytes(b"x")
        place.chmod(0o700)

    def bob() -> None:
        with Store.open(root) as store:
            execute(plan_gc(store))

    assert as_user(ANN, [GROUP], ann) == ""
    assert as_user(BOB, [GROUP], bob) == ""
    assert len(list((root / "tmp").iterdir())) == 1
    assert as_user(ANN, [GROUP], bob) == ""
    assert list((root / "tmp").iterdir()) == []


@as_root
def test_only_a_member_or_root_can_share(open_place: Path) -> None:
    home = open_place / "ann"
    home.mkdir(mode=0o700)
    os.chown(home, ANN, ANN)
    root = home / "store"
    paths = StorePaths(str(root))
    assert as_user(ANN, [], lambda: add_image(root, "a", A)) == ""
    assert ReadOnlyStoreError.__name__ in as_user(ANN, [], lambda: share_store(paths, GROUP))
    assert as_user(ANN, [GROUP], lambda: share_store(paths, GROUP)) == ""
    assert as_user(BOB, [GROUP], lambda: add_image(root, "b", B)) != ""  # home is Ann's
    home.chmod(0o755)
    assert as_user(BOB, [GROUP], lambda: add_image(root, "b", B)) == ""


def test_a_store_at_work_or_mounted_is_not_shared(tmp_path: Path) -> None:
    root = tmp_path / "store"
    add_image(root, "a", A)
    paths = StorePaths(str(root))
    with Store.open(root) as store, store.begin("test"), pytest.raises(StoreBusyError):
        share_store(paths, os.getegid())
    (root / "views" / "v.json").write_text("{}")
    with pytest.raises(StoreBusyError, match="mounted"):
        share_store(paths, os.getegid())
    (root / "views" / "v.json").unlink()
    assert not load_config(paths).shared
    share_store(paths, os.getegid())


def test_check_tells_who_else_may_enter(tmp_path: Path) -> None:
    root = tmp_path / "store"
    add_image(root, "a", A)
    (root / "names.log").chmod(0o644)
    (root / "packs").chmod(0o755)
    with Store.open(root) as store:
        report = check(store, read_data=False)
    assert report.ok
    (finding,) = report.findings
    assert finding.problem is Problem.ACCESS_DIFFERS
    assert "2 " in finding.message


def test_a_kill_while_sharing_leaves_a_store_its_owner_can_use(tmp_path: Path) -> None:
    add_image(tmp_path / "whole", "a", A)
    step, dead = 0, True
    while dead:
        step += 1
        root = tmp_path / f"{step}"
        shutil.copytree(tmp_path / "whole", root)
        paths = StorePaths(str(root))
        dead = killed(
            lambda paths=paths: share_store(paths, os.getegid()),  # type: ignore[misc]
            step,
            after=False,
            calls=("chmod",),
        )
        with Store.open(root) as store:
            assert check(store, read_data=False).ok, step
        add_image(root, "b", B)
        share_store(paths, os.getegid())
        assert modes(root) == {("dir", 0o2770), ("file", 0o660)}, step
    assert step > 10
