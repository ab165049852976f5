"""Saving images as an OCI image layout: a directory, or one tar of it.

Any OCI tool reads the result; layers come out with the diff IDs they have here.
Blobs are hashed while they are written, forced to disk and renamed to their
digest; ``index.json`` is replaced last, so a save that dies leaves the layout as it
was, plus blobs nobody names. Saving into a layout that exists adds to it.

Source: OCI image spec, image-layout.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, Protocol, cast

from msgspec import structs

from layerstore.digest import Digest, hex_of, sha256_digest
from layerstore.errors import ConflictError, FormatError, StorageError
from layerstore.formats import oci, strict_json
from layerstore.formats.reference import parse_reference
from layerstore.formats.tar_writer import TAR_END, member_header, padding
from layerstore.formats.tree import Entry, Kind
from layerstore.image.export_layer import export_layer
from layerstore.image.images import load_config
from layerstore.linux.files import fsync_directory, read_at, write_all
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store

Compression = Literal["gzip", "zstd", "none"]

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation with the whole name; ``ref.name`` holds the tag alone, as docker and BuildKit do."""

_COPY_BYTES = 1 << 20
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_MAX_BYTES = strict_json.MAX_DOCUMENT_BYTES
# isal's levels end at 3: 291 MB/s a core where zlib's 6 makes 23 and saves a tenth more.
_GZIP_LEVEL = 3
_ZSTD_LEVEL = 3
_MEDIA_TYPES: dict[str, str] = {
    "gzip": oci.LAYER_GZIP_TYPE,
    "zstd": oci.LAYER_ZSTD_TYPE,
    "none": oci.LAYER_TAR_TYPE,
}


class NamedImage(NamedTuple):
    """An image and the familiar name it is saved under; None for no name."""

    name: str | None
    image: ImageRecord


