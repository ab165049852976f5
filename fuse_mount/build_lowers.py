"""Layers made visible for a build: by the kernel where it can, by a FUSE server else.

A chain is an overlay of parts: upper directories that earlier steps have left, images of small
layers, and one metadata image below them (:mod:`layerstore.image.kernel.chain_images`). They are
mounted in the build's mount namespace. Where the kernel cannot,
:class:`fuse_mount.private_lowers.PrivateLowers` shows the layers, with the upper directories over
them. All of it ends with the build, however it ends: mounts with its namespace, the server with
its pipe. A kernel that refuses to mount is not asked again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fuse_mount.kernel_lowers import WRITABLE_OPTIONS
from fuse_mount.lowers import chain_name
from fuse_mount.object_maker import ObjectMaker
from fuse_mount.private_lowers import PrivateLowers
from layerstore.errors import LayerstoreError, MountError, UnsupportedError
from layerstore.image.kernel.chain_images import NO_IMAGES, ChainImages
from layerstore.linux import mounts
from layerstore.linux.data_layers import FOLLOWING, follows_without_metacopy
from layerstore.linux.namespaces import in_user_namespace
from layerstore.snapshot.base import Below
from layerstore.snapshot.overlay import PLAIN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.image.kernel.chain_images import Part
    from layerstore.store.store import Store


class BuildLowers:
    """A lower provider (see :mod:`layerstore.snapshot.base`) for one build.

    :meth:`prepare` and :meth:`settle` are called where threads may be started, :meth:`lower`,
    :meth:`below` and :meth:`close` inside the build's mount namespace, where they may not.

    Args:
        store: Holds the layers; the caller keeps them from the collector.
        scratch: A directory of the build's own.
        changeset: Returns the entries of a layer; called from several threads.
        failed: Told why a file of an image could not be made.
    """

    def __init__(
        self,
        store: Store,
        scratch: Path,
        changeset: Callable[[DiffId], Changeset],
        failed: Callable[[LayerstoreError], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._directory = Path(scratch) / "kernel"
        self._images = ChainImages(store, str(self._directory), changeset)
        self._fuse = PrivateLowers(store.root, scratch)
        self._failed = failed
        self._making = threading.Lock()
        self._lock = threading.Lock()
        self._able: bool | None = None
        self._closed = False
        self._maker: ObjectMaker | None = None
        self._parts: dict[str, list[Part]] = {}
        self._mounts: list[str] = []
        self._used: list[tuple[DiffId, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.settle()
        self.close()

    def prepare(self, layers: Sequence[DiffId], *, lasting: bool = True) -> bool:
        """Make what the kernel needs to show a chain; return whether it will be asked to.

        Args:
            layers: Lowest first.
            lasting: As for :meth:`layerstore.image.kernel.chain_images.ChainImages.parts`.
        """
        with self._making:
            if self._able is None:
                self._able = not in_user_namespace() and follows_without_metacopy(PLAIN_OPTIONS)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if not self._able or self._closed:
                return False
            name = chain_name(layers)
            if name not in self._parts:
                with contextlib.suppress(*NO_IMAGES):
                    parts = self._images.parts(layers, lasting=lasting)
                    self._prepare_maker()
                    with self._lock:
                        self._parts[name] = parts
            return name in self._parts

    def leave_base(self, layers: Sequence[DiffId]) -> None:
        """Make what later builds need to show a chain, as far as it stays for them.

        Nothing is changed for this build, which may show the chain in another way.
        """
        with self._making:
            if self._able and not self._closed:
                with contextlib.suppress(*NO_IMAGES):
                    self._images.leave_base(layers)
                self._images.leave_images()

    @contextlib.contextmanager
    def used(self, chains: Iterable[Sequence[DiffId]]) -> Iterator[None]:
        """Keep what shows these chains from :meth:`drop_upper`."""
        used = [tuple(layers) for layers in chains]
        with self._lock:
            self._used += used
        try:
            yield
        finally:
            with self._lock:
                for layers in used:
                    self._used.remove(layers)

    def add_upper(self, layers: Sequence[DiffId], directory: Path) -> None:
        """Learn of a directory that shows the uppermost of these layers over the others.

        Nobody changes it any more, and it stays until :meth:`drop_upper` or :meth:`close`.
        """
        with self._making:
            self._images.add_upper(layers, str(directory))

    def drop_upper(self, layers: tuple[DiffId, ...]) -> bool:
        """Look no more at a directory of :meth:`add_upper`.

        Returns:
            False where somebody does, or may: a chain is being prepared.
        """
        if not self._making.acquire(blocking=False):
            return False
        try:
            with self._lock:
                if self._closed:
                    return True
                if any(used[: len(layers)] == layers for used in self._used):
                    return False
                directory = self._images.drop_upper(layers)
                self._parts = {
                    name: parts
                    for name, parts in self._parts.items()
                    if all(part.directory != directory for part in parts)
                }
        finally:
            self._making.release()
        return True

    @contextlib.contextmanager
    def lower(self, layers: Sequence[DiffId]) -> Iterator[Path]:
        """Show the layers, lowest first, until :meth:`close`.

        Raises:
            UnsupportedError: Neither the kernel nor FUSE can.
            MountError: The server could not start or load the layers.
        """
        overlay, escaped = self.below(layers)
        if not escaped and len(overlay.lowers) == 1:
            yield Path(overlay.lowers[0])
            return
        root = str(self._directory / f"root-{chain_name(layers)}")
        with self._lock:
            if root not in self._mounts:
                self._used.append(tuple(layers))  # it stays
                os.mkdir(root, 0o700)
                mounts.mount_overlay(self._readonly(overlay), root, mounts.MS_RDONLY)
                self._mounts.append(root)
        yield Path(root)

    def below(self, layers: Sequence[DiffId]) -> Below:
        """Return what an overlay of one's own over a chain has below.

        Raises:
            UnsupportedError: Neither the kernel nor FUSE can show the chain.
            MountError: The server could not start or load the layers.
        """
        with self._lock:
            parts = self._parts.get(chain_name(layers)) if self._able else None
            if parts is not None:
                try:
                    return Below(self._mounted(parts), escaped=True)
                except (MountError, UnsupportedError):
                    self._able = False
            uppers, rest = self._images.uppers(layers)
        shown = self._fuse.below(rest)
        directories = tuple(part.directory for part in uppers)
        overlay = shown.overlay._replace(lowers=(*directories, *shown.overlay.lowers))
        return Below(overlay, escaped=bool(uppers))

    def settle(self) -> None:
        """Keep for later builds what was unpacked; harmless when it fails, for it is a cache."""
        if self._maker is not None:
            with contextlib.suppress(LayerstoreError):
                self._maker.keep()

    def close(self) -> None:
        """Take all mounts away; harmless when done before. Nothing is shown from then on."""
        with self._making, self._lock:
            self._closed = True
            for place in reversed(self._mounts):
                with contextlib.suppress(MountError):
                    mounts.unmount(place, lazy=True)
            self._mounts.clear()
            self._parts.clear()
            if self._maker is not None:
                self._maker.close()
                self._maker = None
            self._images.close()
        self._fuse.close()

    def _prepare_maker(self) -> None:
        """Have what makes objects ready if one may lack.

        Raises:
            UnsupportedError: This host has no /dev/fuse for us.
        """
        if self._maker is None and self._images.missing():
            maker = ObjectMaker(
                self._store, str(self._directory), self._images.objects, self._failed
            )
            maker.start()
            self._maker = maker

    def _readonly(self, overlay: mounts.Overlay) -> mounts.Overlay:
        """Return an overlay that nobody writes to, and so has at least two directories."""
        if overlay.data:
            return overlay._replace(options=(*FOLLOWING, "xino=on"))
        empty = str(self._directory / "empty")
        with contextlib.suppress(FileExistsError):
            os.mkdir(empty, 0o700)
        return overlay._replace(lowers=(*overlay.lowers, empty))

    def _mounted(self, parts: Sequence[Part]) -> mounts.Overlay:
        """Mount those parts that are not, and return an overlay of all."""
        lowers = tuple(part.directory or self._mounted_image(part) for part in parts)
        if not parts[-1].is_base:
            return mounts.Overlay(lowers, options=WRITABLE_OPTIONS)
        data = [self._store.paths.objects]
        if self._maker is not None:
            self._maker.mount()
            data += self._maker.layers
        return mounts.Overlay(lowers, options=WRITABLE_OPTIONS, data=tuple(data))

    def _mounted_image(self, part: Part) -> str:
        place = str(self._directory / f"image-{part.name}")
        if place not in self._mounts:
            os.mkdir(place, 0o700)
            mounts.mount_erofs(part.image, place, mounts.MS_RDONLY)
            self._mounts.append(place)
        return place
