"""Damage to the catalog: a typed error or the right answer, and a rebuild sets it right."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import LayerstoreError
from layerstore.store.check.check import check
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.store import Store
from tests.support.store import Files, add_image, assert_sound, noise, read_image, text

if TYPE_CHECKING:
    from pathlib import Path

IMAGES: dict[str, list[Files]] = {
    f"i:{n}": [{b"f%d" % m: text(m, 900 + n) for m in range(n, n + 12)}, {b"x": noise(n, 5_000)}]
    for n in range(6)
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damage") / "store"
    for name, layers in IMAGES.items():
        add_image(root, name, *layers)
    return root


def use(root: Path) -> int:
    """Read everything, as far as it goes; count right answers. Wrong ones and crashes fail."""
    right = 0
    with Store.open(root) as store:
        for name, layers in IMAGES.items():
            try:
                found = read_image(store, name)
            except LayerstoreError:
                continue
            assert found == layers
            right += 1
        check(store, read_data=False)
    return right


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_catalog_gives_no_wrong_answer(root: Path, seed: int) -> None:
    path = root / "catalog.sqlite"
    original = path.read_bytes()
    source = random.Random(seed)
    data = bytearray(original)
    for _ in range(source.choice([1, 1, 8, 200])):
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    if seed % 7 == 0:
        data = data[: source.randrange(len(data))]
    path.write_bytes(data)
    try:
        use(root)
    except LayerstoreError as err:
        assert err.message  # noqa: PT017
    finally:
        for stale in root.glob("catalog.sqlite-*"):
            stale.unlink()
        path.write_bytes(original)
    if seed % 10 == 0:
        path.write_bytes(data)
        rebuild_catalog(str(root))
        assert_sound(root, IMAGES)


def test_a_damaged_log_beside_the_catalog_gives_no_wrong_answer(root: Path) -> None:
    path = root / "catalog.sqlite-wal"
    for seed in range(10):
        with Store.open(root) as holder:  # while one is open, the log stays
            holder.tag("extra", holder.resolve("i:0").image_id)
            wal = bytearray(path.read_bytes())
        source = random.Random(seed)
        for _ in range(5):
            wal[source.randrange(len(wal))] ^= 1 << source.randrange(8)
        path.write_bytes(wal)
        assert use(root) == len(IMAGES)
    assert_sound(root, IMAGES)
