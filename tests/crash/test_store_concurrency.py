"""Several processes in one store at once: nobody is locked out, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import LayerstoreError
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import GcRunningError
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise, put_image, read_image, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def spawn(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 -- the parent sees the code, people the trace
        traceback.print_exc()
    finally:
        os._exit(code)


def wait_all(children: list[int]) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * len(codes)


def files_of(number: int) -> dict[bytes, bytes]:
    """Half of it is shared with other numbers."""
    shared = {b"shared/%d" % n: text(n, 4_000) for n in range(number % 3, number % 3 + 4)}
    return shared | {b"own/%d" % n: noise(1000 * number + n, 3_000) for n in range(4)}


def test_writers_and_collectors_of_many_processes(tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store.open(root, create=True).close()
    rounds, writers = 6, 4

    def write(writer: int) -> None:
        for turn in range(rounds):
            number = writer * rounds + turn
            with Store.open(root) as store, store.begin("write") as session:
                put_image(session, files_of(number), names=[f"w{writer}:{turn}"])
                assert read_image(store, f"w{writer}:{turn}") == [files_of(number)]
            if turn % 2:
                with Store.open(root) as store:
                    store.untag(f"w{writer}:{turn}")

    def collect() -> None:
        for _ in range(12):
            with Store.open(root) as store:
                try:
                    execute(plan_gc(store))
                except GcRunningError:
                    time.sleep(0.01)

    children = [spawn(lambda writer=w: write(writer)) for w in range(writers)]  # type: ignore[misc]
    children += [spawn(collect) for _ in range(2)]
    wait_all(children)
    expected = {
        f"w{writer}:{turn}": [files_of(writer * rounds + turn)]
        for writer in range(writers)
        for turn in range(0, rounds, 2)
    }
    assert_sound(root, expected)
    with Store.open(root) as store:
        assert set(store.tags()) == set(expected)
        execute(plan_gc(store))
    assert_sound(root, expected)


def test_many_small_transactions_are_all_counted(tmp_path: Path) -> None:
    root = tmp_path / "store"
    image = add_image(root, "web", {b"f": b"x"})
    each, processes = 40, 4

    def work(process: int) -> None:
        with Store.open(root) as store:
            for turn in range(each):
                store.tag(f"p{process}:{turn}", image.image_id)

    wait_all([spawn(lambda p=p: work(p)) for p in range(processes)])  # type: ignore[misc]
    with Store.open(root) as store:
        assert len(store.tags()) == processes * each + 1
        before = store.tags()
        store.rebuild_catalog()
        assert store.tags() == before


@pytest.mark.parametrize("seed", range(4))
def test_writers_killed_at_random_times(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "store"
    random_source = random.Random(seed)
    keep = files_of(0)
    add_image(root, "keep", keep)

    def write() -> None:
        for turn in range(50):
            add_image(root, f"t:{turn}", files_of(turn))

    for _ in range(5):
        child = spawn(write)
        time.sleep(random_source.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with Store.open(root) as store:
            tags = [name for name in store.tags() if name.startswith("t:")]
            execute(plan_gc(store))
        assert_sound(root, {"keep": [keep]} | {n: [files_of(int(n[2:]))] for n in tags})
    with Store.open(root) as store:
        assert list((root / "tmp").iterdir()) == []
        for name in store.tags():
            store.untag(name)
        execute(plan_gc(store))
        assert store.catalog.pack_rows() == []


def test_a_stopped_writer_is_not_robbed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    files = files_of(3)
    add_image(root, "old", files)
    ready, go = os.pipe(), os.pipe()

    def work() -> None:
        with Store.open(root) as store, store.begin("slow") as session:
            from tests.support.store import blobs_of, put_unpublished_layer

            record = put_unpublished_layer(session, files)
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            session.publish_layer(record)
            session.publish_image(*blobs_of([record.diff_id]), [record.diff_id], names=["new"])

    child = spawn(work)
    os.read(ready[0], 1)
    os.kill(child, signal.SIGSTOP)
    with Store.open(root) as store:
        store.untag("old")
        for _ in range(3):
            execute(plan_gc(store))
    os.kill(child, signal.SIGCONT)
    os.write(go[1], b"g")
    wait_all([child])
    for fd in ready + go:
        os.close(fd)
    assert_sound(root, {"new": [files]})
    with Store.open(root) as store:
        execute(plan_gc(store))
    assert_sound(root, {"new": [files]})


def test_check_finds_nothing_wrong_beside_writers(tmp_path: Path) -> None:
    from layerstore.store.check.check import check

    root = tmp_path / "store"
    add_image(root, "keep", files_of(0))

    def write() -> None:
        for turn in range(25):
            add_image(root, f"t:{turn}", files_of(turn))

    child = spawn(write)
    with Store.open(root) as store:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            report = check(store, read_data=True)
            assert report.ok, report.findings
    assert isinstance(LayerstoreError(""), Exception)
