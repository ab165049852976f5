"""Saving images as an OCI image layout, a directory; its tars are in layout_archive.

Any OCI tool reads the result; layers come out with the diff IDs they have here.
Blobs are hashed while they are written, forced to disk and renamed to their
digest; ``index.json`` is replaced last, so a save that dies leaves the layout as it
was, plus blobs nobody names. Saving into a layout that exists adds to it. An image with
attestations becomes an index of two manifests, its own and theirs, as BuildKit writes it.

Source: OCI image spec, image-layout.md; BuildKit, docs/attestations/attestation-storage.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from msgspec import structs

from layerstore.digest import hex_of, sha256_digest
from layerstore.errors import ConflictError, FormatError, StorageError
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import decode_config
from layerstore.formats.reference import full_name
from layerstore.image.blob_files import BlobFile, Compression, LayerSink, compressor_of
from layerstore.image.export_layer import export_layer
from layerstore.image.images import ImageParts, load_parts
from layerstore.linux.files import fsync_directory, write_all
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from layerstore.digest import DiffId, Digest
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation with the whole name; ``ref.name`` holds the tag alone, as docker and BuildKit do."""

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_MAX_BYTES = strict_json.MAX_DOCUMENT_BYTES
MEDIA_TYPES: dict[str, str] = {
    "gzip": oci.LAYER_GZIP_TYPE,
    "zstd": oci.LAYER_ZSTD_TYPE,
    "none": oci.LAYER_TAR_TYPE,
}


class NamedImage(NamedTuple):
    """An image and the familiar name it is saved under; None for no name."""

    name: str | None
    image: ImageRecord | ImageParts


class SaveReport(NamedTuple):
    """What was saved.

    Attributes:
        index_digest: Of the layout's index.json.
        references: What each image is called in the layout, None for nameless ones.
        descriptors: Of each image's manifest, or of its index when it has attestations.
        manifests: Each image's own manifest.
    """

    index_digest: Digest
    references: tuple[str | None, ...]
    descriptors: tuple[oci.Descriptor, ...]
    manifests: tuple[oci.Manifest, ...]


class OutputTakenError(ConflictError):
    """The place to write to holds something that is not ours to change."""


def save_oci_layout(
    store: Store,
    images: Sequence[NamedImage],
    out: Path,
    *,
    compression: Compression = "gzip",
    progress: Progress | None = None,
) -> SaveReport:
    """Write images into the OCI layout directory ``out``, durably; it is made when absent.

    Raises:
        OutputTakenError: ``out`` holds something else.
        IntegrityError: Stored bytes are damaged; the layout is as it was before.
        StorageError: ``out`` cannot be written.
    """
    progress = progress or Silent()
    root = os.fspath(out)
    with writing(out):
        index = open_layout(root)
        writer = _LayoutWriter(store, root, compression, progress)
        references: list[str | None] = []
        descriptors: list[oci.Descriptor] = []
        manifests: list[oci.Manifest] = []
        for name, image in images:
            parts = image if isinstance(image, ImageParts) else load_parts(store, image)
            manifest, descriptor = writer.put_image(parts)
            index, reference = _with_entry(index, descriptor, name)
            references.append(reference)
            descriptors.append(descriptor)
            manifests.append(manifest)
        fsync_directory(f"{root}/blobs/sha256")
        raw = replace_index(root, index)
    return SaveReport(sha256_digest(raw), tuple(references), tuple(descriptors), tuple(manifests))


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn failures of the disk that is written to into ours; the store has errors of its own."""
    try:
        yield
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise StorageError(
            f"could not write {out}: {reason}",
            hint="the store is unharmed; free space there or choose another place",
        ) from err


class _LayoutWriter:
    """Puts blobs into one layout, each layer once."""

    def __init__(
        self, store: Store, root: str, compression: Compression, progress: Progress
    ) -> None:
        self._store = store
        self._blobs = f"{root}/blobs/sha256"
        self._compression = compression
        self._progress = progress
        self._layers: dict[DiffId, oci.Descriptor] = {}

    def put_image(self, image: ImageParts) -> tuple[oci.Manifest, oci.Descriptor]:
        """Write an image's blobs; return its manifest, and the descriptor of what names it all."""
        manifest = oci.Manifest(
            config=self._put(image.config, oci.CONFIG_TYPE),
            layers=tuple(self._put_layer(diff_id) for diff_id in image.layers),
            annotations=dict(image.annotations),
        )
        described = structs.replace(
            self._put(oci.encode_manifest(manifest), oci.MANIFEST_TYPE),
            platform=_platform_of(decode_config(image.config)),
        )
        if not image.predicates:
            return manifest, described
        from layerstore.image.attestations import attestation_blobs

        attested = attestation_blobs(described, image.predicates)
        for blob in attested.blobs:
            self._put(blob, "")
        index = oci.Index(manifests=(described, attested.descriptor))
        return manifest, self._put(oci.encode_index(index), oci.INDEX_TYPE)

    def _put(self, raw: bytes, media_type: str) -> oci.Descriptor:
        with BlobFile(self._blobs) as blob:
            blob.write(raw)
            blob.publish()
        return oci.describe(raw, media_type)

    def _put_layer(self, diff_id: DiffId) -> oci.Descriptor:
        known = self._layers.get(diff_id)
        if known is not None:
            return known
        size = self._store.layer(diff_id).tar_size
        self._progress.start(f"layer {hex_of(diff_id)[:12]}", size)
        with BlobFile(self._blobs) as blob:
            sink = LayerSink(blob, compressor_of(self._compression), self._progress)
            export_layer(self._store, diff_id, cast("BinaryIO", sink))
            sink.finish()
            digest = blob.publish()
        self._progress.finish()
        descriptor = oci.Descriptor(
            media_type=MEDIA_TYPES[self._compression], digest=digest, size=blob.size
        )
        self._layers[diff_id] = descriptor
        return descriptor


