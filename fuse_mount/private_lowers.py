"""Layers made visible for one process alone: a FUSE server that dies with its owner.

A build goes through many chains of layers, one a step, and wants all of them gone when
it ends, however it ends. So it has one server of its own, mounted in its own mount
namespace, whose root directory holds a directory for each chain asked for. A pipe
ties the two together: when the owner is gone, killed or not, the server reads end of
file, takes the mount away and exits.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fuse_mount.lowers import chain_name
from fuse_mount.starting import start_server
from layerstore.errors import MountError
from layerstore.linux import mounts
from layerstore.snapshot.base import Below
from layerstore.snapshot.overlay import overlay_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId


class PrivateLowers:
    """A lower provider (see :mod:`layerstore.snapshot.base`) for the calling process.

    Use it in a ``with`` block, after entering a private mount namespace if one is wanted.
    The server starts with the first chain. Safe for several threads. Processes forked
    without exec share the pipe and so keep the server alive.

    Args:
        store_root: The store that holds the layers; the caller keeps its layers from
            the garbage collector (a write session's lease does).
        scratch: A directory of the caller for the mount point and the server's files.
    """

    def __init__(self, store_root: Path | str, scratch: Path) -> None:
        self._store_root = str(store_root)
        self._directory = Path(scratch) / "lowers"
        self._lock = threading.Lock()
        self._life = -1
        self._pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def server_pid(self) -> int:
        """The server's pid, 0 when it has not been started."""
        return self._pid

    @contextlib.contextmanager
    def lower(self, layers: Sequence[DiffId]) -> Iterator[Path]:
        """Show the layers, lowest first.

        The directory stays until :meth:`close`; the context is there for providers
        that count their users.

        Raises:
            UnsupportedError: FUSE is missing here.
            MountError: The server could not start or load the layers.
        """
        yield self._shown(layers)

    def below(self, layers: Sequence[DiffId]) -> Below:
        """Return what an overlay of one's own over the layers has below.

        Raises:
            As :meth:`lower`.
        """
        path = self._shown(layers)
        return Below(mounts.Overlay((str(path),), options=overlay_options()), escaped=False)

    def _shown(self, layers: Sequence[DiffId]) -> Path:
        with self._lock:
            if self._life < 0:
                self._start()
            return self._show(layers)

    def close(self) -> None:
        """Take the mount away and let the server end; harmless when done before."""
        with self._lock:
            if self._life < 0:
                return
            with contextlib.suppress(MountError):
                mounts.unmount(str(self._mountpoint), lazy=True)
            os.close(self._life)
            self._life, self._pid = -1, 0

    @property
    def _mountpoint(self) -> Path:
        return self._directory / "root"

    def _start(self) -> None:
        chains = self._directory / "chains"
        for path in (self._directory, self._mountpoint, chains):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec: dict[str, object] = {
            "store": self._store_root,
            "grow": str(chains),
            "mountpoint": str(self._mountpoint),
            "alive": str(self._directory / "alive"),
            "directory": None,
        }
        reading, writing = os.pipe()
        try:
            self._pid = start_server(str(self._directory), spec, life_fd=reading)
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._life = writing

    def _show(self, layers: Sequence[DiffId]) -> Path:
        name = chain_name(layers)
        # Written before the name is looked up: the kernel remembers for hours what is absent.
        (self._directory / "chains" / name).write_text("\n".join(layers), encoding="ascii")
        path = self._mountpoint / name
        try:
            os.stat(path)
        except OSError as err:
            raise MountError(
                f"the FUSE server could not show {len(layers)} layers: {err.strerror}",
                hint=f"see its log: {self._directory / 'log'}",
            ) from err
        return path
