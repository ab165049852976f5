"""Metadata images: judged by fsck.erofs and by the kernel, and held to their bytes."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from layerstore.errors import FormatError
from layerstore.formats import erofs, erofs_sums
from layerstore.formats.erofs import BLOCK_BYTES, Inode, write_image
from layerstore.formats.erofs_xattrs import XattrEncoder
from layerstore.linux import mounts
from tests.support.trees import CAPABILITY_NET_RAW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777
REDIRECT = (
    (b"trusted.overlay.metacopy", b""),
    (b"trusted.overlay.redirect", b"/ab/abcdef"),
)
NAMES_IN_A_BLOCK = (BLOCK_BYTES - 12 - 1 - 12 - 2) // (12 + 8)


def image_of(inodes: list[Inode]) -> bytes:
    out = io.BytesIO()
    size = write_image(inodes, out, uuid=bytes(range(16)))
    assert size == len(out.getvalue())
    assert size % BLOCK_BYTES == 0
    return out.getvalue()


def root(*children: tuple[bytes, int], nlink: int = 2) -> Inode:
    return Inode(DIRECTORY, 0, 0, 1_600_000_000_123_456_789, nlink, children=sorted(children))


def everything() -> list[Inode]:
    """A little of all that an image may hold."""
    own = ((b"user.x", b"y" * 3000), (b"security.capability", CAPABILITY_NET_RAW))
    return [
        root((b"!first", 1), (b"dir", 2), (b"dev", 3), (b"link", 4), (b"long", 5), (b"neg", 6),
             (b"empty", 7), (b"same", 1), (b"blk", 8), (b"\xff" * 255, 9), nlink=3),
        Inode(stat.S_IFREG | 0o4755, 1, 2, 5, 2, size=5 << 30, xattrs=(*REDIRECT, *own)),
        Inode(DIRECTORY, 7, 7, 0, 2),
        Inode(stat.S_IFCHR | 0o666, 0, 0, 0, 1, rdev=os.makedev(259, 70_000)),
        Inode(LINK, 70_000, 70_000, 0, 1, target=b"/short", xattrs=((b"trusted.t", b"1"),)),
        Inode(LINK, 0, 0, 0, 1, target=b"t" * 4095),
        Inode(stat.S_IFIFO | 0o600, 0, 0, -1_500_000_000, 1),
        Inode(FILE, 4_294_967_294, 0, 0, 1, xattrs=((b"trusted.t", b"1"),)),
        Inode(stat.S_IFBLK | 0o660, 0, 0, 0, 1, rdev=os.makedev(7, 300)),
        Inode(FILE, 0, 0, 0, 1, size=1, xattrs=REDIRECT),
    ]  # fmt: skip


def wide(count: int) -> list[Inode]:
    names = [(b"n%07d" % number, 1) for number in range(count)]
    return [root(*names), Inode(FILE, 0, 0, 0, count, size=9, xattrs=REDIRECT)]


SIZES = (1, 4000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 10 * BLOCK_BYTES + 4090)
"""Of content: behind the inode, in blocks, and in both."""


def contents() -> list[Inode]:
    """Files whose content is in the image."""
    names = [(b"%07d" % size, number) for number, size in enumerate(SIZES, 1)]
    files = [Inode(FILE, 0, 0, 0, 1, size, content=content(size)) for size in SIZES]
    return [root(*names), *files]


def content(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(size))


IMAGES = {
    "a root": [root()],
    "everything": everything(),
    "just a block of names": wide(NAMES_IN_A_BLOCK),
    "a name more": wide(NAMES_IN_A_BLOCK + 1),
    "one inode less than a block": wide(NAMES_IN_A_BLOCK - 4),
    "many names": wide(20_000),
    "content": contents(),
    "many attributes": [
        Inode(DIRECTORY, 0, 0, 0, 2, xattrs=tuple((b"user.%d" % n, b"") for n in range(200)))
    ],
}


@pytest.mark.parametrize("name", IMAGES)
def test_fsck_finds_nothing(name: str, tmp_path: Path) -> None:
    if shutil.which("fsck.erofs") is None:
        pytest.skip("fsck.erofs is not installed (apt-get install erofs-utils)")
    (tmp_path / "image").write_bytes(image_of(IMAGES[name]))
    done = subprocess.run(
        ["fsck.erofs", os.fspath(tmp_path / "image")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "mounted"
    target.mkdir()
    yield target
    if mounts.identify(str(target)).is_root:
        mounts.unmount(str(target))


def show(inodes: list[Inode], target: Path) -> None:
    path = target.with_name("image")
    path.write_bytes(image_of(inodes))
    fd = os.open(path, os.O_RDONLY)
    try:
        mounts.mount_erofs(fd, str(target))
    except mounts.UnsupportedError as err:
        pytest.skip(err.message)
    finally:
        os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
class TestMounted:
    def test_content(self, mounted: Path) -> None:
        show(contents(), mounted)
        for size in SIZES:
            assert (mounted / f"{size:07}").read_bytes() == content(size)

    def test_everything(self, mounted: Path) -> None:
        inodes = everything()
        show(inodes, mounted)
        names = dict(inodes[0].children)
        assert sorted(os.listdir(os.fsencode(mounted))) == sorted(names)
        for name, index in names.items():
            path = os.path.join(os.fsencode(mounted), name)
            inode, status = inodes[index], os.lstat(path)
            assert status.st_mode == inode.mode, name
            assert (status.st_uid, status.st_gid) == (inode.uid, inode.gid), name
            assert status.st_mtime_ns == inode.mtime_ns, name
            assert status.st_nlink == inode.nlink, name
            assert status.st_rdev == inode.rdev, name
            wanted = dict(inode.xattrs)
            listed = os.listxattr(path, follow_symlinks=False)
            assert {
                os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in listed
            } == wanted, name
            if stat.S_ISLNK(inode.mode):
                assert os.readlink(path) == inode.target
            if stat.S_ISREG(inode.mode):
                assert status.st_size == inode.size
        first, same = (os.lstat(mounted / name).st_ino for name in ("!first", "same"))
        assert first == same

    def test_wide_directories(self, mounted: Path) -> None:
        show(wide(20_000), mounted)
        assert sorted(os.listdir(mounted)) == [f"n{number:07}" for number in range(20_000)]
        for number in (0, 1, 9_999, 19_999):
            assert (mounted / f"n{number:07}").stat().st_nlink == 20_000
        assert not (mounted / "n0020000").exists()

    def test_what_is_no_image_is_refused(self, mounted: Path) -> None:
        path = mounted.with_name("image")
        path.write_bytes(bytes(8192))
        fd = os.open(path, os.O_RDONLY)
        try:
            with pytest.raises((mounts.MountCallError, mounts.UnsupportedError)):
                mounts.mount_erofs(fd, str(mounted))
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    ("xattrs", "words"),
    [
        (((b"user.x", bytes(65_536)),), "65536 bytes"),
        (((b"system.nfs4_acl", b""),), "does not know"),
        (tuple((b"user.%d" % n, bytes(2000)) for n in range(200)), "too many"),
    ],
)
def test_attributes_without_a_place(xattrs: tuple[tuple[bytes, bytes], ...], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        image_of([Inode(DIRECTORY, 0, 0, 0, 2, xattrs=xattrs)])


def test_too_many_shared_attributes() -> None:
    xattrs = tuple((b"user.%d" % n, b"same") for n in range(256))
    child = Inode(FILE, 0, 0, 0, 1, xattrs=xattrs)
    with pytest.raises(FormatError, match="256 attributes"):
        image_of([root((b"a", 1), (b"b", 2)), child, child])


@pytest.mark.parametrize("length", range(5))
def test_attributes_like_others_but_for_the_last_value(length: int) -> None:
    shared = (b"user.same", b"1")
    for others in ((), (shared,), REDIRECT[:1], (shared, (b"user.own", b"22"))):
        for name in (b"trusted.t", b"user.name", b"trusted.overlay.redirect"):
            inodes = [
                Inode(FILE, 0, 0, 0, 1, xattrs=(*others, (name, bytes([first]) * length)))
                for first in range(3)
            ]
            known = XattrEncoder([*(inode.xattrs for inode in inodes), (shared,)])
            for inode in inodes:
                assert known.encoded(inode.xattrs) == known._encoded(inode.xattrs)


def test_xxh32_is_the_specifications() -> None:
    known = {(b"", 0): 0x02CC5D05, (b"a", 0): 0x550D7456, (b"abc", 0): 0x32D153FF,
             (b"Nobody inspects the spammish repetition", 0): 0xE2293B2F,
             (b"", 1): 0x0B2CB792}  # fmt: skip
    for (data, seed), value in known.items():
        assert erofs_sums.xxh32(data, seed) == value


def test_the_superblock_is_as_documented() -> None:
    image = image_of(everything())
    magic, _, compat, block_bits = struct.unpack_from("<IIIB", image, 1024)
    assert (magic, compat, block_bits) == (0xE0F5E1E2, 0x7, 12)
    root_nid, inodes = struct.unpack_from("<HQ", image, 1024 + 14)
    assert inodes == len(everything())
    assert image[root_nid * 32 :][:2] == struct.pack("<H", 1 | 2 << 1)
    assert struct.unpack_from("<I", image, 1024 + 36) == (len(image) // BLOCK_BYTES,)
    assert image[1024 + 48 :][:16] == bytes(range(16))
    assert struct.unpack_from("<I", image, 1024 + 80) == (0x4,)


def test_an_image_says_that_it_has_no_acls() -> None:
    image = image_of(everything())
    assert erofs.has_no_acls(image[: erofs.HEAD_BYTES])
    assert image[1024 + 64 :][:16] == b"no-acl" + bytes(10)
    *others, last = everything()
    for name in (b"system.posix_acl_access", b"system.posix_acl_default"):
        changed = last._replace(xattrs=((b"user.a", b""), (name, b"value")))
        assert not erofs.has_no_acls(image_of([*others, changed]))


def test_bytes_are_frozen() -> None:
    """Another hash means that images in stores are made anew: raise the sidecar's version."""
    assert image_of(everything()) == image_of(everything())
    assert blake3(image_of(everything())).hexdigest()[:32] == "b4e80ffd6bbe1011a9dc553acec04a8b"
