"""Random trees as EROFS images: what fsck.erofs and the kernel find is what went in.

Sizes of names, targets and attributes lie about the bounds at which the writer places things
elsewhere: behind the inode, in the next block, in blocks of their own.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import UnsupportedError
from layerstore.formats.erofs import Inode, write_image
from layerstore.linux import mounts
from tests.support.views import needs_root

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.formats.erofs_xattrs import Xattrs

SEEDS = range(12)
NAME_BYTES = [byte for byte in range(1, 256) if byte != ord("/")]
INODES_MAX = 600


class Grower:
    """Grows a tree; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.inodes: list[Inode] = []
        self._directory(0, 0)

    def _directory(self, depth: int, parent: int) -> int:
        index = len(self.inodes)
        self.inodes.append(Inode(0, 0, 0, 0, 0))
        children: dict[bytes, int] = {}
        below = 0
        for _ in range(self._chance.choice([0, 1, 3, 10, 40, 200] if depth < 4 else [0, 2])):
            name = self._bytes(NAME_BYTES, [1, 2, 8, 20, 100, 250, 255])
            if name in children or name in (b".", b".."):
                continue
            if self._chance.random() < 0.15 and depth < 4 and len(self.inodes) < INODES_MAX:
                children[name] = self._directory(depth + 1, index)
                below += 1
            else:
                children[name] = len(self.inodes)
                self.inodes.append(self._leaf())
        self.inodes[index] = Inode(
            stat.S_IFDIR | 0o755, 0, 0, self._chance.randrange(10**18), 2 + below,
            xattrs=self._xattrs("user."), children=sorted(children.items()), parent=parent,
        )  # fmt: skip
        return index

    def _leaf(self) -> Inode:
        chance = self._chance
        match chance.randrange(4):
            case 0:
                sizes = [1, 10, 60, 3000, 3960, 4000, 4031, 4032, 4033, 4095]
                return Inode(
                    stat.S_IFLNK | 0o777, chance.randrange(1 << 32), 0,
                    chance.randrange(-(10**18), 10**19), 1,
                    target=self._bytes(range(1, 256), sizes), xattrs=self._xattrs("trusted."),
                )  # fmt: skip
            case 1:
                return Inode(stat.S_IFIFO | 0o600, 0, 0, 0, 1, xattrs=self._xattrs("trusted."))
            case _:
                sizes = [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 32) + 5, 1 << 43, (1 << 45) + 1]
                return Inode(
                    stat.S_IFREG | chance.randrange(0o10000), 0, chance.randrange(1 << 32),
                    chance.randrange(10**18), 1, chance.choice(sizes),
                    xattrs=self._xattrs("user."),
                )  # fmt: skip

    def _xattrs(self, space: str) -> Xattrs:
        pairs: dict[bytes, bytes] = {}
        for _ in range(self._chance.choice([0, 0, 1, 2, 3, 12])):
            prefix = self._chance.choice([space, "trusted.", "security.x"])
            name = prefix.encode() + self._bytes(b"abcdefgh.", [1, 3, 30, 240])
            size = self._chance.choice([0, 1, 5, 100, 1000, 3900, 4000, 4096, 9000])
            pairs[name] = self._chance.randbytes(size)
        if self._chance.random() < 0.3:
            pairs[b"trusted.same"] = b"same"
        return tuple(pairs.items())

    def _bytes(self, letters: range | bytes | list[int], sizes: list[int]) -> bytes:
        return bytes(self._chance.choices(letters, k=self._chance.choice(sizes)))


@pytest.mark.parametrize("seed", SEEDS)
def test_fsck_finds_nothing(seed: int, tmp_path: Path) -> None:
    if shutil.which("fsck.erofs") is None:
        pytest.skip("fsck.erofs is not installed (apt-get install erofs-utils)")
    with (tmp_path / "image").open("wb") as file:
        write_image(Grower(seed).inodes, file)
    command = ["fsck.erofs", os.fspath(tmp_path / "image")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class TestMounted:
    pytestmark = needs_root

    @pytest.mark.parametrize("seed", SEEDS)
    def test_the_kernel_finds_what_went_in(self, seed: int, tmp_path: Path) -> None:
        inodes = Grower(seed).inodes
        target = tmp_path / "mounted"
        target.mkdir()
        with (tmp_path / "image").open("w+b") as file:
            write_image(inodes, file)
            file.flush()
            try:
                mounts.mount_erofs(file.fileno(), str(target))
            except UnsupportedError as err:
                pytest.skip(err.message)
        try:
            pending = [(os.fsencode(target), 0)]
            while pending:
                path, index = pending.pop()
                compare(path, inodes[index])
                pending += [(path + b"/" + name, i) for name, i in inodes[index].children]
        finally:
            mounts.unmount(str(target))


def compare(path: bytes, inode: Inode) -> None:
    status = os.lstat(path)
    seen = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink)
    assert seen == inode[:5], path
    names = os.listxattr(path, follow_symlinks=False)
    assert sorted(map(os.fsencode, names)) == sorted(name for name, _ in inode.xattrs), path
    for name, value in inode.xattrs:
        assert os.getxattr(path, name, follow_symlinks=False) == value, (path, name)
    for absent in ("trusted.overlay.opaque", "security.absent"):
        with contextlib.suppress(OSError):
            os.getxattr(path, absent, follow_symlinks=False)
            pytest.fail(f"{path!r} has {absent}")
    if stat.S_ISDIR(inode.mode):
        assert sorted(os.listdir(path)) == [name for name, _ in inode.children], path
    elif stat.S_ISLNK(inode.mode):
        assert os.readlink(path) == inode.target
    elif stat.S_ISREG(inode.mode):
        assert status.st_size == inode.size
        if inode.size:
            with open(path, "rb") as file:
                file.seek(inode.size - 1)
                assert file.read() == b"\0"
