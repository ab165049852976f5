"""The life cycle of containerd's snapshots.

*Prepare* gives a writable root over a committed snapshot, *View* a read-only one; *Commit*
makes what was written in a prepared one a committed snapshot, on which others are built;
*Remove* ends any that nothing is built on. Mounts are told, and made by containerd.

A commit is answered when its files are on disk, before they are a layer
(:mod:`layerstore.snapshotter.settling`): containerd unpacks the next layer meanwhile. Who
prepares anything but a place for a next layer waits a little for that: a container then
runs over what the store shares between images, and not over its image's own copy.

Source: containerd, core/snapshots/snapshotter.go.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fuse_mount.lowers import KERNEL
from layerstore.digest import chain_id
from layerstore.linux.files import sync_file_system
from layerstore.snapshotter.failures import (
    SnapshotBusyError,
    SnapshotExistsError,
    SnapshotRequestError,
)
from layerstore.snapshotter.filters import Filter
from layerstore.snapshotter.known import REFERENCE, claimed_chain, layers_of_chain
from layerstore.snapshotter.records import (
    ACTIVE,
    COMMITTED,
    VIEW,
    Snapshot,
    upper_path,
    write_record,
)
from layerstore.snapshotter.settling import Settler
from layerstore.snapshotter.showing import Mount, Shower, takes_layers
from layerstore.snapshotter.table import Table
from layerstore.snapshotter.usage import Usage, disk_usage
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import DiffId
    from layerstore.snapshotter.records import Kind
    from layerstore.store.store import Store

SETTLE_WAIT_S: Final = 10.0
"""How long a container waits for its image to be packed at most: half a gigabyte's worth and more,
most of which was packed while the rest was unpacked."""

CLEANUP_WAIT_S: Final = 60.0

LABEL_MAX_BYTES: Final = 4096
"""Of a key and its value together, as containerd has it."""

KEY_MAX_BYTES: Final = 4096
LABELS_MAX_BYTES: Final = 128 * 1024
"""Of all labels: a record of a view has room for eight times as much."""

_OWNERS: Final = ("containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping")


class Snapshots:
    """The snapshots of one store. Methods may be called by several threads at once.

    Args:
        store: Open for as long as this is.
        tell: Gets lines for people who run this.
        backend: ``kernel``: containers read unpacked files, which all images share; or
            ``kernel-packs``: they read compressed packs.
    """

    def __init__(self, store: Store, tell: Callable[[str], None], backend: str = KERNEL) -> None:
        self._store = store
        self._table = Table(store.paths, tell)
        self._shower = Shower(store.paths, tell, backend)
        self._settler = Settler(store, self._table, self._shower, tell)

    def start(self) -> None:
        """Begin to work on what is committed, and remove what killed processes left."""
        self._shower.clean()
        for number in self._table.orphans():
            self._settler.remove_upper(number)
        self._settler.start()

    def stop(self, timeout_s: float) -> None:
        """End; mounts and snapshots stay as they are."""
        self._settler.stop(timeout_s)

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Make a writable snapshot over a committed one; return its mounts.

        Raises:
            SnapshotExistsError: The key is taken; or the labels ask for a committed snapshot
                that is there, or that an image of the store made needless to fetch.
            SnapshotNotFoundError: There is no such parent.
            LayerstoreError: It cannot be made.
        """
        return self._make(ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Make a read-only snapshot over a committed one; return its mounts; see :meth:`prepare`.

        Raises:
            LayerstoreError: As for :meth:`prepare`.
        """
        return self._make(VIEW, key, parent, labels)

    def mounts(self, key: str) -> list[Mount]:
        """Return the mounts of a writable or read-only snapshot, once more.

        After the host has restarted, what they lead to is made again.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotBusyError: It is committed: prepare one over it.
            LayerstoreError: What it lies over cannot be shown.
        """
        snapshot = self._table.find(key)
        if snapshot.kind == COMMITTED:
            raise SnapshotBusyError(f"snapshot {key!r} is committed and has no mounts of its own")
        return self._show(snapshot)

    def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make a writable snapshot a committed one, under another name.

        Success means that its files are on disk. Whether they are a layer yet, nobody can tell.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotExistsError: The name is taken.
            SnapshotBusyError: It is no writable one.
            StorageError: Its files could not be brought to disk.
        """
        _check_request(name, labels)
        with self._table.changed:
            self._table.require_free(name)
            self._require_active(key)
        snapshot = self._table.find(key)
        base = upper_path(self._store.paths, snapshot.number)
        now = time.time_ns()
        with storage_errors("bring a snapshot to disk"):
            usage = disk_usage(f"{base}/upper")
            sync_file_system(base)
        with self._table.changed:
            self._table.require_free(name)
            snapshot = self._require_active(key)
            self._table.change(
                snapshot.number, key=name, kind=COMMITTED, labels=dict(labels), created_ns=now,
                updated_ns=now, size=usage.size, inodes=usage.inodes, over_uppers=(),
                over_layers=(),
            )  # fmt: skip
        self._shower.release(snapshot, snapshot.over_layers)

    def remove(self, key: str) -> None:
        """Forget a snapshot; its files go soon after.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotBusyError: Others are built on it.
            StorageError: The store could not be written.
        """
        with self._table.changed:
            layers = self._table.layers(self._table.find(key).number)
            snapshot = self._table.remove(key)
        # Of a committed one: what was kept ready for containers over it.
        self._shower.release(
            snapshot, layers if snapshot.kind == COMMITTED else snapshot.over_layers
        )
        if snapshot.has_upper:
            self._settler.remove_upper(snapshot.number)

    def stat(self, key: str) -> tuple[Snapshot, str]:
        """Return a snapshot and the key of its parent, "" for none.

        Raises:
            SnapshotNotFoundError: There is none.
        """
        with self._table.changed:
            snapshot = self._table.find(key)
            return snapshot, self._parent_key(snapshot)

    def update(
        self, key: str, labels: Mapping[str, str], fields: Sequence[str]
    ) -> tuple[Snapshot, str]:
        """Change labels: all of them, or those that ``fields`` names as ``labels.NAME``.

        A named label without a value, or with an empty one, goes.

        Raises:
            SnapshotNotFoundError: There is none.
            SnapshotRequestError: Another field was named.
        """
        _check_request(key, labels)
        with self._table.changed:
            snapshot = self._table.find(key)
            changed = dict(snapshot.labels) if fields else dict(labels)
            for field in fields:
                if field == "labels":
                    changed = dict(labels)
                elif field.startswith("labels."):
                    label = field.removeprefix("labels.")
                    changed[label] = labels.get(label, "")
                else:
                    raise SnapshotRequestError(
                        f"cannot update {field!r} of snapshot {key!r}: only labels change"
                    )
            kept = {label: value for label, value in changed.items() if value}
            after = self._table.change(snapshot.number, labels=kept, updated_ns=time.time_ns())
            assert after is not None
            return after, self._parent_key(after)

    def select(self, filters: Sequence[str]) -> list[tuple[Snapshot, str]]:
        """Return the snapshots that any of the filters means, with the keys of their parents.

        Raises:
            SnapshotRequestError: A filter is none.
        """
        wanted = Filter(filters)
        with self._table.changed:
            found = [(each, self._parent_key(each)) for each in self._table.all()]
        return [(each, parent) for each, parent in found if wanted.matches(_Fields(each, parent))]

    def usage(self, key: str) -> Usage:
        """Return what a snapshot's own files take, without those of its parents.

        Raises:
            SnapshotNotFoundError: There is none.
            StorageError: It cannot be counted.
        """
        snapshot = self._table.find(key)
        if snapshot.kind == COMMITTED or not snapshot.has_upper:
            return Usage(snapshot.size, snapshot.inodes)
        with storage_errors("count the files of a snapshot"):
            return disk_usage(f"{upper_path(self._store.paths, snapshot.number)}/upper")

    def cleanup(self) -> None:
        """Have everything removed that is to be, before it returns."""
        self._settler.try_again(CLEANUP_WAIT_S)

    # -- making

    def _make(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        _check_request(key, labels)
        _refuse_owners(labels)
        wanted = labels.get(REFERENCE, "")
        if kind == ACTIVE and wanted and self._is_known(wanted, parent):
            raise SnapshotExistsError(f"target snapshot {wanted!r} already exists")
        draft = self._announce(kind, key, parent, labels)
        try:
            mounts = self._bring_about(draft)
        except BaseException:
            try:
                self._shower.release(draft, draft.over_layers)
            finally:  # else nobody could take the key again
                self._table.withdraw(draft)
                self._settler.remove_upper(draft.number)
            raise
        self._table.settle_in(draft)
        if draft.parent is not None and draft.over_layers and not draft.over_uppers:
            self._settler.make_ready(draft.parent)  # for the next one
        return mounts

    def _announce(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Snapshot:
        """Decide what a new snapshot lies over; from then on that stays as it is."""
        below = self._committed(parent) if parent else None
        if below is not None and not takes_layers(key):
            self._table.require_free(key)
            self._settler.wait_until_settled(below.number, SETTLE_WAIT_S)
        now = time.time_ns()
        with self._table.changed:
            below = self._committed(parent) if parent else None
            over_uppers, over_layers = self._over(below, for_layers=takes_layers(key))
            draft = Snapshot(
                number=self._table.new_number(),
                key=key,
                kind=kind,
                parent=below.number if below is not None else None,
                labels=dict(labels),
                created_ns=now,
                updated_ns=now,
                has_upper=kind == ACTIVE or below is None,
                over_uppers=over_uppers,
                over_layers=over_layers,
            )
            self._table.announce(draft)
            return draft

    def _over(
        self, below: Snapshot | None, *, for_layers: bool
    ) -> tuple[tuple[int, ...], tuple[DiffId, ...]]:
        """Return the uppers that a new snapshot lies over, and the layers below those."""
        if below is None:
            return (), ()
        lineage = self._table.lineage(below.number)
        layers = self._table.layers(below.number)
        if layers and not for_layers:
            return (), layers
        # While layers are unpacked one after the other, a view of each beginning would cost
        # more than it saves.
        count = 0
        while count < len(lineage) and lineage[count].has_upper:
            count += 1
        settled = lineage[count:]
        return (
            tuple(each.number for each in lineage[:count]),
            self._table.layers(settled[0].number) if settled else (),
        )

    def _bring_about(self, draft: Snapshot) -> list[Mount]:
        # Before what it lies over is shown: the record keeps that.
        write_record(self._store.paths, draft)
        return self._show(draft)

    def _show(self, snapshot: Snapshot) -> list[Mount]:
        below = self._shower.show(snapshot)
        if snapshot.has_upper:
            self._shower.make_upper(snapshot, below)
        return self._shower.mounts(snapshot, below)

    def _is_known(self, wanted: str, parent: str) -> bool:
        """Whether a chain need not be fetched; then a committed snapshot stands for it."""
        with self._table.changed:
            below = self._committed(parent) if parent else None
            number = below.number if below is not None else None
            for each in self._table.committed():
                if each.chain == wanted and each.parent == number:
                    return True
            if below is not None and not self._table.layers(below.number):
                return False  # files below are not layers yet
        layers = layers_of_chain(self._store, wanted)
        if not layers or not _begins(layers, below):
            return False
        with self._store.begin("show containerd a layer") as session:
            session.hold_layers([layers[-1]])
            record = self._store.layer(layers[-1])
            number = self._table.new_number()
            now = time.time_ns()
            self._table.add(
                Snapshot(
                    number=number,
                    key=f"layerstore/{number}/{wanted}",
                    kind=COMMITTED,
                    parent=below.number if below is not None else None,
                    labels={REFERENCE: wanted},
                    created_ns=now,
                    updated_ns=now,
                    size=record.content_size,
                    inodes=record.entry_count,
                    layer=layers[-1],
                    chain=wanted,
                )
            )
        self._settler.make_ready(number)
        return True

    def _committed(self, key: str) -> Snapshot:
        snapshot = self._table.find(key)
        if snapshot.kind != COMMITTED:
            raise SnapshotRequestError(f"parent {key!r} is not a committed snapshot")
        return snapshot

    def _require_active(self, key: str) -> Snapshot:
        snapshot = self._table.find(key)
        if snapshot.kind != ACTIVE:
            raise SnapshotBusyError(f"snapshot {key!r} is not active, but {snapshot.kind}")
        return snapshot

    def _parent_key(self, snapshot: Snapshot) -> str:
        parent = self._table.parent(snapshot)
        return parent.key if parent is not None else ""


def _begins(layers: Sequence[DiffId], below: Snapshot | None) -> bool:
    """Whether a parent is what the layers below the last one come to."""
    if below is None:
        return len(layers) == 1
    return len(layers) > 1 and claimed_chain(below) == chain_id(layers[:-1])


class _Fields:
    """The fields of a snapshot that filters may name."""

    def __init__(self, snapshot: Snapshot, parent: str) -> None:
        self._snapshot = snapshot
        self._parent = parent

    def __call__(self, path: Sequence[str]) -> str | None:
        match path:
            case ("name",):
                return self._snapshot.key
            case ("parent",):
                return self._parent
            case ("kind",):
                return self._snapshot.kind
            case ("labels", *label):
                return self._snapshot.labels.get(".".join(label))
        return None


def _check_request(key: str, labels: Mapping[str, str]) -> None:
    if not key or len(key) > KEY_MAX_BYTES:
        raise SnapshotRequestError(f"a key of {len(key)} characters, expected 1 to {KEY_MAX_BYTES}")
    total = 0
    for label, value in labels.items():
        size = len(label.encode()) + len(value.encode())
        total += size
        if size > LABEL_MAX_BYTES:
            raise SnapshotRequestError(
                f"label {label[:100]!r} takes {size} bytes with its value, the limit is "
                f"{LABEL_MAX_BYTES}"
            )
    if total > LABELS_MAX_BYTES:
        raise SnapshotRequestError(f"labels of {total} bytes, the limit is {LABELS_MAX_BYTES}")


def _refuse_owners(labels: Mapping[str, str]) -> None:
    mapped = [label for label in _OWNERS if labels.get(label)]
    if mapped:
        raise SnapshotRequestError(
            f"label {mapped[0]!r}: owners are not mapped here; leave the capability remap-ids out "
            "of this plugin's configuration, and containerd changes owners by itself"
        )
