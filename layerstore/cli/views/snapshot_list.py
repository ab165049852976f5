"""containerd's snapshots, as ``mounts`` lists them beside views."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.cli.output import age, shorten
from layerstore.errors import FormatError
from layerstore.snapshotter.records import ACTIVE, COMMITTED, load_records, upper_path
from layerstore.store.paths import StorePaths
from layerstore.units import rfc3339

if TYPE_CHECKING:
    from layerstore.errors import LayerstoreError
    from layerstore.snapshotter.records import Snapshot

_KEY_WIDTH = 40
_SECOND_NS = 10**9


def snapshots(root: str, failures: list[LayerstoreError]) -> list[Snapshot]:
    """Return a store's snapshots in order of their numbers.

    Args:
        root: The store.
        failures: Takes the errors of records that are damaged.
    """
    loaded = load_records(StorePaths(root))
    failures += [
        FormatError(f"{path} is damaged: {why}", hint="the snapshotter sets it aside at its start")
        for path, why in loaded.damaged
    ]
    return loaded.snapshots


def snapshot_row(root: str, snapshot: Snapshot, now_s: float) -> list[str]:
    """Return a row of the table that ``mounts`` prints."""
    made = age(rfc3339(snapshot.created_ns // _SECOND_NS), now_s)
    key = shorten(snapshot.key, _KEY_WIDTH)
    upper = _upper(root, snapshot) or "-"
    return [snapshot.user, "snapshot", key, _mode(snapshot), "-", upper, made, _state(snapshot)]


def snapshot_to_json(root: str, snapshot: Snapshot) -> dict[str, object]:
    """Return what ``mounts --format json`` says of a snapshot."""
    return {
        "view_id": snapshot.user,
        "kind": "snapshot",
        "key": snapshot.key,
        "mode": _mode(snapshot),
        "upper": _upper(root, snapshot),
        "parent": None if snapshot.parent is None else f"snapshot-{snapshot.parent}",
        "layer": snapshot.layer,
        "created": snapshot.created_ns / _SECOND_NS,
        "state": _state(snapshot),
    }


def _mode(snapshot: Snapshot) -> str:
    return "rw" if snapshot.kind == ACTIVE else "ro"


def _state(snapshot: Snapshot) -> str:
    if snapshot.kind != COMMITTED:
        return snapshot.kind
    if snapshot.layer is None:
        return "committed: not packed"
    return "committed: packed, files unpacked" if snapshot.has_upper else "committed: packed"


def _upper(root: str, snapshot: Snapshot) -> str | None:
    path = os.path.join(upper_path(StorePaths(root), snapshot.number), "upper")
    return path if snapshot.has_upper else None
