"""Export: every recipe format, and what happens when the store holds something else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import msgspec
import pytest

from layerstore.digest import DiffId, sha256_digest
from layerstore.errors import FormatError, NotFoundError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.trees.export_layer import LayerMismatchError, export_layer, export_rootfs
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset
from tests.support.tars import END, directory, hardlink, member

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def exported(store: Store, diff_id: DiffId) -> bytes:
    out = io.BytesIO()
    export_layer(store, diff_id, out)
    return out.getvalue()


def test_whole_tars_come_back(store: Store) -> None:
    tar = member(b"a", b"1") + END
    with store.begin("test") as session:
        record = LayerRecord(
            diff_id=DiffId(sha256_digest(tar)),
            tar_size=len(tar),
            tree=session.put_bytes(encode_changeset(Changeset()), meta=True),
            recipe=session.put_bytes(tar, meta=True),
            recipe_format="whole-1",
            entry_count=0,
            content_size=0,
        )
        session.publish_layer(record)
    assert exported(store, record.diff_id) == tar


def test_wrong_recipes_are_noticed(store: Store) -> None:
    tar = member(b"a", b"1") + member(b"b", b"2") + END
    with store.begin("test") as session:
        good = ingest_tar(session, io.BytesIO(tar))
        wrong = DiffId(sha256_digest(b"another"))
        session.publish_layer(msgspec.structs.replace(good, diff_id=wrong))
        short = DiffId(sha256_digest(b"short"))
        session.publish_layer(msgspec.structs.replace(good, diff_id=short, recipe=good.recipe[:-1]))
    with pytest.raises(LayerMismatchError):
        exported(store, wrong)
    with pytest.raises(FormatError):
        exported(store, short)
    with pytest.raises(NotFoundError):
        exported(store, DiffId(sha256_digest(b"missing")))


def test_large_contents_and_many_literals(store: Store) -> None:
    big = bytes(range(256)) * 8192
    members = [member(b"d%d/" % i, typeflag=b"5") for i in range(3000)]
    tar = member(b"big", big) + b"".join(members) + member(b"big", big[::-1]) + END + bytes(9000)
    with store.begin("test") as session:
        record = ingest_tar(session, io.BytesIO(tar))
    assert exported(store, record.diff_id) == tar
    assert len(record.recipe) > 3


def test_rootfs_is_the_layers_joined(store: Store) -> None:
    lower = directory(b"d/") + member(b"d/old", b"1") + member(b"z", b"2") + END
    upper = member(b"d/.wh.old") + hardlink(b"d/link", b"z") + member(b"new", b"3") + END
    with store.begin("test") as session:
        layers = [ingest_tar(session, io.BytesIO(tar)).diff_id for tar in (lower, upper)]
        out = io.BytesIO()
        export_rootfs(store, layers, out)
        flat = ingest_tar(session, io.BytesIO(out.getvalue()), rootfs=True)
        empty = io.BytesIO()
        export_rootfs(store, [], empty)
    kinds = {e.path: (e.kind, e.target) for e in load_changeset(store, flat.diff_id).entries}
    assert kinds == {
        b"": (Kind.DIR, b""),
        b"d": (Kind.DIR, b""),
        b"d/link": (Kind.FILE, b""),
        b"new": (Kind.FILE, b""),
        b"z": (Kind.HARDLINK, b"d/link"),
    }
    assert len(empty.getvalue()) == 512 * 3


def test_layers_of_stored_extents(store: Store) -> None:
    content = bytes(range(256)) * 4000
    fresh = LayerItem(Entry(b"a", Kind.FILE, size=len(content)), lambda: io.BytesIO(content))
    with store.begin("test") as session:
        first = write_layer(session, store, [fresh])
    stored = load_changeset(store, first.diff_id).entries[0]
    size = stored.size + 4096
    entry = Entry(b"f", Kind.FILE, size=size, extents=((4096, None), *stored.extents))
    with store.begin("test") as session:
        record = write_layer(session, store, [LayerItem(entry)])
        assert session.stats.new_bytes < 1000
    tar = exported(store, record.diff_id)
    assert tar.count(content) == 1
    with store.begin("test") as session:
        again = ingest_tar(session, io.BytesIO(tar))
    assert again.diff_id == record.diff_id
    assert again.content_size == size
