"""SIGKILL at steps of healing: by importing again, and by repair with and without a copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import blake3_id
from layerstore.image.repairing import repair_store
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.store import Store
from tests.support.killing import killed
from tests.support.store import add_image, assert_sound, noise, read_image, text

if TYPE_CHECKING:
    from collections.abc import Callable

A = {b"a/%d" % n: text(n, 20_000) for n in range(30)}
B = {b"b/%d" % n: noise(n, 20_000) for n in range(10)}
STRIDE = 3


def damaged_store(root: Path) -> None:
    """Two images; the content of one is damaged, and so is one of its documents."""
    add_image(root, "a", A)
    add_image(root, "b", B)
    shutil.copytree(root, root.with_name("spare"))
    with Store.open(root) as store:
        place = store.catalog.locate(blake3_id(A[b"a/3"]))
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
        Path(store.paths.blob(store.resolve("a").manifest_digest)).unlink()
    data = bytearray(path.read_bytes())
    data[place.block_offset + 50] ^= 1
    path.write_bytes(data)


def import_again(root: Path) -> None:
    add_image(root, "a", A)


def repair(root: Path) -> None:
    repair_store(str(root), [str(root.parents[1] / "spare")], dry_run=False)


def repair_alone(root: Path) -> None:
    repair_store(str(root), [], dry_run=False)


@pytest.mark.parametrize("verb", [import_again, repair, repair_alone])
def test_a_kill_while_healing_is_finished_by_the_next(
    tmp_path: Path, verb: Callable[[Path], None]
) -> None:
    damaged_store(tmp_path / "store")
    step = 0
    while True:
        step += STRIDE
        root = tmp_path / "tries" / f"{step}"
        shutil.copytree(tmp_path / "store", root)
        dead = killed(lambda root=root: verb(root), step, after=bool(step % 2))  # type: ignore[misc]
        with Store.open(root) as store:
            assert read_image(store, "b") == [B], step
            assert set(store.tags()) == {"a:latest", "b:latest"}
        verb(root)
        if verb is repair_alone:
            import_again(root)
        assert_sound(root, {"a": [A], "b": [B]})
        repair_alone(root)
        with Store.open(root) as store:
            execute(plan_gc(store))
            assert check(store, read_data=True).findings == (), step
        assert list((root / "tmp").iterdir()) == []
        shutil.rmtree(root)
        if not dead:
            break
    assert step > 5 * STRIDE, "the steps were not seen"
