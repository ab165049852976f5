"""Where stored files that a new one resembles are looked for."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers import similar
from layerstore.image.layers.layer_writer import LayerItem, write_layer
from layerstore.image.layers.similar import SimilarFiles, brief_entries
from layerstore.store.store import Store
from tests.support.store import add_image, noise, put_layer, text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_the_same_path_first_then_one_that_differs_in_numbers(root: Path) -> None:
    files = {b"usr/lib/libz.so.1.2": text(1, 3_000), b"usr/lib/libz.so.1.3": text(2, 3_000)}
    add_image(root, "a", files)
    with Store.open(root) as store:
        like = SimilarFiles(store)
        assert store.read_refs(like.find(b"usr/lib/libz.so.1.2")) == text(1, 3_000)
        assert store.read_refs(like.find(b"usr/lib/libz.so.1.4")) in files.values()
        assert like.find(b"usr/lib/libq.so.1.2") == ()
        assert like.find(b"") == ()


def test_near_layers_come_before_others(root: Path) -> None:
    add_image(root, "new", {b"f": text(1, 3_000)})
    with Store.open(root, create=True) as store, store.begin("test") as session:
        near = put_layer(session, {b"f": text(2, 3_000)}).diff_id
        assert store.read_refs(SimilarFiles(store).find(b"f")) == text(1, 3_000)
        assert store.read_refs(SimilarFiles(store, [near]).find(b"f")) == text(2, 3_000)


def test_nothing_is_read_before_the_first_question(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_image(root, "a", {b"f": b"x" * 2_000})
    with Store.open(root) as store:
        like = SimilarFiles(store)
        monkeypatch.setattr(store, "read_refs", lambda refs: pytest.fail("read"))
        monkeypatch.setattr(similar, "ENTRIES_MAX", 0)
        assert like.find(b"f") == (), "and no tree beyond the bound"


def test_what_cannot_be_read_costs_compression_only(root: Path) -> None:
    add_image(root, "a", {b"f": noise(1, 3_000)})
    pack = next((root / "packs").rglob("*.pack"))
    data = bytearray(pack.read_bytes())
    data[3_060:3_100] = bytes(40)
    pack.write_bytes(data)
    with Store.open(root) as store:
        SimilarFiles(store).find(b"f")


def test_trees_that_are_none_have_no_entries() -> None:
    for encoded in (
        b"",
        b"LSTREE\0\1",
        b"LSTREE\0\1\x90",
        b"LSTREE\0\2\x93\x90\x90\x90",
        b"x" * 99,
    ):
        assert brief_entries(encoded) == ()


def test_a_step_stores_the_files_it_replaces_as_differences(root: Path) -> None:
    old = noise(5, 150_000)
    new = old[:70_000] + b"changed" + old[70_000:]
    with Store.open(root, create=True) as store, store.begin("test") as session:
        below = put_layer(session, {b"srv/app": old}).diff_id
        entry = Entry(b"srv/app", Kind.FILE, 0o644, size=len(new))
        item = LayerItem(entry, lambda: io.BytesIO(new))
        write_layer(session, store, [item], near=[below])
        assert {row.depth for row in store.catalog.block_rows()} == {0, 1}
