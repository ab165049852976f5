"""Layers made visible for a build: by the kernel where it costs little, by a FUSE server else.

What :class:`layerstore.image.chain_images.ChainImages` could prepare is mounted in the
build's mount namespace, without a process; every other chain is shown by
:class:`fuse_mount.private_lowers.PrivateLowers`. Both end with the build, however it ends:
mounts with its namespace, the server with its pipe. A kernel that refuses to mount is not
asked again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fuse_mount.kernel_lowers import WRITABLE_OPTIONS
from fuse_mount.lowers import chain_name
from fuse_mount.private_lowers import PrivateLowers
from layerstore.errors import MountError, UnsupportedError
from layerstore.image.chain_images import ChainImages
from layerstore.linux import mounts
from layerstore.linux.data_layers import FOLLOWING, follows_without_metacopy
from layerstore.snapshot.overlay import PLAIN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.image.stack import Node
    from layerstore.store.store import Store


_NESTED_OPTIONS = (*PLAIN_OPTIONS, "xino=off")
"""Over a chain of several images: without metacopy an overlay follows redirects out of its last
lower layer alone, so it lies over the overlay that shows the chain. Inode numbers of that are
as wide as they can be, and xino would have to say so in the kernel's log for each."""


class BuildLowers:
    """A lower provider (see :mod:`layerstore.snapshot.base`) for one build.

    :meth:`prepare` is called where threads may be started, :meth:`lower` and :meth:`close`
    inside the build's mount namespace, where they may not.

    Args:
        store: Holds the layers; the caller keeps them from the collector.
        scratch: A directory of the build's own.
        load: Returns a tree of its own over layers.
    """

    def __init__(
        self, store: Store, scratch: Path, load: Callable[[Sequence[DiffId]], Node]
    ) -> None:
        self._tier = store.paths.objects
        self._directory = Path(scratch) / "kernel"
        self._images = ChainImages(store, str(self._directory), load)
        self._fuse = PrivateLowers(store.root, scratch)
        self._lock = threading.Lock()
        self._able: bool | None = None
        self._mounts: list[str] = []
        self._roots: dict[str, mounts.Overlay] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, layers: Sequence[DiffId]) -> bool:
        """Make what the kernel needs to show a chain; return whether it will be asked to."""
        with self._lock:
            if self._able is None:
                self._able = follows_without_metacopy(PLAIN_OPTIONS)
            if not self._able:
                return False
            self._directory.mkdir(mode=0o700, exist_ok=True)
            return self._images.prepare(layers)

    @contextlib.contextmanager
    def lower(self, layers: Sequence[DiffId]) -> Iterator[Path]:
        """Show the layers, lowest first, until :meth:`close`.

        Raises:
            UnsupportedError: Neither the kernel nor FUSE can.
            MountError: The server could not start or load the layers.
        """
        if self._show(layers):
            yield self._place(layers) / "root"
            return
        with self._fuse.lower(layers) as path:
            yield path

    def below(self, layers: Sequence[DiffId]) -> mounts.Overlay:
        """Return what an overlay of one's own over a shown chain has below."""
        shown = self._roots.get(chain_name(layers))
        return shown if shown is not None else self._fuse.below(layers)

    def close(self) -> None:
        """Take all mounts away; harmless when done before."""
        with self._lock:
            for place in reversed(self._mounts):
                with contextlib.suppress(MountError):
                    mounts.unmount(place, lazy=True)
            self._mounts.clear()
            self._roots.clear()
            self._images.close()
        self._fuse.close()

    def _place(self, layers: Sequence[DiffId]) -> Path:
        return self._directory / chain_name(layers)

    def _show(self, layers: Sequence[DiffId]) -> bool:
        """Mount a prepared chain if it is not; return whether the kernel shows it."""
        with self._lock:
            if chain_name(layers) in self._roots:
                return True
            images = self._images.images(layers) if self._able else ()
            if not images:
                return False
            try:
                self._mount(layers, images)
            except (MountError, UnsupportedError):
                self._able = False
                return False
            return True

    def _mount(self, layers: Sequence[DiffId], images: tuple[int, ...]) -> None:
        place = self._place(layers)
        lowers = []
        for number, image in enumerate(images):
            target = place / f"image-{number}"
            target.mkdir(mode=0o700, parents=True)
            mounts.mount_erofs(image, str(target), mounts.MS_RDONLY)
            self._mounts.append(str(target))
            lowers.append(str(target))
        root = place / "root"
        root.mkdir(mode=0o700)
        data = (self._tier, self._images.objects)
        shown = mounts.Overlay(tuple(lowers), options=(*FOLLOWING, "xino=on"), data=data)
        mounts.mount_overlay(shown, str(root), mounts.MS_RDONLY)
        self._mounts.append(str(root))
        if len(images) == 1:
            below = shown._replace(options=WRITABLE_OPTIONS)
        else:
            below = mounts.Overlay((str(root),), options=_NESTED_OPTIONS)
            # Whether this kernel nests so deep must be known before a step depends on it.
            trial = below._replace(lowers=(str(root), lowers[0]))
            os.close(mounts.create_overlay(trial))
        self._roots[chain_name(layers)] = below
