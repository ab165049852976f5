"""The snapshots of a store in memory: what the records say, under one lock.

Every change is on disk, as a record, before it is seen here; so nobody acts on what a power
cut takes back.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from layerstore.snapshotter.failures import (
    SnapshotBusyError,
    SnapshotExistsError,
    SnapshotNotFoundError,
)
from layerstore.snapshotter.records import (
    COMMITTED,
    is_set_aside,
    load_records,
    numbers_in_use,
    remove_record,
    set_aside,
    upper_numbers,
    with_parents,
    write_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.digest import DiffId
    from layerstore.snapshotter.records import Snapshot
    from layerstore.store.paths import StorePaths


class Table:
    """See the module. Hold :attr:`changed` over what must see one moment; it may be nested.

    Args:
        paths: Of the store.
        tell: Gets a line about each record that is damaged.

    Attributes:
        changed: Guards everything, and is notified of changes.
    """

    def __init__(self, paths: StorePaths, tell: Callable[[str], None]) -> None:
        self._paths = paths
        self._tell = tell
        self.changed = threading.Condition(threading.RLock())
        loaded = load_records(paths)
        for path, why in loaded.damaged:
            tell(f"{path} is damaged ({why}) and moved to {paths.quarantine}")
            set_aside(paths, path)
        self._by_number = with_parents(loaded.snapshots, self._refuse)
        self._by_key = {each.key: each.number for each in self._by_number.values()}
        self._new = set[int]()
        self._next = max(numbers_in_use(paths), default=0) + 1

    def _refuse(self, snapshot: Snapshot) -> None:
        self._tell(f"snapshot {snapshot.key!r} is lost: the record of its parent is damaged")
        set_aside(self._paths, f"{self._paths.views}/{snapshot.user}.json")

    def orphans(self) -> list[int]:
        """Return the numbers of uppers that no snapshot has: a kill left them."""
        with self.changed:
            return [
                number
                for number in upper_numbers(self._paths)
                if not is_set_aside(self._paths, number)
                and (number not in self._by_number or not self._by_number[number].has_upper)
            ]

    # -- questions

    def all(self) -> list[Snapshot]:
        """Return all snapshots that somebody was told of."""
        with self.changed:
            return [each for each in self._by_number.values() if each.number not in self._new]

    def committed(self) -> list[Snapshot]:
        """Return committed snapshots, parents before what is built on them."""
        with self.changed:
            found = [each for each in self._by_number.values() if each.kind == COMMITTED]
        return sorted(found, key=lambda each: each.number)

    def get(self, number: int | None) -> Snapshot | None:
        """Return a snapshot by its number, if it is there."""
        with self.changed:
            return None if number is None else self._by_number.get(number)

    def find(self, key: str) -> Snapshot:
        """Return the snapshot that containerd calls so.

        Raises:
            SnapshotNotFoundError: None.
        """
        with self.changed:
            number = self._by_key.get(key)
            if number is None or number in self._new:
                raise SnapshotNotFoundError(f"snapshot {key!r} does not exist")
            return self._by_number[number]

    def parent(self, snapshot: Snapshot) -> Snapshot | None:
        """Return what a snapshot is built on."""
        return self.get(snapshot.parent)

    def lineage(self, number: int | None) -> list[Snapshot]:
        """Return a snapshot and all below it, uppermost first."""
        with self.changed:
            found = []
            here = self.get(number)
            while here is not None:
                found.append(here)
                here = self.parent(here)
            return found

    def layers(self, number: int) -> tuple[DiffId, ...]:
        """Return the layers of a snapshot that is packed with all below it, lowest first."""
        found = [each.layer for each in reversed(self.lineage(number))]
        layers = tuple(layer for layer in found if layer is not None)
        return layers if len(layers) == len(found) else ()

    def children(self, number: int) -> list[Snapshot]:
        """Return what is built on a snapshot."""
        with self.changed:
            return [each for each in self._by_number.values() if each.parent == number]

    def lies_over(self, number: int) -> bool:
        """Whether mounts lead into the upper of a snapshot, as a lower directory."""
        with self.changed:
            return any(number in each.over_uppers for each in self._by_number.values())

    # -- changes

    def new_number(self) -> int:
        """Return a number for a new snapshot."""
        with self.changed:
            self._next += 1
            return self._next - 1

    def require_free(self, key: str) -> None:
        """Refuse a key that is taken.

        Raises:
            SnapshotExistsError: It is.
        """
        with self.changed:
            if key in self._by_key:
                raise SnapshotExistsError(f"snapshot {key!r} already exists")

    def announce(self, snapshot: Snapshot) -> None:
        """Take the key and keep the parent for a snapshot that is being made, without a record.

        Raises:
            SnapshotExistsError: The key is taken.
        """
        with self.changed:
            self.require_free(snapshot.key)
            self._new.add(snapshot.number)
            self._put(snapshot)

    def settle_in(self, snapshot: Snapshot) -> None:
        """Let others see a snapshot that was announced, and has its record."""
        with self.changed:
            self._new.discard(snapshot.number)
            self.changed.notify_all()

    def withdraw(self, snapshot: Snapshot) -> None:
        """Forget a snapshot that could not be made."""
        with self.changed:
            self._new.discard(snapshot.number)
            self._drop(snapshot)
            remove_record(self._paths, snapshot.number)

    def add(self, snapshot: Snapshot) -> None:
        """Write the record of a snapshot that is whole, and let others see it.

        Raises:
            SnapshotExistsError: The key is taken.
            StorageError: The record could not be written.
        """
        with self.changed:
            self.require_free(snapshot.key)
            write_record(self._paths, snapshot)
            self._put(snapshot)

    def change(self, number: int, **changes: object) -> Snapshot | None:
        """Replace fields of a snapshot; None if it is gone.

        Raises:
            StorageError: The record could not be written.
        """
        with self.changed:
            before = self._by_number.get(number)
            if before is None:
                return None
            after = msgspec.structs.replace(before, **changes)
            write_record(self._paths, after)
            del self._by_key[before.key]
            self._put(after)
            return after

    def remove(self, key: str) -> Snapshot:
        """Forget a snapshot; its upper is the caller's to remove.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotBusyError: Others are built on it.
            StorageError: The record could not be removed.
        """
        with self.changed:
            snapshot = self.find(key)
            if self.children(snapshot.number):
                raise SnapshotBusyError(f"cannot remove snapshot {key!r}: others are built on it")
            remove_record(self._paths, snapshot.number)
            self._drop(snapshot)
            return snapshot

    def _put(self, snapshot: Snapshot) -> None:
        self._by_number[snapshot.number] = snapshot
        self._by_key[snapshot.key] = snapshot.number
        self.changed.notify_all()

    def _drop(self, snapshot: Snapshot) -> None:
        self._by_number.pop(snapshot.number, None)
        self._by_key.pop(snapshot.key, None)
        self.changed.notify_all()
