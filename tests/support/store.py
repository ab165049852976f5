"""Small layers and images for tests of the store, and the oracle for crash tests."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
from functools import partial
from typing import TYPE_CHECKING

from layerstore.digest import DiffId, Digest
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.layers.similar import SimilarFiles
from layerstore.store.check.check import check
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pytest

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import Refs
    from layerstore.store.writing.session import WriteSession

Files = dict[bytes, bytes]


def noise(seed: int | str, size: int) -> bytes:
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


def put_layer(
    session: WriteSession, files: Mapping[bytes, bytes], like: SimilarFiles | None = None
) -> LayerRecord:
    """Put files as a layer and publish it; ``like`` knows what they resemble."""
    record = put_unpublished_layer(session, files, like)
    session.publish_layer(record)
    return record


def put_unpublished_layer(
    session: WriteSession, files: Mapping[bytes, bytes], like: SimilarFiles | None = None
) -> LayerRecord:
    def extents(path: bytes, data: bytes) -> Refs:
        similar = partial(like.find, path) if like else None
        return session.put_stream(io.BytesIO(data).read, len(data), like=similar)

    entries = [
        Entry(path, Kind.FILE, 0o644, size=len(data), extents=extents(path, data))
        for path, data in sorted(files.items(), key=lambda item: path_key(item[0]))
    ]
    tree = session.put_bytes(encode_changeset(Changeset(tuple(entries))), meta=True)
    total = sum(len(data) for data in files.values())
    return LayerRecord(diff_id_of(files), total, tree, (), "canonical-1", len(entries), total)


def fail_medium(monkeypatch: pytest.MonkeyPatch, path: Path, start: int, end: int) -> None:
    """Let reads that touch these bytes of a file fail, as of a disk with bad sectors."""
    file = path.stat().st_ino
    pread = os.pread

    def bad_pread(fd: int, size: int, offset: int) -> bytes:
        if offset < end and start < offset + size and os.fstat(fd).st_ino == file:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", bad_pread)


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


def add_version(root: Path, name: str, files: Files) -> ImageRecord:
    """Add an image of one layer whose files may become differences against stored ones."""
    with Store.open(root, create=True) as store, store.begin("test") as session:
        diff_id = put_layer(session, files, SimilarFiles(store)).diff_id
        return session.publish_image(*blobs_of([diff_id]), [diff_id], names=[name])


def versions(count: int, *, size: int = 300_000, files: int = 3) -> list[Files]:
    """Versions of files that each change a little: every one resembles the one before."""
    source = random.Random(count)
    now = {b"lib/f%d.so" % n: bytearray(noise(n, size)) for n in range(files)}
    found = []
    for _ in range(count):
        found.append({path: bytes(data) for path, data in now.items()})
        for data in now.values():
            for _ in range(5):
                at = source.randrange(len(data))
                data[at : at + 20] = source.randbytes(30)
    return found


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
