"""One damaged chunk: what it stops, what goes on, and how a mounted view gets well again."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.formats.oci_config import ContainerConfig
from layerstore.image.importing import ImportSpec, import_directory
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.support.store import noise
from tests.support.views import needs_fuse, needs_root, undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [*needs_root, *needs_fuse]

LARGE = noise(1, 1_500_000)
SMALL = {f"small{n}": noise(10 + n, 3_000) for n in range(20)}


def tree_of(where: Path, *, large: bytes) -> Path:
    where.mkdir()
    (where / "large").write_bytes(large)
    for name, content in SMALL.items():
        (where / name).write_bytes(content)
    return where


def imported(root: Path, tree: Path, name: str) -> None:
    spec = ImportSpec((name,), ContainerConfig(), "", "2026-11-23T00:00:00Z")
    with Store.open(root, create=True) as store:
        import_directory(store, tree, spec, progress=Silent())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A store with two images that share their small files; the first one's large is damaged."""
    root = tmp_path / "store"
    imported(root, tree_of(tmp_path / "a", large=LARGE), "a:1")
    imported(root, tree_of(tmp_path / "b", large=noise(2, 1_500_000)), "b:1")
    with Store.open(root) as store:
        chunks = [row.chunk_id for row in store.catalog.scan_chunks() if row.length > 3_000]
        damaged = next(chunk_id for chunk_id in chunks if store.read_chunk(chunk_id) in LARGE)
        place = store.catalog.locate(damaged)
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    data = bytearray(path.read_bytes())
    data[place.block_offset + place.stored_length // 2] ^= 4
    path.write_bytes(data)
    yield root
    undo_all_mounts(root)


def mounted(root: Path, name: str) -> Path:
    target = root.with_name("view-" + name.partition(":")[0])
    target.mkdir()
    with Store.open(root) as store:
        mounts.mount(str(root), store.resolve(name), str(target), rw=False, name=name)
    return target


def test_damage_stops_one_file_and_heals_under_the_view(root: Path, tmp_path: Path) -> None:
    a, b = mounted(root, "a:1"), mounted(root, "b:1")
    with pytest.raises(OSError) as caught:
        (a / "large").read_bytes()
    assert caught.value.errno == errno.EIO
    for name, content in SMALL.items():
        assert (a / name).read_bytes() == content
        assert (b / name).read_bytes() == content
    assert (b / "large").read_bytes() == noise(2, 1_500_000)
    imported(root, tmp_path / "a", "a:1")
    assert (a / "large").read_bytes() == LARGE