class SaveReport(NamedTuple):
    """What was saved.

    Attributes:
        index_digest: Of the layout's index.json.
        references: What each image is called in the layout, None for nameless ones.
    """

    index_digest: Digest
    references: tuple[str | None, ...]


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
    with _writing(out):
        index = _open_layout(root)
        writer = _LayoutWriter(store, root, compression, progress)
        references: list[str | None] = []
        for name, image in images:
            descriptor = writer.put_image(image)
            index, reference = _with_entry(index, descriptor, name)
            references.append(reference)
        fsync_directory(f"{root}/blobs/sha256")
        raw = oci.encode_index(index)
        _replace(f"{root}/{LAYOUT_FILE}", _LAYOUT)
        _replace(f"{root}/{INDEX_FILE}", raw)
        fsync_directory(root)
    return SaveReport(sha256_digest(raw), tuple(references))


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turn failures of the disk that is written to into ours; the store has errors of its own."""
    try:
        yield
    except OSError as err:
        reason = os.strerror(err.errno) if err.errno else str(err)
        raise StorageError(
            f"could not write {out}: {reason}",
            hint="the store is unharmed; free space there or choose another place",
        ) from err


def save_oci_archive(
    store: Store,
    images: Sequence[NamedImage],
    out: Path,
    *,
    compression: Compression = "gzip",
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
    with _writing(out), tempfile.TemporaryDirectory(prefix=".layerstore-", dir=parent) as spool:
        layout = Path(spool) / "layout"
        report = save_oci_layout(store, images, layout, compression=compression, progress=progress)
        archive = f"{spool}/archive.tar"
        with open(archive, "xb") as stream:
            _write_archive(os.fspath(layout), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(archive, target)
        fsync_directory(parent)
    return report


def _write_archive(root: str, out: BinaryIO) -> None:
    blobs = sorted(os.listdir(f"{root}/blobs/sha256"))
    for path in (LAYOUT_FILE, INDEX_FILE):
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

    def put_image(self, image: ImageRecord) -> oci.Descriptor:
        """Write an image's blobs and return its manifest's descriptor."""
        config = load_config(self._store, image.image_id)
        raw_config = self._store.get_blob(image.image_id)
        manifest = oci.encode_manifest(
            oci.Manifest(
                config=self._put(raw_config, oci.CONFIG_TYPE),
                layers=tuple(self._put_layer(diff_id) for diff_id in image.layers),
            )
        )
        return structs.replace(
            self._put(manifest, oci.MANIFEST_TYPE), platform=_platform_of(config)
        )

    def _put(self, raw: bytes, media_type: str) -> oci.Descriptor:
        with _BlobFile(self._blobs) as blob:
            blob.write(raw)
            blob.publish()
        return oci.describe(raw, media_type)

    def _put_layer(self, diff_id: DiffId) -> oci.Descriptor:
        known = self._layers.get(diff_id)
        if known is not None:
            return known
        size = self._store.layer(diff_id).tar_size
        self._progress.start(f"layer {hex_of(diff_id)[:12]}", size)
        with _BlobFile(self._blobs) as blob:
            sink = _Sink(blob, _compressor(self._compression), self._progress)
            export_layer(self._store, diff_id, cast("BinaryIO", sink))
            sink.finish()
            digest = blob.publish()
        self._progress.finish()
        descriptor = oci.Descriptor(
            media_type=_MEDIA_TYPES[self._compression], digest=digest, size=blob.size
        )
        self._layers[diff_id] = descriptor
        return descriptor


class _BlobFile:
    """A blob being written; it gets the name of its digest when it is published."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._temporary: str | None = f"{directory}/.{os.getpid()}.part"
        # Not a file of the store: the umask of the person who saves decides who may read it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self._temporary, flags, 0o666)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, part: bytes) -> None:
        self._hash.update(part)
        self.size += len(part)
        write_all(self._fd, part)

    def publish(self) -> Digest:
        assert self._temporary is not None
        os.fsync(self._fd)
        fd, self._fd = self._fd, -1
        os.close(fd)
        os.rename(self._temporary, f"{self._directory}/{self._hash.hexdigest()}")
        self._temporary = None
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Store:
    """No compression, in the shape of one."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Sink:
    """What a layer's tar is written to: compresses into a blob."""

    def __init__(self, blob: _BlobFile, compressor: _Compressor, progress: Progress) -> None:
        self._blob = blob
        self._compressor = compressor
        self._progress = progress

    def write(self, part: bytes) -> int:
        compressed = self._compressor.compress(part)
        if compressed:
            self._blob.write(compressed)
        self._progress.advance(len(part))
        return len(part)

    def finish(self) -> None:
        self._blob.write(self._compressor.flush())


def _compressor(compression: Compression) -> _Compressor:
    match compression:
        case "none":
            return _Store()
        case "zstd":
            import zstandard

            # Its default writes no checksum, without which most bit flips pass unseen.
            return zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True).compressobj()
        case "gzip":
            from isal import isal_zlib

            # 31: a gzip member; isal writes no time and no name, so equal layers stay equal.
            compressor: _Compressor = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, 31)
            return compressor


def _open_layout(root: str) -> oci.Index:
    """Return the index of the layout at ``root``, making directories where there is none."""
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
    full_name = _full_name(name)
    kept = [
        entry for entry in index.manifests if entry.annotations.get(CONTAINERD_NAME) != full_name
    ]
    taken = {entry.annotations.get(oci.REF_NAME) for entry in kept}
    reference = name.rpartition(":")[2]
    if reference in taken:
        reference = name  # another repository's image has that tag here
        kept = [entry for entry in kept if entry.annotations.get(oci.REF_NAME) != reference]
    named = structs.replace(
        descriptor, annotations={oci.REF_NAME: reference, CONTAINERD_NAME: full_name}
    )
    return structs.replace(index, manifests=(*kept, named)), reference


def _full_name(name: str) -> str:
    reference = parse_reference(name)
    return f"{reference.host}/{reference.path}:{reference.tag}"


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
