"""Records of snapshots: ``views/snapshot-NUMBER.json``, one for each.

They are all that is known of snapshots: there is no other state. As records of views they keep the
collector off the layers they list. A record is replaced whole and is on disk before anybody is
told: what a record says, a power cut does not take back.

Normative: docs/format/snapshots.md.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec

from layerstore.digest import DiffId, parse_digest
from layerstore.errors import FormatError
from layerstore.linux.files import (
    fsync_directory,
    publish_bytes,
    read_file,
    remove_if_present,
)
from layerstore.store.collect.marks import VIEW_RECORD_MAX_BYTES
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.paths import StorePaths

VIEW: Final = "view"
ACTIVE: Final = "active"
COMMITTED: Final = "committed"

Kind = Literal["view", "active", "committed"]

_NAME: Final = re.compile(r"snapshot-([1-9][0-9]{0,17})")


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot.

    Attributes:
        number: Names its files; never used twice while anything of it is there.
        key: What containerd calls it.
        parent: Number of the snapshot it is built on, None for none.
        created_ns: Since the epoch.
        size: Of a committed one: bytes that its files took when it was committed.
        inodes: The same, for inodes.
        has_upper: Whether its own files lie in a directory of ``uppers/``.
        layer: Of a committed one: the layer that holds its own files, None while they
            lie in its upper alone.
        chain: Its chain ID if its layers came from an image of this store, else "".
        over_uppers: Of another: numbers of snapshots whose uppers it lies over, uppermost first.
        over_layers: And the layers below those, lowest first.
    """

    number: int
    key: str
    kind: Kind
    parent: int | None = None
    labels: dict[str, str] = {}
    created_ns: int
    updated_ns: int
    size: int = 0
    inodes: int = 0
    has_upper: bool = False
    layer: DiffId | None = None
    chain: str = ""
    over_uppers: tuple[int, ...] = ()
    over_layers: tuple[DiffId, ...] = ()

    @property
    def user(self) -> str:
        """The name of its record, and of its directory in ``uppers/``."""
        return f"snapshot-{self.number}"


class _Document(msgspec.Struct, frozen=True):
    """A record as it lies on disk; the first four fields are for all who read records of views."""

    kind: Literal["snapshot"]
    image_id: str
    layers: tuple[str, ...]
    upper: str | None
    snapshot: Snapshot


class Loaded(NamedTuple):
    """All snapshots of a store, and what is wrong with records that are none."""

    snapshots: list[Snapshot]
    damaged: list[tuple[str, str]]


def record_path(paths: StorePaths, number: int) -> str:
    """Return where the record of a snapshot lies."""
    return f"{paths.views}/snapshot-{number}.json"


def upper_path(paths: StorePaths, number: int) -> str:
    """Return the directory of a snapshot's own files: ``upper`` and ``work`` in it."""
    return f"{paths.uppers}/snapshot-{number}"


def write_record(paths: StorePaths, snapshot: Snapshot) -> None:
    """Write a record; it is on disk when this returns.

    Raises:
        StorageError: It could not be written.
    """
    own = () if snapshot.layer is None else (snapshot.layer,)
    document = _Document(
        "snapshot",
        "",
        (*snapshot.over_layers, *own),
        upper_path(paths, snapshot.number) if snapshot.has_upper else None,
        snapshot,
    )
    target = record_path(paths, snapshot.number)
    with storage_errors("write the record of a snapshot"):
        staging = f"{target}.{os.getpid()}.tmp"
        publish_bytes(msgspec.json.encode(document), staging=staging, target=target)


def remove_record(paths: StorePaths, number: int) -> None:
    """Remove a record, durably; harmless if it is gone.

    Raises:
        StorageError: It could not be removed.
    """
    with storage_errors("remove the record of a snapshot"):
        if remove_if_present(record_path(paths, number)):
            fsync_directory(paths.views)


def load_records(paths: StorePaths) -> Loaded:
    """Return what there is, in order of numbers."""
    loaded = Loaded([], [])
    for number in _numbers(os.listdir(paths.views), ".json"):
        path = record_path(paths, number)
        try:
            found = _decode(read_file(path, max_bytes=VIEW_RECORD_MAX_BYTES), number)
        except (OSError, ValueError, RecursionError, FormatError) as err:
            loaded.damaged.append((path, str(err)))
            continue
        loaded.snapshots.append(found)
    return loaded


def numbers_in_use(paths: StorePaths) -> set[int]:
    """Return the numbers that anything on disk still has: records, uppers, what is set aside."""
    return {
        *_numbers(os.listdir(paths.views), ".json"),
        *_numbers(os.listdir(paths.quarantine), ".json"),
        *upper_numbers(paths),
    }


def upper_numbers(paths: StorePaths) -> list[int]:
    """Return the numbers that have a directory in ``uppers/``."""
    return _numbers(os.listdir(paths.uppers), "")


def set_aside(paths: StorePaths, path: str) -> None:
    """Move a damaged record to ``quarantine/``; its upper stays.

    Raises:
        StorageError: It could not be moved.
    """
    with storage_errors("set a damaged record aside"):
        os.rename(path, f"{paths.quarantine}/{os.path.basename(path)}")


def is_set_aside(paths: StorePaths, number: int) -> bool:
    """Whether a damaged record had this number."""
    return os.path.lexists(f"{paths.quarantine}/snapshot-{number}.json")


def _numbers(names: list[str], suffix: str) -> list[int]:
    stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return sorted(int(match[1]) for stem in stems if (match := _NAME.fullmatch(stem)))


def _decode(encoded: bytes, number: int) -> Snapshot:
    """Return the snapshot of a record.

    Raises:
        ValueError: It is none, or another's.
        FormatError: It names a layer that none can be.
    """
    snapshot = msgspec.json.decode(encoded, type=_Document).snapshot
    if snapshot.number != number:
        raise ValueError("it is the record of another snapshot")
    for layer in (*snapshot.over_layers, snapshot.layer):
        if layer is not None:
            parse_digest(layer)
    if snapshot.kind == COMMITTED and not snapshot.has_upper and snapshot.layer is None:
        raise ValueError("it has neither files nor a layer")
    return snapshot


def with_parents(
    loaded: list[Snapshot], refuse: Callable[[Snapshot], object]
) -> dict[int, Snapshot]:
    """Return snapshots whose parents are all there; ``refuse`` gets each of the others."""
    by_number = {snapshot.number: snapshot for snapshot in loaded}
    whole: dict[int, Snapshot] = {}
    for number in sorted(by_number):  # a parent is older than what is built on it
        snapshot = by_number[number]
        parent = None if snapshot.parent is None else whole.get(snapshot.parent)
        if snapshot.parent is None or (parent is not None and parent.kind == COMMITTED):
            whole[number] = snapshot
        else:
            refuse(snapshot)
    return whole
