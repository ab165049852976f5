"""Metadata images made of those of bases: judged by the kernel, beside images made as a whole."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import ChunkId, blake3_id
from layerstore.formats.erofs import encode_image, has_no_acls
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.kernel.grown_image import NoAdditionError, grow
from layerstore.image.kernel.kernel_tree import kernel_tree
from layerstore.image.trees.stack import stack
from layerstore.linux import mounts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

UUID = bytes(range(16))
ACL = b"\2\0\0\0\1\0\6\0\xff\xff\xff\xff\4\0\4\0\xff\xff\xff\xff\x20\0\4\0\xff\xff\xff\xff"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting EROFS needs root")


def layer(*entries: Entry, whiteouts: tuple[bytes, ...] = ()) -> Changeset:
    return Changeset(tuple(sorted(entries, key=lambda entry: path_key(entry.path))), whiteouts)


def file(path: bytes, content: bytes = b"content", **more: object) -> Entry:
    extents = ((len(content), ChunkId(blake3_id(content))),) if content else ()
    return Entry(
        path, Kind.FILE, mode=0o644, size=len(content), extents=extents, mtime_ns=5, **more
    )


def directory(path: bytes, mode: int = 0o755, **more: object) -> Entry:
    return Entry(path, Kind.DIR, mode=mode, mtime_ns=7, **more)


BASE = layer(
    directory(b"", uid=3),
    directory(b"srv"),
    file(b"srv/old"),
    directory(b"srv/deep/er"),
    *(file(b"wide/%04d-with-a-long-name" % number) for number in range(400)),
    directory(b"owned", uid=1, xattrs=((b"user.a", b"b"),)),
    Entry(b"link", Kind.SYMLINK, target=b"srv"),
    file(b"one"),
    Entry(b"two", Kind.HARDLINK, target=b"one"),
)
ADDED = layer(
    directory(b"", 0o711, uid=9, gid=8),
    directory(b"srv/app", 0o700, xattrs=((b"user.a", b"b"),)),
    *(file(b"srv/app/%d" % number, b"%d" % number) for number in range(300)),
    file(b"srv/app/implied/empty", b""),
    directory(b"srv/deep", 0o2750, gid=5),
    *(file(b"wide/more-%04d-with-a-long-name" % number) for number in range(200)),
    Entry(b"wide/link", Kind.SYMLINK, target=b"t" * 4095),
    Entry(b"null", Kind.CHAR, dev_major=1, dev_minor=3),
    Entry(b"srv/fifo", Kind.FIFO, uid=7),
    file(b"\xff" * 255, xattrs=((b"trusted.overlay.opaque", b"y"), (b"user.x", b"y" * 3000))),
)


def whole(changesets: Sequence[Changeset]) -> tuple[bytearray, set[bytes]]:
    tree = kernel_tree(stack(changesets))
    return encode_image(tree.inodes, uuid=UUID), set(tree.objects)


def grown(base: Sequence[Changeset], *more: Sequence[Changeset]) -> tuple[bytearray, set[bytes]]:
    image, objects = whole(base)
    for changesets in more:
        objects |= grow(image, changesets, uuid=UUID).keys()
    return image, objects


def seen(image: bytearray, place: Path) -> dict[str, object]:
    """Return all that the kernel says of an image."""
    place.mkdir()
    (place / "image").write_bytes(image)
    (place / "root").mkdir()
    if shutil.which("fsck.erofs"):
        checked = subprocess.run(["fsck.erofs", place / "image"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
    fd = os.open(place / "image", os.O_RDONLY)
    root = place / "root"
    mounts.mount_erofs(fd, str(root), mounts.MS_RDONLY)
    os.close(fd)
    found: dict[str, object] = {}
    numbers: dict[int, str] = {}
    try:
        for above, directories, files in [*os.walk(root)]:
            for path in [above, *(f"{above}/{name}" for name in [*directories, *files])]:
                status = os.lstat(path)
                first = numbers.setdefault(status.st_ino, path)
                assert first == path or status.st_nlink > 1
                names = sorted(os.listxattr(path, follow_symlinks=False))
                found[os.path.relpath(path, root)] = (
                    status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns,
                    status.st_nlink, status.st_size,
                    status.st_rdev, os.readlink(path) if os.path.islink(path) else "",
                    os.path.relpath(first, root),
                    [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names],
                )  # fmt: skip
            if above != str(root):
                assert os.path.samefile(f"{above}/..", os.path.dirname(above))
    finally:
        mounts.unmount(str(root))
    return found


def assert_same(base: Sequence[Changeset], more: Sequence[Sequence[Changeset]], at: Path) -> None:
    image, objects = grown(base, *more)
    expected, all_objects = whole([*base, *(one for changesets in more for one in changesets)])
    assert seen(image, at / "grown") == seen(expected, at / "whole")
    assert objects == all_objects


@as_root
class TestGrown:
    def test_is_what_a_whole_one_is(self, tmp_path: Path) -> None:
        assert_same([BASE], [[ADDED]], tmp_path)

    def test_by_several_layers_and_again(self, tmp_path: Path) -> None:
        second = layer(file(b"srv/app/lib/x", b"x"), directory(b"srv/app", 0o755))
        third = layer(file(b"srv/app/lib/y", b"y"), file(b"new/z"), directory(b"wide", 0o700))
        assert_same([BASE], [[ADDED, second], [third]], tmp_path)

    def test_by_nothing(self, tmp_path: Path) -> None:
        assert_same([BASE], [[layer()]], tmp_path)

    @pytest.mark.parametrize("seed", range(6))
    def test_by_any_names(self, seed: int, tmp_path: Path) -> None:
        chosen = random.Random(seed)
        taken: set[bytes] = set()

        def some(count: int) -> Changeset:
            entries = []
            for _ in range(count):
                path = b"/".join(b"d%d" % chosen.randrange(6) for _ in range(chosen.randrange(5)))
                path += b"/f%d" % chosen.randrange(10_000) + b"x" * chosen.randrange(200)
                if (path := path.lstrip(b"/")) not in taken:
                    taken.add(path)
                    entries.append(file(path, chosen.randbytes(2)))
            return layer(*entries)

        assert_same([some(600)], [[some(200), some(50)], [some(100)]], tmp_path)

    def test_an_acl_that_was_added_is_looked_for(self, tmp_path: Path) -> None:
        acl = layer(file(b"listed", xattrs=((b"system.posix_acl_access", ACL),)))
        image, _ = grown([BASE], [ADDED])
        assert has_no_acls(bytes(image[:2048]))
        image, _ = grown([BASE], [acl])
        assert not has_no_acls(bytes(image[:2048]))
        assert_same([BASE], [[acl]], tmp_path)


@pytest.mark.parametrize(
    "more",
    [
        layer(file(b"srv/old", b"other")),
        layer(file(b"srv")),
        layer(file(b"one/below")),
        layer(file(b"link/below")),
        layer(directory(b"one")),
        layer(directory(b"owned", 0o700)),
        layer(file(b"owned/new")),
        layer(directory(b"srv", xattrs=((b"user.a", b"b"),))),
        layer(Entry(b"srv/three", Kind.HARDLINK, target=b"one")),
        layer(file(b"new"), whiteouts=(b"srv/old",)),
        Changeset((file(b"srv/x"),), (), (b"srv",)),
    ],
)
def test_what_does_more_than_to_add_is_refused(more: Changeset) -> None:
    with pytest.raises(NoAdditionError):
        grown([BASE], [more])


def test_a_file_that_two_layers_add_is_refused() -> None:
    with pytest.raises(NoAdditionError):
        grown([BASE], [layer(file(b"new")), layer(file(b"new", b"other"))])
