"""A view served through mfusepy as its users write it: callbacks by path, dictionaries for stats.

    python -m tests.bench.mfusepy_server STORE IMAGE DIR

With ``FUSE_LIBRARY_PATH`` naming libfuse 2 or 3, and mfusepy where Python finds it. For
:mod:`tests.bench.fuse_servers` alone: it serves what the contract suite does not judge.
"""

from __future__ import annotations

import errno
import os
import sys

import mfusepy

from fuse_mount.errno_map import errno_for
from fuse_mount.operations import SingleTree
from fuse_mount.server import mount_options
from layerstore.image.trees.stack import load_root
from layerstore.store.store import Store
from layerstore.vfs.view import ImageView


class Operations(mfusepy.Operations):
    """The tree of a view in mfusepy's words."""

    use_ns = True

    def __init__(self, tree: SingleTree) -> None:
        self._tree = tree

    def init_with_config(self, _connection: object, config: mfusepy.fuse_config | None) -> None:
        if config is not None:  # libfuse 3 takes these here
            config.use_ino = config.kernel_cache = 1
            config.entry_timeout = config.attr_timeout = config.negative_timeout = 86_400

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        try:
            found = self._tree.attributes(os.fsencode(path))
        except Exception as error:
            raise mfusepy.FuseOSError(errno_for(error)) from error
        time = {"st_mtime": found.mtime_ns, "st_ctime": found.mtime_ns, "st_atime": found.mtime_ns}
        return {
            "st_ino": found.ino, "st_mode": found.mode, "st_nlink": found.nlink,
            "st_uid": found.uid, "st_gid": found.gid, "st_rdev": found.rdev,
            "st_size": found.size, "st_blocks": found.blocks, **time,
        }  # fmt: skip

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        entries = self._tree.entries(os.fsencode(path))
        return [(os.fsdecode(e.name), {"st_ino": e.ino, "st_mode": e.mode}, 0) for e in entries]

    def open(self, path: str, flags: int) -> int:
        raise mfusepy.FuseOSError(errno.ENOSYS)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._tree.read(os.fsencode(path), offset, size)

    def readlink(self, path: str) -> str:
        return os.fsdecode(self._tree.link_target(os.fsencode(path)))

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        raise mfusepy.FuseOSError(errno.ENOSYS)

    def listxattr(self, path: str) -> list[str]:
        raise mfusepy.FuseOSError(errno.ENOSYS)


def main() -> None:
    store_root, image, target = sys.argv[1:]
    options = mount_options()
    if mfusepy.fuse_version_major == 3:
        for name in (
            "use_ino",
            "kernel_cache",
            "entry_timeout",
            "attr_timeout",
            "negative_timeout",
        ):
            del options[name]
    with Store.open(store_root) as store:
        tree = SingleTree(ImageView(store, load_root(store, store.resolve(image).layers)), bool)
        mfusepy.FUSE(Operations(tree), target, foreground=True, nothreads=True, **options)


if __name__ == "__main__":
    main()
