"""SIGKILL at every call of a rebuild of the index: what opened before opens after, whole."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest

from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support import killing
from tests.support.killing import killed
from tests.support.store import Files, add_image, assert_sound, noise, read_image, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

A: Files = {b"a/%d" % n: text(n, 9_000) for n in range(8)}
B: Files = {b"b": noise(1, 60_000)}
LATE: Files = {b"late": noise(2, 30_000)}
CALLS = (*killing.CALLS, "link")
SETTLE_EVERY = 4


def run_in_child(work: Callable[[], object]) -> None:
    """Do something in a process that ends without letting go of anything."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def leave_a_log(root: Path) -> None:
    """Add an image that the database knows by its log alone, since its writer died."""

    def work() -> None:
        holder = Store.open(root)  # whoever lets go last copies the log into the database
        add_image(root, "late", LATE)
        assert holder.tags()

    run_in_child(work)
    assert (root / "catalog.sqlite-wal").stat().st_size > 0


@contextmanager
def a_reader_of_an_old_state(root: Path) -> Iterator[None]:
    """Keep the log from being copied into the database, then add an image that only it has."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with Store.open(root) as store, store.catalog.pinned():
                os.write(told, b"x")
                signal.pause()
        finally:
            os._exit(3)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"x"
        add_image(root, "late", LATE)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)


def lose_a_page(root: Path) -> None:
    """Zero the first page of a table: the catalog opens, and is of no use."""
    with Store.open(root) as store:
        ((page,),) = store.catalog.query("SELECT rootpage FROM sqlite_schema WHERE name = 'blocks'")
        ((size,),) = store.catalog.query("PRAGMA page_size")
    assert isinstance(page, int)
    assert isinstance(size, int)
    with (root / "catalog.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))


def lose_the_head(root: Path) -> None:
    with (root / "catalog.sqlite").open("r+b") as file:
        file.write(b"no database")


def lose_all(root: Path) -> None:
    for path in root.glob("catalog.sqlite*"):
        path.unlink()


def put_a_directory(root: Path) -> None:
    lose_all(root)
    (root / "catalog.sqlite").mkdir()
    (root / "catalog.sqlite-wal").mkdir()


class Old(NamedTuple):
    """The catalog that is replaced.

    Attributes:
        make: Makes it, once.
        beside: Who is at work in each store while that is rebuilt.
        opens: Whether a store with it opens.
        whole: Whether that is sound, too.
        late: Whether it has the image that came last.
    """

    make: Callable[[Path], object] = lambda _: None
    beside: Callable[[Path], AbstractContextManager[None]] = lambda _: nullcontext()
    opens: bool = False
    whole: bool = False
    late: bool = False


OLD = {
    "sound": Old(opens=True, whole=True),
    "with a log": Old(leave_a_log, opens=True, whole=True, late=True),
    "with a log that somebody reads": Old(
        beside=a_reader_of_an_old_state, opens=True, whole=True, late=True
    ),
    "damaged": Old(lose_a_page, opens=True),
    "no database": Old(lose_the_head),
    "missing": Old(lose_all),
    "a directory": Old(put_a_directory),
}


def names_or_error(root: Path) -> set[str] | str:
    try:
        with Store.open(root) as store:
            return set(store.tags())
    except CatalogDamagedError as err:
        return err.message


def settle(root: Path, images: Mapping[str, Sequence[Files]]) -> None:
    """Rebuild again, collect, and look whether anything is left or lost."""
    rebuild_catalog(str(root))
    assert not (root / "catalog.rebuilt").exists()
    assert_sound(root, images)
    with Store.open(root) as store:
        execute(plan_gc(store))
        assert check(store, read_data=True).findings == ()
        assert store.catalog.query("PRAGMA integrity_check") == [("ok",)]
        assert read_image(store, "a") == [A]
    assert list((root / "tmp").iterdir()) == []


@pytest.mark.parametrize("kind", OLD)
def test_a_store_that_opened_opens_wherever_its_rebuild_is_killed(
    tmp_path: Path, kind: str
) -> None:
    old = OLD[kind]
    images = {"a": [A], "b": [B]} | ({"late": [LATE]} if old.late else {})
    names = {f"{name}:latest" for name in images}
    add_image(tmp_path / "store", "a", A)
    add_image(tmp_path / "store", "b", B)
    old.make(tmp_path / "store")
    begun = finished = 0
    for step in count(1):
        root = tmp_path / "tries" / f"{step}"
        shutil.copytree(tmp_path / "store", root)
        with old.beside(root):
            work = partial(rebuild_catalog, str(root))
            dead = killed(work, step, after=False, calls=CALLS)
        is_new = (root / "catalog.rebuilt").exists()
        begun += is_new
        found = names_or_error(root)
        if old.opens or is_new or finished or not dead:
            assert found == names, step
        if old.whole:
            assert_sound(root, images)
        finished += is_new
        if is_new or not dead or step % SETTLE_EVERY == 0:
            settle(root, images)
        shutil.rmtree(root)
        if not dead:
            break
    assert begun > 3, "the replacement was not seen"
