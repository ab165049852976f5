"""Copies of images that may bring back what a store has lost.

A copy is another store, a directory with a root file system, a tar of one or of a layer,
or an OCI image layout (a directory, or a tar of one). It is read the way an import would
read it, and a :class:`~layerstore.store.check.glean.Gleaner` keeps what was lost. Nothing of a
copy is believed: every piece is known by its own hash.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from layerstore.digest import Digest, hex_of, sha256_digest
from layerstore.errors import (
    FormatError,
    InputError,
    IntegrityError,
    LayerstoreError,
    NotFoundError,
)
from layerstore.formats import oci
from layerstore.formats.decompress import decompressed
from layerstore.formats.oci_config import decode_config
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import Kind
from layerstore.image.exchange.originals import keep_original, known_encodings
from layerstore.image.images import own_manifest
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.scan import scan_directory
from layerstore.image.layouts.layout import INDEX_FILE, LAYOUT_FILE
from layerstore.linux.files import read_file
from layerstore.progress import Silent
from layerstore.store.blobs import BLOB_MAX_BYTES
from layerstore.store.failures import ReadOnlyStoreError, StoreFullError
from layerstore.store.paths import StorePaths
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.formats.tar_member import Member
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.check.glean import Gleaned, Gleaner
    from layerstore.store.writing.session import WriteSession

_COPY_BYTES = 1 << 20
_BLOBS = "blobs/sha256"
_LAYOUT_NAMES = frozenset({LAYOUT_FILE, INDEX_FILE, "manifest.json", "repositories"})


class SourceResult(NamedTuple):
    """What one copy brought.

    Attributes:
        kind: What it turned out to be.
        problem: Why it could not be read to its end; what it gave before counts.
    """

    path: str
    kind: str
    gleaned: Gleaned
    problem: str | None


def require_copy(path: str) -> None:
    """Refuse a copy that is not there.

    Raises:
        NotFoundError: It is not.
    """
    if not os.path.lexists(path):
        raise NotFoundError(f"{path} does not exist", hint="name a store, a directory or a tar")


def glean_from(gleaner: Gleaner, path: str, *, progress: Progress | None = None) -> SourceResult:
    """Offer a copy to a gleaner; what it brings is durable when this returns.

    Raises:
        NotFoundError: No such copy.
        StorageError: The store could not be written.
    """
    require_copy(path)
    report = progress or Silent()
    kind = _kind_of(path)
    problem = None
    try:
        _OFFERS[kind](gleaner, path, report)
    except (StoreFullError, ReadOnlyStoreError):
        raise
    except LayerstoreError as err:
        problem = err.message
    except OSError as err:
        problem = f"{err.strerror}: {err.filename or path}"
    return SourceResult(path, kind, gleaner.settle(), problem)


def _kind_of(path: str) -> str:
    if not os.path.isdir(path):
        return "tar"
    if os.path.isfile(StorePaths(path).config):
        return "store"
    return "OCI layout" if os.path.isfile(f"{path}/{LAYOUT_FILE}") else "directory"


def _offer_store(gleaner: Gleaner, path: str, _: Progress) -> None:
    if os.path.realpath(path) == os.path.realpath(gleaner.store.root):
        raise InputError(f"{path} is the store to be repaired")
    with Store.open(path) as other:
        gleaner.offer_store(other)


def _offer_directory(gleaner: Gleaner, path: str, progress: Progress) -> None:
    session = cast("WriteSession", gleaner)
    write_layer(session, gleaner.store, scan_directory(Path(path)), progress=progress)


def _offer_tar(gleaner: Gleaner, path: str, progress: Progress) -> None:
    if _is_layout(path):
        _offer_archive(gleaner, path, progress)
        return
    with open(path, "rb") as stream:
        ingest_tar(cast("WriteSession", gleaner), stream, progress=progress)


def _is_layout(path: str) -> bool:
    """Return whether a tar's first member is one of an OCI layout."""
    with open(path, "rb") as stream:
        first = TarReader(decompressed(stream.read, Limits())).next_member()
    name = first.path.decode(errors="replace") if first is not None else ""
    return name in _LAYOUT_NAMES or name.partition("/")[0] == "blobs"


def _offer_archive(gleaner: Gleaner, path: str, progress: Progress) -> None:
    """Spread a tar of an OCI layout out below ``tmp/``, since its index may come last."""
    if gleaner.session is None:
        raise InputError(
            "an archive is spread out in the store's tmp/ to be read, which a dry run does not do",
            hint="unpack it with tar, and name the directory",
        )
    scratch = gleaner.temporary("layout")
    os.makedirs(f"{scratch}/{_BLOBS}", mode=0o700)
    try:
        with open(path, "rb") as stream:
            _spread(TarReader(decompressed(stream.read, Limits())), scratch)
        _offer_layout(gleaner, scratch, progress)
    finally:
        _remove(scratch)


def _spread(reader: TarReader, scratch: str) -> None:
    while (member := reader.next_member()) is not None:
        name = member.path.decode(errors="replace")
        if member.kind is not Kind.FILE or not _is_layout_name(name):
            continue
        _write_member(reader, member, f"{scratch}/{name}")


