"""What is done with snapshots after containerd was answered: they are packed, and settle.

A committed snapshot's files lie in its upper. *Packing* stores them as a layer. A packed
snapshot *settles* when all below it have settled and nothing lies over its upper: from then
on its layer stands for it, its files become objects of the kernel's views where these lack
them, and the upper goes. Last, what a container will want to mount is made ready.

One thread does all of this, so nothing is packed while it is removed. Each step is recorded before
what it makes needless goes; a kill at any moment leaves files, or a layer, or both.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fuse_mount.uppers import is_written_to
from layerstore.errors import LayerstoreError, UnsupportedError
from layerstore.formats.tree import Kind
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.scan import scan_upper
from layerstore.linux.removal import remove_tree
from layerstore.snapshotter.records import COMMITTED, upper_path
from layerstore.store.objects.adopted_objects import adopt_files
from layerstore.store.objects.tier import kept_objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.digest import DiffId
    from layerstore.snapshotter.records import Snapshot
    from layerstore.snapshotter.showing import Shower
    from layerstore.snapshotter.table import Table
    from layerstore.store.store import Store

_READY_AFTER_S: Final = 1.0
"""When nothing was built on a snapshot for so long, it may be the last of an image's."""

_LOOK_AGAIN_S: Final = 30.0
"""A snapshot that was committed while it was mounted settles when somebody unmounts it, of
which nobody tells."""


