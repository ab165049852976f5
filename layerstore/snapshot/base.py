"""The life cycle of a writable root file system over layers.

A snapshotter *prepares* a directory that looks like the layers and takes writes;
what was written lies apart from the layers, in an upper directory, so that it can become
the next layer. The caller works in ``root``, reads ``upper`` before it leaves the
context, and leaving takes the mounts away. Nothing is kept: the scratch directory is
the caller's, with everything in it, and what it wants to keep it has ingested.

Who makes the layers visible is a second role: a lower provider gives, for as long as
its context lasts, a directory that shows a chain of layers read-only.
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from layerstore.digest import DiffId
    from layerstore.linux.mounts import Overlay


class Snapshot(NamedTuple):
    """A prepared root file system.

    Attributes:
        root: The mounted tree: layers and what is written on top.
        upper: What was written, in the form of an overlayfs upper directory.
        xattr_prefix: Beginning of overlayfs' own attributes in ``upper``:
            ``trusted.overlay.``, or ``user.overlay.`` inside a user namespace.
    """

    root: Path
    upper: Path
    xattr_prefix: bytes


class Below(NamedTuple):
    """What a writable overlay over layers lies over.

    Attributes:
        overlay: Without upper and work directory. The first of its lower directories has the
            attributes of the layers' root.
        escaped: What an image has under overlayfs' own names is escaped there, and other such
            names are overlayfs' own.
    """

    overlay: Overlay
    escaped: bool


class LowerProvider(Protocol):
    """Makes chains of layers visible as directories."""

    def lower(self, layers: Sequence[DiffId]) -> AbstractContextManager[Path]:
        """Show the layers, lowest first, for as long as the context lasts.

        Raises:
            MountError: They could not be mounted; the message says why.
        """
        ...

    def below(self, layers: Sequence[DiffId]) -> Below:
        """Show the layers, lowest first, to an overlay of the caller's own.

        Its lower directories need not be the one that :meth:`lower` gives: an overlay may lie
        over the same parts as that.

        Raises:
            MountError: They could not be mounted; the message says why.
        """
        ...


class Snapshotter(Protocol):
    """Prepares writable root file systems."""

    def prepare(self, layers: Sequence[DiffId], scratch: Path) -> AbstractContextManager[Snapshot]:
        """Make a writable root over the layers.

        Args:
            layers: Diff ids, lowest first; none gives an empty root.
            scratch: A directory of the caller for upper and mount point; made if
                absent, and of no other snapshot.

        Raises:
            MountError: It could not be mounted.
        """
        ...
