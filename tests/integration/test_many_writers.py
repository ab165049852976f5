"""Sixteen writers, two collectors and a check, all at once: nobody is left out."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retention import KeepRules
from layerstore.store.failures import GcRunningError
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise, put_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WRITERS = 16
ROUNDS = 4
FILES = {b"kept": noise("kept", 50_000)}


def spawn(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 -- the parent sees the code, people the trace
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def test_everybody_gets_a_turn(tmp_path: Path) -> None:
    root = tmp_path / "store"
    add_image(root, "kept:1", FILES)
    going, gone = os.pipe()

    def write(number: int) -> None:
        os.close(gone)
        with Store.open(root) as store:
            for turn in range(ROUNDS):
                files = {b"own": noise(f"{number}.{turn}", 4_000), **FILES}
                with store.begin(f"writer {number}") as session:
                    put_image(session, files, names=[f"w{number}:{turn}"])
                    session.note_step_use("nothing")
                store.catalog.image_after_writers(store.resolve("kept:1").image_id)
                if turn % 2:
                    store.untag(f"w{number}:{turn}")
                else:
                    store.pin(f"w{number}:{turn}")

    def while_they_write(work: Callable[[Store], object]) -> Callable[[], None]:
        def loop() -> None:
            os.close(gone)
            os.set_blocking(going, False)
            while True:
                with Store.open(root) as store, contextlib.suppress(GcRunningError):
                    work(store)
                try:
                    if os.read(going, 1) == b"":
                        return
                except BlockingIOError:
                    continue

        return loop

    writers = [spawn(lambda number=number: write(number)) for number in range(WRITERS)]  # type: ignore[misc]
    others = [
        spawn(while_they_write(lambda store: execute(plan_gc(store, measure=False)))),
        spawn(while_they_write(lambda store: execute(plan_gc(store, keep=KeepRules(max_size=0))))),
        spawn(while_they_write(lambda store: check(store, read_data=True).ok or sys.exit(3))),
    ]
    os.close(going)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in writers]
    os.close(gone)
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in others]
    assert codes == [0] * len(codes)
    kept = {
        f"w{number}:{turn}": [{b"own": noise(f"{number}.{turn}", 4_000), **FILES}]
        for number in range(WRITERS)
        for turn in range(0, ROUNDS, 2)
    }
    with Store.open(root) as store:
        assert set(store.tags()) == {"kept:1", *kept}
        assert store.pins() == kept.keys()
        execute(plan_gc(store))
        assert len(store.images()) == len(kept) + 1
        assert store.catalog.query("SELECT * FROM leases") == []
    assert_sound(root, {"kept:1": [FILES], **kept})