class Settler:
    """The thread; see the module.

    Args:
        store: Where layers go.
        table: The snapshots; its lock is not held while something takes long.
        shower: Keeps ready what containers will need.
        tell: Gets a line about what did not work.
    """

    def __init__(
        self, store: Store, table: Table, shower: Shower, tell: Callable[[str], None]
    ) -> None:
        self._store = store
        self._table = table
        self._shower = shower
        self._tell = tell
        self._doomed: list[int] = []
        self._unready: dict[int, float] = {}
        self._readied: set[int] = set()
        self._failed: dict[int, str] = {}  # why, as it was told
        self._tried: set[int] = set()  # of those: not to be tried before the next Cleanup
        self._mounted: set[int] = set()  # committed while they were mounted, and not yet free
        self._awaited: list[int] = []  # by containers, the first to come first
        self._at: Callable[[int], None] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="layerstore-settle", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier process left to do."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the step at hand, or leave it to itself if that takes longer."""
        with self._table.changed:
            self._stopping = True
            self._table.changed.notify_all()
        self._thread.join(timeout_s)

    def remove_upper(self, number: int) -> None:
        """Have the upper of a snapshot removed whose record is gone."""
        with self._table.changed:
            self._doomed.append(number)
            self._table.changed.notify_all()

    def make_ready(self, number: int) -> None:
        """Have what containers over a settled snapshot need made, if it was not made before."""
        with self._table.changed:
            if number not in self._readied:
                self._unready[number] = time.monotonic() + _READY_AFTER_S
                self._table.changed.notify_all()

    def try_again(self, timeout_s: float) -> None:
        """Try what failed before, and wait until nothing is left to remove.

        Source: containerd calls Cleanup after each garbage collection.
        """
        with self._table.changed:
            self._tried.clear()
            self._mounted.clear()
            self._table.changed.notify_all()
            self._table.changed.wait_for(self._has_removed, timeout_s)

    def _has_removed(self) -> bool:
        """Whether nothing is left of what was removed, which may be just about to be shown."""
        return not self._doomed and self._at not in (self._remove, self._ready)

    def wait_until_settled(self, number: int, timeout_s: float) -> None:
        """Wait until a snapshot and all below it have settled, or cannot for now."""
        with self._table.changed:
            self._awaited.append(number)
            try:
                self._table.changed.wait_for(lambda: not self._is_pending(number), timeout_s)
            finally:
                self._awaited.remove(number)

    def _is_pending(self, number: int) -> bool:
        """Whether it is a matter of time alone until a snapshot has settled."""
        unpacked = False
        for each in reversed(self._table.lineage(number)):
            if each.number in self._tried or each.number in self._mounted:
                return False
            unpacked = unpacked or each.layer is None
            if each.has_upper and self._table.lies_over(each.number):
                return unpacked  # nothing above settles either, but it is packed
        return not self._stopping and any(each.has_upper for each in self._table.lineage(number))

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._table.changed:
                step = None if self._stopping else self._next()
                self._at = step[0] if step is not None else None
                self._table.changed.notify_all()
                if self._stopping:
                    return
                if step is None:
                    self._rest()
                    continue
            self._do(*step)

    def _rest(self) -> None:
        """Wait for something to do, and now and then look what is mounted still."""
        pause = _LOOK_AGAIN_S
        if self._unready:
            pause = max(0.0, min(self._unready.values()) - time.monotonic())
        if not self._table.changed.wait(pause) and pause == _LOOK_AGAIN_S:
            self._mounted.clear()

    def _next(self) -> tuple[Callable[[int], None], int] | None:
        if self._doomed:
            return self._remove, self._doomed.pop(0)
        given_up = self._tried | self._mounted
        waiting = [each for each in self._table.committed() if each.number not in given_up]
        # What a container waits for goes before the images that are unpacked meanwhile.
        for number in self._awaited:
            lineage = {each.number for each in self._table.lineage(number)}
            step = self._step([each for each in waiting if each.number in lineage])
            if step is not None:
                return step
        return self._step(waiting) or self._due()

    def _step(self, waiting: list[Snapshot]) -> tuple[Callable[[int], None], int] | None:
        """Return what is next for some of the snapshots, parents before what is built on them."""
        for snapshot in waiting:  # first, for it can be done while containerd unpacks
            if snapshot.layer is None:
                return self._pack, snapshot.number
        for snapshot in waiting:
            if self._is_free(snapshot):
                return self._settle, snapshot.number
        return None

    def _due(self) -> tuple[Callable[[int], None], int] | None:
        """Return what is to be made ready, once its time has come."""
        now = time.monotonic()
        for number, due in self._unready.items():
            if due <= now:
                del self._unready[number]
                return self._ready, number
        return None

    def _is_free(self, snapshot: Snapshot) -> bool:
        if not snapshot.has_upper or self._table.lies_over(snapshot.number):
            return False
        parent = self._table.parent(snapshot)
        return parent is None or not parent.has_upper

    def _do(self, step: Callable[[int], None], number: int) -> None:
        try:
            step(number)
        except (LayerstoreError, OSError) as err:
            self._give_up_for_now(number, str(err))
        except Exception as err:  # noqa: BLE001 -- a mistake of ours must not stop the thread
            self._give_up_for_now(number, f"{type(err).__name__}: {err}")

    def _give_up_for_now(self, number: int, why: str) -> None:
        with self._table.changed:
            if self._table.get(number) is None:
                return  # removed meanwhile, and its files are vanishing
            self._tried.add(number)
            told, self._failed[number] = self._failed.get(number), why
            self._table.changed.notify_all()
        if told != why:
            self._tell(f"snapshot {number} keeps its files unpacked for now: {why}")

    def _remove(self, number: int) -> None:
        try:
            remove_tree(upper_path(self._store.paths, number))
        except OSError as err:
            self._tell(f"the files of snapshot {number} could not be removed: {err}")

    def _pack(self, number: int) -> None:
        with self._table.changed:
            snapshot = self._table.get(number)
            if snapshot is None:
                return
            below = [each.layer for each in self._table.lineage(snapshot.parent)]
        near = [layer for layer in reversed(below) if layer is not None]
        with self._store.begin(f"pack snapshot {number}") as session:
            scan = scan_upper(Path(upper_path(self._store.paths, number), "upper"))
            layer = write_layer(
                session, self._store, scan.items,
                whiteouts=scan.whiteouts, opaques=scan.opaques, near=near,
            )  # fmt: skip
            # While the session keeps the layer, the record takes over.
            self._table.change(number, layer=layer.diff_id)
        for path, why in scan.skipped:
            self._tell(f"snapshot {number}: not in its layer: {path!r} ({why})")

    def _settle(self, number: int) -> None:
        base = upper_path(self._store.paths, number)
        if is_written_to(base):
            with self._table.changed:
                self._mounted.add(number)
                self._table.changed.notify_all()
            return
        with self._table.changed:
            snapshot = self._table.get(number)
            if snapshot is None or not self._is_free(snapshot):
                return
            self._table.change(number, has_upper=False)
            self.make_ready(number)
        assert snapshot.layer is not None
        try:
            if self._shower.reads_unpacked_files:
                self._give_files(f"{base}/upper", snapshot.layer, snapshot.created_ns)
        finally:
            remove_tree(base)

    def _give_files(self, upper: str, layer: DiffId, on_disk_ns: int) -> None:
        entries = load_changeset(self._store, layer).entries
        files = ((e.path, e.extents) for e in entries if e.kind is Kind.FILE and e.extents)
        with kept_objects(self._store.paths):
            adopt_files(self._store.paths, upper, files, on_disk_ns=on_disk_ns)

    def _ready(self, number: int) -> None:
        with self._table.changed:
            snapshot = self._table.get(number)
            layers = self._table.layers(number)
            above = self._table.children(number)
            if snapshot is None or not layers or number in self._readied:
                return
            if above and all(each.kind == COMMITTED for each in above):
                return  # a part of an image
            self._readied.add(number)
        with contextlib.suppress(UnsupportedError):  # a container will find another way
            self._shower.keep_ready(snapshot, layers)
        if self._table.get(number) is None:  # removed meanwhile
            self._shower.release(snapshot, layers)
