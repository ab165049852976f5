"""Images of layers with whiteouts, modes and package databases, for what looks into images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, sha256_digest
from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.store.records import LayerRecord
from tests.support.encoding import encode_changeset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class File(NamedTuple):
    """A regular file, or with ``link`` another name of one."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    mtime_ns: int = 0
    link: bytes = b""


class Layer(NamedTuple):
    """One layer: files by path, and what it takes away. ``step`` is its line of the history."""

    files: dict[bytes, File | bytes]
    whiteouts: tuple[bytes, ...] = ()
    opaques: tuple[bytes, ...] = ()
    step: str = ""


def put_tree(session: WriteSession, layer: Layer) -> DiffId:
    """Publish a layer. Its diff id stands for a tar that nobody wrote."""
    entries = []
    for path, item in layer.files.items():
        file = item if isinstance(item, File) else File(item)
        if file.link:
            entries.append(
                Entry(
                    path=path,
                    kind=Kind.HARDLINK,
                    mode=file.mode,
                    uid=file.uid,
                    mtime_ns=file.mtime_ns,
                    target=file.link,
                )
            )
            continue
        entries.append(
            Entry(
                path=path,
                kind=Kind.FILE,
                mode=file.mode,
                uid=file.uid,
                mtime_ns=file.mtime_ns,
                size=len(file.content),
                extents=tuple(session.put_bytes(file.content)) if file.content else (),
            )
        )
    changeset = Changeset(
        entries=tuple(sorted(entries, key=lambda entry: path_key(entry.path))),
        whiteouts=tuple(sorted(layer.whiteouts, key=path_key)),
        opaques=tuple(sorted(layer.opaques, key=path_key)),
    )
    encoded = encode_changeset(changeset)
    diff_id = DiffId(sha256_digest(encoded))
    session.publish_layer(
        LayerRecord(
            diff_id=diff_id,
            tar_size=sum(entry.size + 512 for entry in entries),
            tree=session.put_bytes(encoded, meta=True),
            recipe=(),
            recipe_format="canonical-1",
            entry_count=len(entries),
            content_size=sum(entry.size for entry in entries),
        )
    )
    return diff_id


def image_of(store: Store, name: str, *layers: Layer, **config: object) -> ImageRecord:
    """Store one image; ``config`` is docker's ``Config`` object."""
    with store.begin(f"test {name}") as session:
        ids: Sequence[DiffId] = [put_tree(session, layer) for layer in layers]
        plain = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-11-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": list(ids)},
            "history": [{"created_by": layer.step} for layer in layers],
        }
        encoded = json.dumps(plain).encode()
        descriptor = {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256_digest(encoded),
            "size": len(encoded),
        }
        manifest = json.dumps({"schemaVersion": 2, "config": descriptor, "layers": []}).encode()
        return session.publish_image(encoded, manifest, ids, names=(name,))


def dpkg_status(**versions: str) -> bytes:
    """Return a database of dpkg with these packages."""
    return "\n".join(
        f"Package: {name.replace('_', '-')}\nStatus: install ok installed\n"
        f"Architecture: amd64\nVersion: {version}\n"
        for name, version in versions.items()
    ).encode()
