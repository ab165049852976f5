"""Random layers with few names, so that they collide, and small stores for the ledger's tests."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from layerstore.digest import ChunkId, DiffId, sha256_digest
from layerstore.formats.origins import NO_ORIGINS, Origins, replace_origins
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.measure.attribution import Attribution, attribute
from layerstore.measure.inventory import ChunkReader, Inventory, take_inventory
from layerstore.measure.summary import take_summarised
from layerstore.store.records import LayerRecord
from tests.support.encoding import encode_changeset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

_NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(b"/".join)
_SIZES = st.sampled_from([0, 1, 59, 4095, 4096, 4097, 300_000])


def chunk_named(text: str) -> ChunkId:
    """Return an id that stands for a chunk nobody stores."""
    return ChunkId(hashlib.sha256(text.encode()).digest())


@st.composite
def extents(draw: st.DrawFn) -> tuple[tuple[int, ChunkId | None], ...]:
    parts = draw(st.lists(st.tuples(st.integers(1, 9000), st.sampled_from("xyz-")), max_size=4))
    return tuple(
        (size, None if name == "-" else chunk_named(f"{name}{size}")) for size, name in parts
    )


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path = draw(PATHS)
    kind = draw(st.sampled_from([Kind.DIR, Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.HARDLINK]))
    if kind == Kind.FILE:
        content = draw(extents())
        size = sum(length for length, _ in content)
        return Entry(path=path, kind=kind, mode=0o644, size=size, extents=content)
    if kind == Kind.SYMLINK:
        return Entry(path=path, kind=kind, target=b"t" * (draw(_SIZES) % 100 + 1))
    if kind == Kind.HARDLINK:
        return Entry(path=path, kind=kind, target=draw(PATHS))
    return Entry(path=path, kind=kind, mode=0o755)


@st.composite
def changesets(draw: st.DrawFn) -> Changeset:
    drawn = {entry.path: entry for entry in draw(st.lists(entries(), max_size=8))}
    leaves = {path for path, entry in drawn.items() if entry.kind != Kind.DIR}
    # No layer that a tar can give holds names below its own file or link.
    added = {path: entry for path, entry in drawn.items() if leaves.isdisjoint(_parents(path))}
    whiteouts = draw(st.lists(PATHS, max_size=2))
    opaques = draw(st.lists(PATHS, max_size=1))
    return Changeset(
        entries=tuple(sorted(added.values(), key=lambda entry: path_key(entry.path))),
        whiteouts=tuple(sorted(set(whiteouts))),
        opaques=tuple(sorted(set(opaques))),
    )


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def noise(seed: object, size: int) -> bytes:
    """Return bytes that half compress, the same for the same seed."""
    half = random.Random(str(seed)).randbytes(-(-size // 2))
    return (half + bytes(size))[:size]


def put_layer(session: WriteSession, files: dict[bytes, bytes], *, tar_size: int = 0) -> DiffId:
    """Publish a layer of regular files. Its diff id stands for a tar that nobody wrote."""
    found = [
        Entry(
            path=path,
            kind=Kind.FILE,
            mode=0o644,
            size=len(content),
            extents=tuple(session.put_bytes(content)),
        )
        for path, content in files.items()
    ]
    changeset = Changeset(entries=tuple(sorted(found, key=lambda entry: path_key(entry.path))))
    return put_tree(session, changeset, tar_size=tar_size)


def put_tree(session: WriteSession, changeset: Changeset, *, tar_size: int = 0) -> DiffId:
    """Publish a layer of entries whose content was put. Its diff id stands for no tar, either."""
    encoded = encode_changeset(changeset)
    diff_id = DiffId(sha256_digest(encoded))
    session.publish_layer(
        LayerRecord(
            diff_id=diff_id,
            tar_size=tar_size,
            tree=session.put_bytes(encoded, meta=True),
            recipe=(),
            recipe_format="canonical-1",
            entry_count=len(changeset.entries),
            content_size=sum(entry.size for entry in changeset.entries),
        )
    )
    return diff_id


def put_image(
    session: WriteSession,
    layers: Sequence[DiffId],
    *names: str,
    created: int = 0,
    origins: Origins = NO_ORIGINS,
    documents: Sequence[bytes] = (),
) -> ImageRecord:
    """Publish an image of published layers; its manifest is a stand-in."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": f"2026-11-{created + 1:02d}T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
        "history": [],
    }
    encoded = json.dumps(config).encode()
    descriptor = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": sha256_digest(encoded),
        "size": len(encoded),
    }
    manifest = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": []}).encode()
    if origins:
        manifest = replace_origins(manifest, origins)
    return session.publish_image(encoded, manifest, layers, names=names, documents=documents)


def build(store: Store, name: str, *layers: dict[bytes, bytes], created: int = 0) -> ImageRecord:
    """Store one image of layers of files."""
    with store.begin(f"test {name}") as session:
        ids = [put_layer(session, files) for files in layers]
        return put_image(session, ids, name, created=created)


def assert_sums_are_true(store: Store) -> None:
    """Hold what is remembered of a store to what its rows say now."""
    remembered = take_summarised(store)
    assert remembered.sums is not None
    assert _in_order(store, remembered) == _in_order(store, take_inventory(store))


def _in_order(store: Store, inventory: Inventory) -> Attribution:
    found = attribute(inventory, ChunkReader(store, inventory))
    return found._replace(
        groups=tuple(sorted(found.groups, key=lambda group: sorted(group.layers)))
    )