def replace_index(root: str, index: oci.Index) -> bytes:
    """Make ``index`` that of the layout, durably; its blobs are on disk. Return its bytes."""
    raw = oci.encode_index(index)
    _replace(f"{root}/{LAYOUT_FILE}", _LAYOUT)
    _replace(f"{root}/{INDEX_FILE}", raw)
    fsync_directory(root)
    return raw


def open_layout(root: str) -> oci.Index:
    """Return the index of the layout at ``root``, making directories where there is none.

    Raises:
        OutputTakenError: Something else is there.
        FormatError: A layout that is damaged, or of another version.
    """
    try:
        present = os.listdir(root)
    except FileNotFoundError:
        present = []
    except NotADirectoryError as err:
        raise OutputTakenError(f"{root} is a file, expected a directory") from err
    index = oci.Index(manifests=())
    if LAYOUT_FILE in present:
        index = _read_index(root)
    elif set(present) - {"blobs"}:
        raise OutputTakenError(
            f"{root} is not empty and not an OCI layout", hint="choose a new or empty directory"
        )
    os.makedirs(f"{root}/blobs/sha256", exist_ok=True)
    return index


def _read_index(root: str) -> oci.Index:
    document = strict_json.decode(_read(f"{root}/{LAYOUT_FILE}"), LAYOUT_FILE)
    version = document.get("imageLayoutVersion") if isinstance(document, dict) else None
    if version != "1.0.0":
        raise FormatError(f"{root} is an OCI layout of version {version!r}, expected '1.0.0'")
    try:
        raw = _read(f"{root}/{INDEX_FILE}")
    except FileNotFoundError:
        return oci.Index(manifests=())  # a save of ours died between the two files
    return oci.decode_index(raw, media_type=oci.INDEX_TYPE)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_INDEX_MAX_BYTES + 1)


def _with_entry(
    index: oci.Index, descriptor: oci.Descriptor, name: str | None
) -> tuple[oci.Index, str | None]:
    """Return the index with one more image, and what the image is called in it."""
    if name is None:
        kept = [
            entry
            for entry in index.manifests
            if entry.digest != descriptor.digest or entry.annotations.get(oci.REF_NAME)
        ]
        return structs.replace(index, manifests=(*kept, descriptor)), None
    whole = full_name(name)
    kept = [entry for entry in index.manifests if entry.annotations.get(CONTAINERD_NAME) != whole]
    taken = {entry.annotations.get(oci.REF_NAME) for entry in kept}
    reference = name.rpartition(":")[2]
    if reference in taken:
        reference = name  # another repository's image has that tag here
        kept = [entry for entry in kept if entry.annotations.get(oci.REF_NAME) != reference]
    named = structs.replace(
        descriptor, annotations={oci.REF_NAME: reference, CONTAINERD_NAME: whole}
    )
    return structs.replace(index, manifests=(*kept, named)), reference


def _platform_of(config: ImageConfig) -> oci.Platform:
    return oci.Platform(
        architecture=config.architecture,
        os=config.os,
        variant=config.variant,
        os_version=config.os_version,
        os_features=config.os_features,
    )


def _replace(path: str, raw: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(temporary, flags, 0o666)
    try:
        try:
            write_all(fd, raw)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        # Left behind, it would make a new layout look like somebody else's directory.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