def _is_layout_name(name: str) -> bool:
    """Return whether a member's name is one that a layout has: nothing else becomes a path."""
    if name in (LAYOUT_FILE, INDEX_FILE):
        return True
    folder, _, digest = name.rpartition("/")
    return folder == _BLOBS and len(digest) == 64 and set(digest) <= set("0123456789abcdef")


def _write_member(reader: TarReader, member: Member, path: str) -> None:
    with open(path, "wb") as out:
        left = member.stored
        while left:
            piece = reader.read(min(left, _COPY_BYTES))
            out.write(piece)
            left -= len(piece)


def _remove(scratch: str) -> None:
    from layerstore.linux.removal import remove_tree

    with contextlib.suppress(OSError):
        remove_tree(scratch)


def _offer_layout(gleaner: Gleaner, path: str, progress: Progress) -> None:
    _offer_originals(gleaner, path)
    for manifest, raw in _manifests(path):
        gleaner.offer_blob(raw, sha256_digest(raw))
        try:
            config = _blob(path, manifest.config.digest)
            gleaner.offer_blob(config, manifest.config.digest)
            decoded = decode_config(config)
            oci.check_pair(manifest, decoded)
        except LayerstoreError:
            continue  # which layer is which, only a sound pair tells
        for layer, diff_id in zip(manifest.layers, decoded.diff_ids, strict=True):
            # Layers that nothing harmed have nothing to give, except to others' chunks.
            if diff_id in gleaner.missing.harmed:
                _offer_layer(gleaner, f"{path}/{_BLOBS}/{hex_of(layer.digest)}", progress)


def _offer_originals(gleaner: Gleaner, path: str) -> None:
    """Offer the documents that images came under, and compressed layers that were kept."""
    for digest in gleaner.missing.blobs:
        with contextlib.suppress(LayerstoreError):
            gleaner.offer_blob(_blob(path, digest), digest)
    harmed = gleaner.missing.harmed | gleaner.missing.layers
    for digest, encoding in known_encodings(gleaner.store).items():
        file = f"{path}/{_BLOBS}/{hex_of(digest)}"
        if encoding.kept not in harmed or not os.path.isfile(file):
            continue
        descriptor = oci.Descriptor(media_type="", digest=digest, size=encoding.size)
        with contextlib.suppress(IntegrityError):  # it is damaged there, too
            keep_original(
                cast("WriteSession", gleaner), descriptor, encoding.diff_id, partial(FileIO, file)
            )


def _offer_layer(gleaner: Gleaner, path: str, progress: Progress) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        ingest_tar(cast("WriteSession", gleaner), stream, progress=progress)


def _manifests(path: str) -> Iterator[tuple[oci.Manifest, bytes]]:
    """Yield every image manifest that a layout's index leads to, with its bytes."""
    try:
        raw = read_file(f"{path}/{INDEX_FILE}", max_bytes=BLOB_MAX_BYTES)
    except OSError as err:
        raise FormatError(f"{path} has no readable {INDEX_FILE}: {err}") from err
    todo = [(raw, oci.INDEX_TYPE, 0)]  # index.json need not say what it is
    while todo:
        raw, media_type, depth = todo.pop()
        for descriptor in oci.decode_index(raw, media_type=media_type).manifests:
            with contextlib.suppress(LayerstoreError):
                found = _blob(path, descriptor.digest)
                if descriptor.media_type in (oci.INDEX_TYPE, oci.DOCKER_INDEX_TYPE):
                    if depth < oci.INDEX_DEPTH:
                        todo.append((found, descriptor.media_type, depth + 1))
                    continue
                yield oci.decode_manifest(found, media_type=descriptor.media_type), found


def _blob(path: str, digest: Digest) -> bytes:
    """Return a small blob of a layout, verified.

    Raises:
        NotFoundError: It is not there.
        FormatError: It is damaged.
    """
    try:
        raw = read_file(f"{path}/{_BLOBS}/{hex_of(digest)}", max_bytes=BLOB_MAX_BYTES)
    except OSError as err:
        raise NotFoundError(f"{path} has no readable blob {digest}") from err
    if sha256_digest(raw) != digest:
        raise FormatError(f"blob {digest} in {path} does not match its digest")
    return raw


_OFFERS = {
    "store": _offer_store,
    "directory": _offer_directory,
    "tar": _offer_tar,
    "OCI layout": _offer_layout,
}


def glean_from_itself(gleaner: Gleaner) -> Gleaned:
    """Take what the store can still give: its other packs, its catalog, its images' configs."""
    gleaner.offer_own_packs()
    gleaner.offer_own_catalog()
    for image in gleaner.store.images():
        if image.manifest_digest in gleaner.missing.blobs:
            with contextlib.suppress(LayerstoreError):
                gleaner.offer_blob(_manifest_again(gleaner.store, image), image.manifest_digest)
    return gleaner.settle()


def _manifest_again(store: Store, image: ImageRecord) -> bytes:
    """Return the manifest that this store would give an image.

    Raises:
        FormatError: The image came with another one.
    """
    raw = own_manifest(store, store.get_blob(image.image_id), image.layers)
    if sha256_digest(raw) != image.manifest_digest:
        raise FormatError("the image's manifest was made elsewhere")
    return raw
