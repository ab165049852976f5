"""An OCI image layout as one tar, and as what ``docker load`` reads.

The layout is spooled as a directory first, because a tar's headers need the sizes of
compressed layers before their bytes. Equal images give equal archives.

Source: OCI image spec, image-layout.md; docker's image spec v1.2, "Combined Image JSON +
Filesystem Changeset Format", for manifest.json.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from layerstore.digest import hex_of
from layerstore.formats import strict_json
from layerstore.formats.tar_writer import TAR_END, member_header, padding
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layout import (
    INDEX_FILE,
    LAYOUT_FILE,
    NamedImage,
    OutputTakenError,
    SaveReport,
    save_oci_layout,
    writing,
)
from layerstore.linux.files import fsync_directory, read_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.image.sending import Form
    from layerstore.progress import Progress
    from layerstore.store.store import Store

DOCKER_FILE = "manifest.json"
"""What ``docker load`` and ``docker-archive:`` go by; an OCI tool ignores it."""

_COPY_BYTES = 1 << 20


def save_oci_archive(
    store: Store,
    images: Sequence[NamedImage],
    out: Path,
    *,
    compression: Form = "gzip",
    progress: Progress | None = None,
) -> SaveReport:
    """Write images as one tar of an OCI layout, replacing ``out`` when it is whole and durable.

    The layout is spooled beside ``out`` first, because a tar's headers need the sizes of
    compressed layers before their bytes. Equal images give equal archives.

    Raises:
        OutputTakenError: ``out`` is a directory.
        IntegrityError: Stored bytes are damaged; ``out`` is as it was before.
        StorageError: ``out`` cannot be written.
    """
    target = os.path.realpath(out)
    if os.path.isdir(target):
        raise OutputTakenError(f"{out} is a directory, expected a file")
    parent = os.path.dirname(target)
    with writing(out), tempfile.TemporaryDirectory(prefix=".layerstore-", dir=parent) as spool:
        layout = Path(spool) / "layout"
        report = save_oci_layout(store, images, layout, compression=compression, progress=progress)
        archive = f"{spool}/archive.tar"
        with open(archive, "xb") as stream:
            write_archive(os.fspath(layout), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(archive, target)
        fsync_directory(parent)
    return report


def write_docker_file(layout: Path, report: SaveReport, names: Sequence[str]) -> None:
    """Add to a layout of one image what docker's old readers need.

    Args:
        layout: As :func:`save_oci_layout` has just written it.
        report: What that said; the first image counts.
        names: Familiar names that ``docker load`` gives the image.
    """
    manifest = report.manifests[0]
    entry = {
        "Config": _blob_path(manifest.config.digest),
        "Layers": [_blob_path(layer.digest) for layer in manifest.layers],
        "RepoTags": list(names),
    }
    with writing(layout):
        (layout / DOCKER_FILE).write_bytes(strict_json.encode([entry]))


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def write_archive(root: str, out: BinaryIO) -> None:
    """Write the layout below ``root`` as a tar: the same bytes for the same layout."""
    blobs = sorted(os.listdir(f"{root}/blobs/sha256"))
    for path in (LAYOUT_FILE, INDEX_FILE, DOCKER_FILE):
        if path != DOCKER_FILE or os.path.exists(f"{root}/{path}"):
            _write_member(root, path, out)
    folders = (Entry(path=path, kind=Kind.DIR, mode=0o755) for path in (b"blobs", b"blobs/sha256"))
    out.writelines(member_header(folder) for folder in folders)
    for name in blobs:
        _write_member(root, f"blobs/sha256/{name}", out)
    out.write(TAR_END)


def _write_member(root: str, path: str, out: BinaryIO) -> None:
    with open(f"{root}/{path}", "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        out.write(member_header(Entry(path=path.encode(), kind=Kind.FILE, mode=0o644, size=size)))
        # The header promises size bytes; a file that ends early must not pass for a whole one.
        starts = range(0, size, _COPY_BYTES)
        fd = stream.fileno()
        out.writelines(read_at(fd, min(_COPY_BYTES, size - start), start) for start in starts)
        out.write(padding(size))
