"""Everything that can show a directory's tree, for suites that hold all of it to one contract.

A subject is the plain directory itself, bound read-only, or what a backend makes of an image
of it, which may be another store's (a lazy view); and a writable overlay over either. Backends
that the program learns join by themselves, through :data:`tests.support.views.BACKENDS`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from fuse_mount.lazy_lowers import LazySource
from layerstore.linux import mounts as syscalls
from layerstore.snapshot.overlay import PLAIN_OPTIONS, copy_root_attributes
from layerstore.store.store import Store
from tests.support.views import BACKENDS, image_of, needs_fuse, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DIRECTORY = "directory"
LAZY = "lazy-"
"""Begins subjects whose content another store has: nothing is here before it is read."""

SUBJECTS = [
    DIRECTORY,
    *BACKENDS,
    pytest.param(f"{LAZY}fuse", marks=needs_fuse),
    pytest.param(f"{LAZY}kernel", marks=needs_fuse),
]

each_subject = pytest.mark.parametrize("subject", SUBJECTS)
read_only_and_writable = pytest.mark.parametrize(
    "rw", [pytest.param(False, id="ro"), pytest.param(True, id="rw")]
)

_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV


class Shown:
    """A tree, and whatever shows it.

    Args:
        base: A directory to work in; the tree is ``base/tree``.
        fill: Makes the tree in an empty directory.
    """

    def __init__(self, base: Path, fill: Callable[[Path], object]) -> None:
        self.base = base
        self.tree = base / "tree"
        self.tree.mkdir()
        fill(self.tree)
        self.store = base / "store"
        self.image = image_of(self.store, self.tree)
        self._count = 0

    @contextlib.contextmanager
    def at(self, subject: str, *, rw: bool) -> Iterator[Path]:
        """Show the tree somewhere for the length of the block."""
        self._count += 1
        target = self.base / f"shown-{self._count}"
        target.mkdir()
        if subject.startswith(LAZY):
            with self._lazy(target, subject.removeprefix(LAZY), rw=rw):
                yield target
            return
        if subject != DIRECTORY:
            mounts.mount(str(self.store), self.image, str(target), rw=rw, backend=subject)
            try:
                yield target
            finally:
                mounts.unmount(str(self.store), str(target))
            return
        if rw:
            self._overlay(target)
        else:
            syscalls.bind(str(self.tree), str(target), flags=_FLAGS | syscalls.MS_RDONLY)
        try:
            yield target
        finally:
            syscalls.unmount(str(target))

    @contextlib.contextmanager
    def _lazy(self, target: Path, backend: str, *, rw: bool) -> Iterator[None]:
        local = self.base / f"local-{self._count}"
        Store.open(local, create=True).close()
        source = LazySource(str(self.store), self.image.image_id)
        mounts.mount(str(local), source, str(target), rw=rw, backend=backend)
        try:
            yield
        finally:
            mounts.unmount(str(local), str(target))

    def _overlay(self, target: Path) -> None:
        upper, work = self.base / f"upper-{self._count}", self.base / f"work-{self._count}"
        upper.mkdir()
        work.mkdir()
        copy_root_attributes(str(self.tree), str(upper))
        overlay = syscalls.Overlay((str(self.tree),), str(upper), str(work), PLAIN_OPTIONS)
        syscalls.mount_overlay(overlay, str(target), _FLAGS)

    def close(self) -> None:
        """Undo what is left."""
        undo_all_mounts(self.store)
