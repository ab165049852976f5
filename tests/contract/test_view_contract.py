"""One odd tree on the host's file system, and everything that shows the image made of it.

Whatever shows an image - the view without a mount, the directory itself, FUSE, the kernel's
EROFS and overlay, a writable overlay over each - is held to the same directory, entry by
entry: mode, owner, time in nanoseconds, xattrs, links, devices, content.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from layerstore.image.trees.stack import load_root, walk
from layerstore.store.store import Store
from layerstore.vfs.view import ImageView
from tests.support.subjects import Shown, each_subject, read_only_and_writable
from tests.support.trees import Seen, compare_trees, describe_tree, make_odd_tree
from tests.support.views import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    odd = Shown(tmp_path_factory.mktemp("odd"), make_odd_tree)
    yield odd
    odd.close()


def see_view(view: ImageView) -> dict[bytes, Seen]:
    """Describe a view as tests.support.trees describes a directory."""
    names: dict[int, list[bytes]] = {}
    nodes = dict(walk(view.root))
    for path, node in nodes.items():
        names.setdefault(node.ino, []).append(path)
    return {path: see_node(view, node, names[node.ino]) for path, node in nodes.items()}


def see_node(view: ImageView, node, names: list[bytes]) -> Seen:
    found = view.attributes(node)
    kind = stat.S_IFMT(found.mode)
    regular = stat.S_ISREG(found.mode)
    content = b"".join(
        view.read(node, offset, 100_000)
        for offset in range(0, found.size if regular else 0, 100_000)
    )
    return Seen(
        kind=stat.filemode(kind)[0],
        mode=stat.S_IMODE(found.mode),
        uid=found.uid,
        gid=found.gid,
        mtime_ns=found.mtime_ns,
        size=found.size if regular else 0,
        device=(os.major(found.rdev), os.minor(found.rdev)),
        target=view.link_target(node) if stat.S_ISLNK(found.mode) else b"",
        content=content,
        xattrs=tuple(
            (os.fsdecode(name), view.xattr(node, name)) for name in sorted(view.xattr_names(node))
        ),
        links=tuple(sorted(names)),
        holes=(),
    )


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="making and reading the odd tree needs root")
def test_the_view_without_a_mount_is_the_tree(odd: Shown) -> None:
    with Store.open(odd.store) as store:
        seen = see_view(ImageView(store, load_root(store, odd.image.layers)))
    expected = describe_tree(odd.tree)
    assert seen.keys() == expected.keys()
    for path, entry in expected.items():
        assert seen[path] == entry, path


@each_subject
@read_only_and_writable
class TestMounted:
    pytestmark = needs_root

    @pytest.fixture
    def mounted(self, odd: Shown, rw: bool, subject: str) -> Iterator[Path]:
        with odd.at(subject, rw=rw) as target:
            yield target

    def test_it_is_the_tree(self, odd: Shown, mounted: Path) -> None:
        assert compare_trees(odd.tree, mounted) == []

    def test_it_is_the_tree_when_asked_again(self, odd: Shown, mounted: Path) -> None:
        compare_trees(odd.tree, mounted)
        assert compare_trees(odd.tree, mounted) == []

    def test_link_counts_and_blocks(self, odd: Shown, mounted: Path) -> None:
        for path, seen in describe_tree(odd.tree).items():
            status = os.lstat(os.path.join(os.fsencode(mounted), path))
            if stat.S_ISREG(status.st_mode):
                assert status.st_nlink == len(seen.links), path
                # The directory itself has a block for attributes, too.
                assert status.st_blocks * 512 <= status.st_size + 2 * 4096, path

    def test_directory_listings_give_types_and_inode_numbers(self, mounted: Path) -> None:
        for entry in os.scandir(mounted / "kinds"):
            status = os.lstat(entry.path)
            assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(status.st_mode)
            assert entry.inode() == status.st_ino

    def test_devices_and_set_user_id_do_not_act(self, mounted: Path) -> None:
        flags = os.statvfs(mounted).f_flag
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        devices = [
            path for path in (mounted / "kinds").iterdir() if stat.S_ISCHR(path.lstat().st_mode)
        ]
        assert devices, "the odd tree has no device"
        for path in devices:
            with pytest.raises(PermissionError):
                os.open(path, os.O_RDONLY)

    def test_only_a_writable_view_takes_writes(self, mounted: Path, rw: bool) -> None:
        if rw:
            (mounted / "new").write_bytes(b"new")
            assert (mounted / "new").read_bytes() == b"new"
        else:
            with pytest.raises(OSError, match="Read-only file system"):
                (mounted / "new").write_bytes(b"new")

    def test_absent_names_stay_absent(self, mounted: Path) -> None:
        for _ in range(2):
            assert not (mounted / "no such name").exists()
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(mounted, "user.none")
