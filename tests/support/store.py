"""Small layers and images for tests of the store, and the oracle for crash tests."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

from layerstore.digest import DiffId, Digest
from layerstore.formats.tree import Changeset, Entry, Kind, encode_changeset, path_key
from layerstore.store.check import check
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from layerstore.store.catalog import ImageRecord
    from layerstore.store.session import WriteSession

Files = dict[bytes, bytes]


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def text(seed: int, size: int) -> bytes:
    """Bytes that compress well, the same for the same seed."""
    source = random.Random(seed)
    words = [source.randbytes(3).hex().encode() for _ in range(64)]
    out = bytearray()
    while len(out) < size:
        out += source.choice(words) + b" "
    return bytes(out[:size])


def diff_id_of(files: Mapping[bytes, bytes]) -> DiffId:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(b"%d %s %d " % (len(path), path, len(files[path])))
        digest.update(files[path])
    return DiffId(Digest("sha256:" + digest.hexdigest()))


def put_layer(session: WriteSession, files: Mapping[bytes, bytes]) -> LayerRecord:
    """Put files as a layer and publish it."""
    record = put_unpublished_layer(session, files)
    session.publish_layer(record)
    return record


def put_unpublished_layer(session: WriteSession, files: Mapping[bytes, bytes]) -> LayerRecord:
    entries = [
        Entry(path, Kind.FILE, 0o644, size=len(data), extents=session.put_bytes(data))
        for path, data in sorted(files.items(), key=lambda item: path_key(item[0]))
    ]
    tree = session.put_bytes(encode_changeset(Changeset(tuple(entries))), meta=True)
    total = sum(len(data) for data in files.values())
    return LayerRecord(diff_id_of(files), total, tree, (), "canonical-1", len(entries), total)


def blobs_of(layers: Sequence[DiffId], salt: str = "") -> tuple[bytes, bytes]:
    """Return config and manifest of an image with these layers."""
    config = json.dumps(
        {
            "created": "2026-11-23T00:00:00Z",
            "architecture": "amd64",
            "os": "linux",
            "author": salt,
            "rootfs": {"type": "layers", "diff_ids": list(layers)},
        }
    ).encode()
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": digest}, "layers": []})
    return config, manifest.encode()


def put_image(
    session: WriteSession, *layers: Mapping[bytes, bytes], names: Sequence[str] = ()
) -> ImageRecord:
    """Put files as the layers of an image and publish it under ``names``."""
    diff_ids = [put_layer(session, files).diff_id for files in layers]
    return session.publish_image(*blobs_of(diff_ids), diff_ids, names=names)


def add_image(root: Path, name: str, *layers: Files) -> ImageRecord:
    """Open a store (making it), add a named image, close it."""
    with Store.open(root, create=True) as store, store.begin("test") as session:
        return put_image(session, *layers, names=[name])


def read_layer(store: Store, diff_id: DiffId) -> Files:
    """Read a layer's files back, every byte verified."""
    from layerstore.formats.tree import decode_changeset

    record = store.layer(diff_id)
    files: Files = {}
    for entry in decode_changeset(store.read_refs(record.tree)).entries:
        refs = tuple((n, c) for n, c in entry.extents if c is not None)
        files[entry.path] = store.read_refs(refs)
    return files


def read_image(store: Store, reference: str) -> list[Files]:
    """Read an image's layers back."""
    return [read_layer(store, diff_id) for diff_id in store.resolve(reference).layers]


def assert_sound(root: Path, expected: Mapping[str, Sequence[Files]]) -> None:
    """The oracle: opens unaided, everything acknowledged reads back, check is clean."""
    with Store.open(root) as store:
        for name, layers in expected.items():
            assert read_image(store, name) == list(layers), name
        report = check(store, read_data=True)
        assert report.ok, report.findings


def disk_bytes(root: Path) -> int:
    """Bytes of pack files, blobs and temporary files: what gc speaks about."""
    total = 0
    for folder in ("packs", "blobs", "tmp"):
        total += sum(p.stat().st_size for p in (root / folder).rglob("*") if p.is_file())
    return total
