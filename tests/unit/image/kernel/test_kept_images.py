"""Images of layers that are kept: whole or a miss, and never more than there may be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from blake3 import blake3

from layerstore.digest import DiffId, sha256_digest
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.kernel import kept_images
from layerstore.image.kernel.kept_images import LAYOUT, SEAL, KeptImages, image_key
from layerstore.image.kernel.layer_image import LayerImage, implied_directories, write_layer_image
from layerstore.linux.files import read_file
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYER = DiffId(sha256_digest(b"1"))
IMAGE = LayerImage(bytearray(b"image" * 1000), {b"": 0, b"opt/site": 64})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as made:
        yield made


@pytest.fixture
def kept(store: Store, tmp_path: Path) -> KeptImages:
    return KeptImages(store.paths, str(tmp_path / "store" / "tmp"))


def place(store: Store, key: str) -> str:
    return f"{store.paths.scans}/{key}.image"


def test_what_was_kept_comes_back(kept: KeptImages) -> None:
    kept.keep("key", IMAGE)
    assert kept.recall("key") == IMAGE
    assert kept.recall("other") is None


def test_a_damaged_record_is_none(store: Store, kept: KeptImages) -> None:
    kept.keep("key", IMAGE)
    whole = read_file(place(store, "key"), max_bytes=SEAL.max_bytes)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        with open(place(store, "key"), "wb") as file:
            file.write(damaged)
        assert kept.recall("key") is None
    for length in (0, 1, 8, len(whole) - 1):
        with open(place(store, "key"), "wb") as file:
            file.write(whole[:length])
        assert kept.recall("key") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x01\0\0\0\x90",  # no frame
        b"\x04\0\0\0\x91\x92\xa1a" + b"\x28\xb5\x2f\xfd",
        # An offset behind the end: a time would be written there.
        b"\x06\0\0\0" + msgspec.msgpack.encode([(b"d", 9)]) + b"\x28\xb5\x2f\xfd\x20\x01\x09\0\0x",
        # 1 TiB, it says.
        b"\x01\0\0\0\x90" + b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little"),
    ],
)
def test_a_whole_record_of_something_else_is_none(
    store: Store, kept: KeptImages, body: bytes
) -> None:
    record = SEAL.closed(body)
    assert record is not None
    os.makedirs(store.paths.scans, exist_ok=True)
    with open(place(store, "key"), "wb") as file:
        file.write(record)
    assert kept.recall("key") is None


def test_a_link_or_a_pipe_in_its_place_is_none(store: Store, kept: KeptImages) -> None:
    kept.keep("key", IMAGE)
    os.rename(place(store, "key"), place(store, "moved"))
    os.symlink(place(store, "moved"), place(store, "key"))
    assert kept.recall("key") is None
    os.unlink(place(store, "key"))
    os.mkfifo(place(store, "key"))
    assert kept.recall("key") is None


def test_others_could_write_in_a_shared_store(store: Store, kept: KeptImages) -> None:
    kept.keep("key", IMAGE)
    os.chmod(store.paths.root, 0o2770)
    assert kept.recall("key") is None
    kept.keep("more", IMAGE)
    assert not os.path.exists(place(store, "more"))


def test_what_was_used_longest_ago_makes_room(
    store: Store, kept: KeptImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("first", "second"):
        kept.keep(key, IMAGE)
    size = os.path.getsize(place(store, "first"))
    monkeypatch.setattr(kept_images, "KEPT_MAX_BYTES", 2 * size)
    for age, key in enumerate(("second", "first")):
        os.utime(place(store, key), (age, age))
    assert kept.recall("second") is not None  # which makes it the younger one
    kept.keep("third", IMAGE)
    assert [kept.recall(key) is None for key in ("first", "second", "third")] == [
        True, False, False,
    ]  # fmt: skip


def test_no_longer_record_is_written_than_is_read(
    store: Store, kept: KeptImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.keep("key", LayerImage(bytearray(os.urandom(SEAL.max_bytes)), {}))
    monkeypatch.setattr(kept_images, "IMAGE_MAX_BYTES", 10)
    kept.keep("key", IMAGE)
    assert not os.path.exists(place(store, "key"))


def test_the_key_tells_what_is_below() -> None:
    one = Entry(b"opt", Kind.DIR, 0o755)
    keys = {
        image_key(LAYER, {}),
        image_key(LAYER, {b"opt": one}),
        image_key(LAYER, {b"opt": msgspec.structs.replace(one, mtime_ns=1)}),
        image_key(LAYER, {b"opt": one, b"": Entry(b"", Kind.DIR, 0o755)}),
        image_key(DiffId(sha256_digest(b"2")), {}),
    }
    assert len(keys) == 5


def test_the_layout_is_that_of_its_number(store: Store) -> None:
    """Who changes what images of layers look like raises LAYOUT, and writes the sum anew here."""
    entries = (
        Entry(b"d", Kind.DIR, 0o750, 1, 2, 1_500_000_000_000_000_001),
        Entry(b"d/link", Kind.SYMLINK, 0o777, target=b"../e/x"),
        Entry(b"e/empty", Kind.FILE, 0o4755, xattrs=((b"user.a", b"b"),)),
    )
    layer = Changeset(entries, (b"gone",), (b"d",))
    implied = implied_directories(layer, [Changeset((Entry(b"gone", Kind.FILE),), (), ())])
    image = write_layer_image(store, layer, implied, b"u" * 16)
    assert (LAYOUT, blake3(image.data).hexdigest(16)) == (1, "78c74df6b69518200a6ceb4e78d957c0")
