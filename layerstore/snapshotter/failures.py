"""What a snapshotter refuses, as containerd's errors have it.

Source: containerd, core/snapshots/snapshotter.go and errdefs.
"""

from __future__ import annotations

from layerstore.errors import ConflictError, InputError, NotFoundError


class SnapshotNotFoundError(NotFoundError):
    """No snapshot has this key."""


class SnapshotExistsError(ConflictError):
    """A snapshot has this key already, or the one that is asked for is there."""


class SnapshotBusyError(ConflictError):
    """A snapshot is of another kind than it must be, or others are built on it."""


class SnapshotRequestError(InputError):
    """A request that no snapshotter could carry out."""
