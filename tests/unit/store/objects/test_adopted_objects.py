"""Files given to the object tier: what is taken, and what is not."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import ChunkId
from layerstore.store.objects.adopted_objects import adopt_files
from layerstore.store.objects.objects import object_id, object_sizes
from layerstore.store.objects.tier import kept_objects
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def extents_of(*parts: bytes | int) -> tuple[tuple[int, ChunkId | None], ...]:
    from blake3 import blake3

    return tuple(
        (part, None) if isinstance(part, int) else (len(part), ChunkId(blake3(part).digest()))
        for part in parts
    )


def adopt(store: Store, root: Path, **files: tuple[tuple[int, ChunkId | None], ...]) -> int:
    wanted = [(name.replace("__", "/").encode(), extents) for name, extents in files.items()]
    with kept_objects(store.paths):
        return adopt_files(store.paths, str(root), wanted, on_disk_ns=time.time_ns() + 10**9)


def place(store: Store) -> Path:
    root = store.root / "uppers" / "given"
    root.mkdir(parents=True)
    return root


def test_files_become_objects_that_are_nobodys(store: Store) -> None:
    root = place(store)
    (root / "d").mkdir()
    (root / "d/one").write_bytes(b"content")
    (root / "d/one").chmod(0o4755)
    os.setxattr(root / "d/one", "user.note", b"x")
    extents = extents_of(b"content")
    assert adopt(store, root, d__one=extents) == 1
    path = store.paths.object(object_id(extents))
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.geteuid()
    assert os.listxattr(path) == []
    assert not (root / "d/one").exists()


def test_holes_stay_holes(store: Store) -> None:
    root = place(store)
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"data")
    extents = extents_of(1 << 19, b"data", (1 << 19) - 4)
    assert adopt(store, root, sparse=extents) == 1
    (size,) = object_sizes(store.paths).values()
    assert size.size == 1 << 20
    assert size.disk_size < 1 << 16


def test_other_content_is_not_taken(store: Store) -> None:
    root = place(store)
    for name, data in (("changed", b"other"), ("longer", b"content+"), ("shorter", b"cont")):
        (root / name).write_bytes(data)
    (root / "away").symlink_to("changed")
    os.mkfifo(root / "pipe")
    (root / "real").mkdir()
    (root / "real/inner").write_bytes(b"content")
    (root / "link").symlink_to("real")
    extents = extents_of(b"content")
    names = ("changed", "longer", "shorter", "away", "pipe", "real", "link__inner", "missing")
    for name in names:
        assert adopt(store, root, **{name: extents}) == 0
    assert object_sizes(store.paths) == {}
    assert (root / "real/inner").exists()


def test_what_somebody_writes_to_is_not_taken(store: Store) -> None:
    root = place(store)
    (root / "file").write_bytes(b"content")
    with (root / "file").open("r+b"):
        assert adopt(store, root, file=extents_of(b"content")) == 0
    assert adopt(store, root, file=extents_of(b"content")) == 1


def test_one_content_is_taken_once(store: Store) -> None:
    root = place(store)
    for name in ("a", "b"):
        (root / name).write_bytes(b"content")
    extents = extents_of(b"content")
    assert adopt(store, root, a=extents, b=extents) == 1
    assert (root / "b").exists()


def test_what_changed_since_it_was_on_disk_is_not_taken(store: Store) -> None:
    root = place(store)
    (root / "file").write_bytes(b"content")
    files = [(b"file", extents_of(b"content"))]
    earlier = os.stat(root / "file").st_ctime_ns
    with kept_objects(store.paths):
        assert adopt_files(store.paths, str(root), files, on_disk_ns=earlier) == 0
        assert adopt_files(store.paths, str(root), files, on_disk_ns=earlier + 10**9) == 1
