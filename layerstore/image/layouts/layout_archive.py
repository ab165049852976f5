"""An OCI image layout as one tar, and as what ``docker load`` reads.

The tar is written in one go: of plain layers and of originals the sizes are known before, which
a tar's headers need; what is compressed anew goes through a scratch file, a layer at a time.
Equal images give equal archives. Index and manifest.json come last, so that an archive that
breaks off has none.

Source: OCI image spec, image-layout.md; moby, image/spec/v1.2.md, "Combined Image JSON +
Filesystem Changeset Format", for manifest.json.
"""

from __future__ import annotations

import hashlib
import tempfile
from typing import TYPE_CHECKING, BinaryIO

from layerstore.digest import Digest, hex_of, sha256_digest
from layerstore.errors import IntegrityError, StorageError
from layerstore.formats import oci, strict_json
from layerstore.formats.reference import full_name
from layerstore.formats.tar_writer import TAR_END, member_header, padding
from layerstore.formats.tree import Entry, Kind
from layerstore.image.exchange.sending import Policy, Sender, Sent
from layerstore.image.layouts.layout import (
    INDEX_FILE,
    LAYOUT,
    LAYOUT_FILE,
    NamedImage,
    SaveReport,
    send_named,
    with_entry,
    writing,
)
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from layerstore.image.exchange.exchange import Document
    from layerstore.store.store import Store

DOCKER_FILE = "manifest.json"
"""What ``docker load`` and ``docker-archive:`` go by; an OCI tool ignores it."""

_COPY_BYTES = 1 << 20
_SCRATCH_BYTES = 8 << 20
"""Of a layer whose size is not known, held in memory before a file is made for it."""


def save_archive(
    store: Store,
    images: Sequence[NamedImage],
    out: BinaryIO,
    policy: Policy,
    *,
    for_docker: bool,
    progress: Progress | None = None,
) -> SaveReport:
    """Write images as one tar; what was written is whole when this returns, and not before.

    Args:
        store: Holds the images.
        images: A name each; an image may come several times.
        out: Written from its beginning to its end.
        policy: How layers leave.
        for_docker: Whether to add ``manifest.json``, by which docker and podman load it.
        progress: Hears the bytes of each layer.

    Raises:
        IntegrityError: Stored bytes are damaged.
        OSError: ``out`` cannot be written.
    """
    archive = ArchiveDestination(out)
    sender = Sender(store, archive, policy, progress or Silent())
    references: list[str | None] = []
    sent: list[Sent] = []
    names: dict[Digest, list[str]] = {}
    for named in images:
        sent.append(send_named(store, sender, named))
        references.append(archive.reference)
        own = names.setdefault(sent[-1].manifest.config.digest, [])
        if named.name is not None and named.name not in own:
            own.append(named.name)
    return SaveReport(
        archive.finish(docker_entries(sent, names) if for_docker else None),
        tuple(references),
        tuple(each.descriptor for each in sent),
        tuple(each.manifest for each in sent),
    )


def docker_entries(
    sent: Iterable[Sent], names: Mapping[Digest, Sequence[str]]
) -> list[dict[str, object]]:
    """Return what manifest.json lists: each image once, with all of its names."""
    manifests = {each.manifest.config.digest: each.manifest for each in sent}
    return [
        {
            "Config": _blob_path(digest),
            "Layers": [_blob_path(layer.digest) for layer in manifest.layers],
            # Whole names: a short one is podman's localhost/NAME.
            "RepoTags": [full_name(name) for name in names.get(digest, ())],
        }
        for digest, manifest in manifests.items()
    ]


def write_docker_file(layout: Path, report: SaveReport, names: Sequence[str]) -> None:
    """Add to a layout directory of one image what docker's old readers need.

    Args:
        layout: As :func:`save_oci_layout` has just written it.
        report: What that said; the first image counts.
        names: Familiar names that ``docker load`` gives the image.
    """
    manifest = report.manifests[0]
    sent = Sent(manifest, report.descriptors[0], is_original=False)
    entries = docker_entries([sent], {manifest.config.digest: names})
    with writing(layout):
        (layout / DOCKER_FILE).write_bytes(strict_json.encode(entries))


class ArchiveDestination:
    """A tar that is written, a destination of :mod:`~layerstore.image.exchange.exchange`.

    Attributes:
        reference: What the latest image is called in its index.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._index = oci.Index(manifests=())
        self._written: set[str] = set()
        self.reference: str | None = None
        out.writelines(
            member_header(Entry(path=folder, kind=Kind.DIR, mode=0o755))
            for folder in (b"blobs", b"blobs/sha256")
        )

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        """Return whether the archive has the blob already."""
        return descriptor.digest in self._written

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        """Write a blob.

        Raises:
            IntegrityError: It is not ``expected``: the archive is spoilt.
        """
        if expected is None:
            return self._put_scratch(pieces, media_type)
        self._begin(_blob_path(expected.digest), expected.size)
        made = hashlib.new(expected.digest.partition(":")[0])
        size = 0
        for piece in pieces:
            made.update(piece)
            size += len(piece)
            if size > expected.size:
                break
            self._out.write(piece)
        if size != expected.size or made.hexdigest() != hex_of(expected.digest):
            raise IntegrityError(f"blob {expected.digest} came out as {made.hexdigest()}")
        self._out.write(padding(size))
        self._written.add(expected.digest)
        return expected

    def _put_scratch(self, pieces: Iterable[bytes], media_type: str) -> oci.Descriptor:
        """Write a blob whose size and digest only its end tells."""
        made = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(_SCRATCH_BYTES) as scratch:
            try:
                for piece in pieces:
                    made.update(piece)
                    scratch.write(piece)
                size = scratch.tell()
                scratch.seek(0)
            except OSError as err:
                raise StorageError(
                    f"could not write a scratch file in {tempfile.gettempdir()}: {err.strerror}",
                    hint="set TMPDIR to a place with room for the largest layer, compressed",
                ) from err
            digest = Digest(f"sha256:{made.hexdigest()}")
            descriptor = oci.Descriptor(media_type=media_type, digest=digest, size=size)
            if digest in self._written:
                return descriptor
            return self.put_blob(_pieces(scratch), media_type, descriptor)

    def put_document(self, document: Document, reference: str | None) -> None:
        """Write a manifest or an index, and list it unless another document does."""
        descriptor = document.descriptor
        if not self.has_blob(descriptor):
            self.put_blob([document.raw], document.media_type, descriptor)
        if reference is not None:
            self._index, self.reference = with_entry(self._index, descriptor, reference or None)

    def finish(self, docker: list[dict[str, object]] | None) -> Digest:
        """End the archive; return the digest of its index.json.

        Args:
            docker: What manifest.json lists; None for no such file.
        """
        index = oci.encode_index(self._index)
        files = {LAYOUT_FILE: LAYOUT, INDEX_FILE: index}
        if docker is not None:
            files[DOCKER_FILE] = strict_json.encode(docker)
        for name, raw in files.items():
            self._begin(name, len(raw))
            self._out.write(raw + padding(len(raw)))
        self._out.write(TAR_END)
        return sha256_digest(index)

    def _begin(self, path: str, size: int) -> None:
        header = Entry(path=path.encode(), kind=Kind.FILE, mode=0o644, size=size)
        self._out.write(member_header(header))


def _pieces(file: tempfile.SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    while piece := file.read(_COPY_BYTES):
        yield piece


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{hex_of(digest)}"
