"""What is packed first: what a container waits for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from layerstore.snapshotter.records import COMMITTED, Snapshot, write_record
from layerstore.snapshotter.settling import Settler
from layerstore.snapshotter.table import Table
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

_IMAGES = 30


class _Nothing:
    """Shows nothing: this is about the order alone, and mounts take root."""

    reads_unpacked_files = False

    def keep_ready(self, *_: object) -> None:
        """Make nothing ready."""


def test_what_is_waited_for_is_packed_before_what_was_committed_earlier(tmp_path: Path) -> None:
    order: list[int] = []
    with Store.open(tmp_path / "store", create=True) as store:
        for number in range(1, _IMAGES + 1):  # pairs: an image's first layer, and one over it
            upper = tmp_path / "store" / "uppers" / f"snapshot-{number}" / "upper"
            upper.mkdir(parents=True)
            (upper / "file").write_text(str(number))
            write_record(
                store.paths,
                Snapshot(
                    number=number, key=f"key-{number}", kind=COMMITTED, created_ns=1, updated_ns=1,
                    parent=None if number % 2 else number - 1, has_upper=True,
                ),
            )  # fmt: skip
        told: list[str] = []
        table = Table(store.paths, told.append)
        change = table.change

        def noting(number: int, **fields: object) -> Snapshot | None:
            if "layer" in fields:
                order.append(number)
            return change(number, **fields)

        table.change = noting  # type: ignore[method-assign]
        settler = Settler(store, table, _Nothing(), told.append)  # type: ignore[arg-type]
        with table.changed:  # nothing is begun before the container waits
            waiter = threading.Thread(target=settler.wait_until_settled, args=(_IMAGES, 60))
            waiter.start()
            while _IMAGES not in settler._awaited:
                table.changed.wait(0.01)
            settler.start()
        waiter.join()
        settled = table.get(_IMAGES)
        assert settled is not None
        assert not settled.has_upper
        settler.stop(60)
    assert order.index(_IMAGES) < 4, order
    assert told == []
