"""Frozen bytes: the canonical tar, the tree and the recipe. A change here is a format break."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from layerstore.digest import ChunkId
from layerstore.formats import recipe, tar_writer
from layerstore.formats.tree import Changeset, Entry, Kind, decode_changeset
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.trees.export_layer import export_layer
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset, encode_plan

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = ChunkId(bytes(range(32)))
NS = 1_700_000_000_000_000_000

EVERYTHING = Changeset(
    entries=(
        Entry(b"", Kind.DIR, mode=0o755, mtime_ns=NS),
        Entry(b"bin", Kind.SYMLINK, mode=0o777, target=b"usr/bin"),
        Entry(b"d", Kind.DIR, mode=0o1777, uid=2_097_152, gid=4_294_967_294, mtime_ns=NS + 1),
        Entry(
            b"d/file", Kind.FILE, mode=0o4755, uid=1, gid=2, mtime_ns=NS + 120_000_000, size=5,
            extents=((5, CHUNK),), xattrs=((b"user.a=b%", b"\0v\n"),),
        ),
        Entry(b"d/link", Kind.HARDLINK, mode=0o4755, uid=1, gid=2, mtime_ns=NS + 120_000_000,
              target=b"d/file"),
        Entry(b"d/lower", Kind.HARDLINK, mode=0o600, target=b"lower/file"),
        Entry(b"d/" + b"n" * 120, Kind.SYMLINK, mode=0o777, target=b"t" * 101),
        Entry(b"d/" + b"p" * 60 + b"/" + b"q" * 60, Kind.FIFO, mode=0o600, mtime_ns=-1),
        Entry(b"null", Kind.CHAR, mode=0o666, dev_major=1, dev_minor=3),
        Entry(b"sda", Kind.BLOCK, mode=0o660, dev_major=8, dev_minor=1_048_575),
        Entry(
            b"sparse", Kind.FILE, mode=0o644, size=20_000,
            extents=((4096, None), (100, CHUNK), (200, CHUNK), (15_604, None)),
        ),
        Entry(b"\xff", Kind.FILE, mode=0o644),
    ),
    whiteouts=(b"d/!gone", b"old"),
    opaques=(b"d",),
)  # fmt: skip

TREE_SHA256 = "93dbfb08d2df08ea847a979f032748836b981b5acfb192ca10f19b911d5e5cde"
TAR_HEADERS_SHA256 = "94a453a7fa1f7d22f2c126a6111d320b70d1da8e4124afa6458d9571f38453c1"
DIFF_ID = "sha256:d4751b957e07d27c42c7de08b604fdf017bcd1e918db37a9fe6806d8e7b080ae"
SMALL_TREE = (
    "4c5354524545000193929cc40001cd01ed0000000090c4000000909cc4016102cd01a40000010391"
    "9203c420000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fc4000000"
    "9091c4016290"
)


def test_tree_bytes_are_frozen() -> None:
    encoded = encode_changeset(EVERYTHING)
    assert hashlib.sha256(encoded).hexdigest() == TREE_SHA256
    assert decode_changeset(encoded) == EVERYTHING


def test_small_tree_is_what_the_format_document_shows() -> None:
    small = Changeset(
        entries=(
            Entry(b"", Kind.DIR, mode=0o755),
            Entry(b"a", Kind.FILE, mode=0o644, mtime_ns=1, size=3, extents=((3, CHUNK),)),
        ),
        whiteouts=(b"b",),
    )
    assert encode_changeset(small).hex() == SMALL_TREE
    assert decode_changeset(bytes.fromhex(SMALL_TREE)) == small


def test_canonical_headers_are_frozen() -> None:
    digest = hashlib.sha256()
    for header, _ in tar_writer.canonical_members(EVERYTHING):
        digest.update(header)
    assert digest.hexdigest() == TAR_HEADERS_SHA256


def test_diff_id_of_a_layer_is_frozen(tmp_path: Path) -> None:
    content = b"".join(b"%d\n" % number for number in range(100_000))
    items = [
        LayerItem(Entry(b"etc", Kind.DIR, mode=0o755, mtime_ns=NS)),
        LayerItem(
            Entry(b"etc/numbers", Kind.FILE, mode=0o644, mtime_ns=NS + 5, size=len(content)),
            lambda: io.BytesIO(content),
        ),
        LayerItem(
            Entry(b"etc/sparse", Kind.FILE, mode=0o600, mtime_ns=NS, size=8192),
            lambda: io.BytesIO(bytes(4096) + b"x" * 4096),
            ((0, 4096),),
        ),
    ]
    with Store.open(tmp_path / "s", create=True) as store, store.begin("test") as session:
        record = write_layer(session, store, items, whiteouts=[b"etc/gone"])
        assert record.diff_id == DIFF_ID
        out = io.BytesIO()
        export_layer(store, record.diff_id, out)
        assert len(out.getvalue()) == record.tar_size


def test_plan_bytes_are_frozen() -> None:
    encoded = encode_plan([(512, 0), (1024, 1), (700, 5), (0, 2)], 1024, [7])
    assert encoded.hex() == (
        "4c535245434950000100000015000000bc0c00000000000007000000000000009299cd020000cd04"
        "0000cd02bc0300fccd04009107"
    )
    plan = recipe.decode_plan(encoded)
    assert list(recipe.segments(plan, 6)) == [(512, 0), (1024, 1), (700, 5), (0, 2), (1024, None)]
