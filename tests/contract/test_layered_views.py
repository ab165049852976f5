"""Chains of layers as trees: what an upper layer does to lower ones, in everything that shows one.

Each layer is what changed in a plain directory, written down by hand, and the directory as it is in
the end is what views are compared with. Files of every layer are opened in writable views, too:
an overlay without metacopy follows redirects of its lowest directory alone, so layers must not be
shown apart there (docs/decisions/0248).
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.formats.tree import Changeset
from layerstore.store.store import Store
from tests.support.trees import compare_trees
from tests.support.views import (
    changeset_of,
    publish_changeset,
    publish_image,
    shown_in_every_way,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.writing.session import WriteSession

pytestmark = shown_in_every_way

BASE_FILES = 600
APPLICATION_FILES = 300
MTIME_S = 1_700_000_000


class Chain:
    """An image of three layers, and the directory that it should look like."""

    def __init__(self, base: Path) -> None:
        self.store = base / "store"
        self.tree = base / "tree"
        self.tree.mkdir()
        with Store.open(self.store, create=True) as store, store.begin("test") as session:
            layers = [self._distribution(session), self._application(session), self._last(session)]
            ids = [publish_changeset(session, layer) for layer in layers]
            self.image: ImageRecord = publish_image(session, ids, "chain:1")

    def _distribution(self, session: WriteSession) -> Changeset:
        for number in range(BASE_FILES):
            self._write(f"usr/lib/d{number % 20:02}/f{number:04}", f"base {number}")
        for name in ("opaque/a", "opaque/deep/b", "removed/c", "replaced/d", "again/old"):
            self._write(name, f"base {name}")
        self._write("becomes", "a file that becomes a directory")
        for name in ("a-base", "c-stays", "e-left"):
            self._write(f"links/{name}", f"linked {name}")
        os.link(self.tree / "links/c-stays", self.tree / "links/d-goes")
        os.link(self.tree / "links/e-left", self.tree / "usr/elsewhere")
        return self._layer(session, [""])

    def _application(self, session: WriteSession) -> Changeset:
        for number in range(APPLICATION_FILES):
            self._write(f"srv/app/d{number % 5}/f{number:04}", f"application {number}")
        self._write("usr/lib/d03/f0003", "replaced in a directory of the base")
        self._write("usr/lib/d03/new", "added to a directory of the base")
        self._write("top", "added to the root")
        self._remove("usr/lib/d04/f0004", "usr/lib/d05", "removed", "replaced", "becomes")
        self._remove("again", "links/d-goes", "usr/elsewhere")
        self._write("replaced", "a directory that became a file")
        self._write("becomes/inside", "a file that became a directory")
        self._remove("opaque")
        self._write("opaque/only", "all that is left")
        os.link(self.tree / "links/a-base", self.tree / "links/b-above")
        (self.tree / "usr/lib/d06").chmod(0o750)
        os.chown(self.tree / "usr/lib/d06", 1234, 5678)
        os.setxattr(self.tree / "usr/lib/d07", "user.layer", b"second")
        os.setxattr(self.tree / "usr/lib/d08/f0008", "user.layer", b"second")
        os.mknod(self.tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.symlink("lib/d09", self.tree / "usr/link")
        return self._layer(
            session,
            [
                "srv",
                "top",
                "replaced",
                "becomes",
                "opaque",
                "links/b-above",
                "device",
                "usr/link",
                "usr/lib/d03/f0003",
                "usr/lib/d03/new",
                "usr/lib/d08/f0008",
            ],
            only=["usr/lib/d06", "usr/lib/d07"],
            gone=[
                "usr/lib/d04/f0004",
                "usr/lib/d05",
                "removed",
                "again",
                "links/d-goes",
                "usr/elsewhere",
            ],
            opaque=["opaque"],
        )

    def _last(self, session: WriteSession) -> Changeset:
        self._write("again/new", "of a directory that comes back without what it had")
        self._write("usr/lib/d04/f0004", "of a file that comes back")
        self._write("srv/app/d1/f0001", "changed above")
        self._remove("srv/app/d2", "usr/lib/d03/new")
        return self._layer(
            session,
            ["again", "usr/lib/d04/f0004", "srv/app/d1/f0001"],
            gone=["srv/app/d2", "usr/lib/d03/new"],
        )

    def _write(self, name: str, text: str) -> None:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)

    def _remove(self, *names: str) -> None:
        for name in names:
            path = self.tree / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _layer(
        self,
        session: WriteSession,
        whole: Collection[str],
        only: Collection[str] = (),
        gone: Collection[str] = (),
        opaque: Collection[str] = (),
    ) -> Changeset:
        """Return these names as they are now, with the directories that they lie in.

        Args:
            session: Takes the content.
            whole: With what is below them.
            only: Without it.
            gone: Taken from the layers below.
            opaque: Directories of which nothing below is seen.
        """
        self._set_times()
        above = {parent for name in (*whole, *only, *gone) for parent in _parents(name)}
        entries = tuple(
            entry
            for entry in changeset_of(session, self.tree).entries
            if (path := entry.path.decode()) in above
            or path in only
            or any(not top or path == top or path.startswith(f"{top}/") for top in whole)
        )
        return Changeset(
            entries,
            tuple(name.encode() for name in sorted(gone)),
            tuple(name.encode() for name in opaque),
        )

    def _set_times(self) -> None:
        for directory, _, names in os.walk(self.tree, topdown=False):
            for path in (*(f"{directory}/{name}" for name in names), directory):
                os.utime(path, (MTIME_S, MTIME_S), follow_symlinks=False)


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition("/")[0]
        yield name


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    chain = Chain(tmp_path_factory.mktemp("layered"))
    yield chain
    undo_all_mounts(chain.store)


@pytest.fixture
def view(chain: Chain, tmp_path: Path, backend: str, rw: bool) -> Iterator[Path]:
    target = tmp_path / "view"
    target.mkdir()
    mounts.mount(str(chain.store), chain.image, str(target), rw=rw, backend=backend)
    yield target
    mounts.unmount(str(chain.store), str(target))


def test_the_tree_that_the_layers_make(chain: Chain, view: Path) -> None:
    assert compare_trees(chain.tree, view) == []
    assert compare_trees(chain.tree, view) == []


def test_links_are_counted_over_all_layers(chain: Chain, view: Path) -> None:
    for name in ("a-base", "b-above", "c-stays", "e-left"):
        wanted = (chain.tree / "links" / name).stat().st_nlink
        assert (view / "links" / name).stat().st_nlink == wanted, name
    assert os.path.samefile(view / "links/a-base", view / "links/b-above")


def test_inode_numbers_are_one_files_and_listings_tell_them(chain: Chain, view: Path) -> None:
    seen: dict[tuple[int, int], set[str]] = {}
    for directory, names, files in os.walk(view):
        with os.scandir(directory) as entries:
            told = {entry.name: entry.inode() for entry in entries}
        for name in (*names, *files):
            status = os.lstat(f"{directory}/{name}")
            assert told[name] == status.st_ino, f"{directory}/{name}"
            seen.setdefault((status.st_dev, status.st_ino), set()).add(f"{directory}/{name}")
    shared = [names for names in seen.values() if len(names) > 1]
    assert shared == [{f"{view}/links/a-base", f"{view}/links/b-above"}]
    assert len({device for device, _ in seen}) == 1


def test_files_of_every_layer_are_changed_whole(chain: Chain, view: Path, rw: bool) -> None:
    if not rw:
        with pytest.raises(OSError, match="Read-only"):
            (view / "top").chmod(0o600)
        return
    for name in ("usr/lib/d10/f0010", "usr/lib/d03/f0003", "srv/app/d3/f0003", "again/new", "top"):
        before = (chain.tree / name).read_text()
        (view / name).chmod(0o600)
        assert (view / name).read_text() == before, name
        with (view / name).open("a") as file:
            file.write(" and more")
        assert (view / name).read_text() == f"{before} and more", name
