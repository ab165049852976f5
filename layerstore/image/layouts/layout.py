"""Saving images as an OCI image layout, a directory; its tars are in layout_archive.

Any OCI tool reads the result; layers come out with the diff IDs they have here.
Blobs are hashed while they are written, forced to disk and renamed to their
digest; ``index.json`` is replaced last, so a save that dies leaves the layout as it
was, plus blobs nobody names. Saving into a layout that exists adds to it. What of an image is
sent, and in which form: :mod:`layerstore.image.exchange.sending`.

Source: OCI image spec, image-layout.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple, Self

from msgspec import structs

from layerstore.digest import sha256_digest
from layerstore.errors import ConflictError, FormatError, IntegrityError, StorageError
from layerstore.formats import oci, strict_json
from layerstore.formats.reference import full_name
from layerstore.image.exchange.blob_files import BlobFile
from layerstore.image.exchange.sending import Policy, Sender
from layerstore.image.images import ImageParts, load_parts
from layerstore.linux.files import fsync_directory, write_all
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from layerstore.digest import Digest
    from layerstore.image.exchange.exchange import Document
    from layerstore.image.exchange.indexes import StoredIndex
    from layerstore.image.exchange.sending import Form, Sent
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_MAX_BYTES = strict_json.MAX_DOCUMENT_BYTES


class NamedImage(NamedTuple):
    """An image and the familiar name it is saved under; None for no name.

    Attributes:
        others: The same for other platforms: then the name is that of an index of all.
        stored_index: That the name means, of which ``image`` is the first.
    """

    name: str | None
    image: ImageRecord | ImageParts
    others: tuple[ImageParts, ...] = ()
    stored_index: StoredIndex | None = None


class SaveReport(NamedTuple):
    """What was saved.

    Attributes:
        index_digest: Of the layout's index.json.
        references: What each image is called in the layout, None for nameless ones.
        descriptors: Of each image's manifest, or of its index when it has one.
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
    compression: Form = "gzip",
    progress: Progress | None = None,
) -> SaveReport:
    """Write images into the OCI layout directory ``out``, durably; it is made when absent.

    Raises:
        OutputTakenError: ``out`` holds something else.
        IntegrityError: Stored bytes are damaged; the layout is as it was before.
        StorageError: ``out`` cannot be written.
    """
    policy = Policy() if compression == "original" else Policy(compression, compression)
    return save_layout(store, images, out, policy, progress=progress)


def save_layout(
    store: Store,
    images: Sequence[NamedImage],
    out: Path,
    policy: Policy,
    *,
    progress: Progress | None = None,
) -> SaveReport:
    """Write images into a layout under a policy; see :func:`save_oci_layout`."""
    with writing(out), LayoutDestination(os.fspath(out)) as layout:
        return send_images(store, images, layout, policy, progress)


def send_images(
    store: Store,
    images: Sequence[NamedImage],
    layout: LayoutDestination,
    policy: Policy,
    progress: Progress | None = None,
) -> SaveReport:
    """Send images to a layout and finish it; see :func:`save_oci_layout`."""
    sender = Sender(store, layout, policy, progress or Silent())
    references: list[str | None] = []
    sent: list[Sent] = []
    for named in images:
        sent.append(send_named(store, sender, named))
        references.append(layout.reference)
    return SaveReport(
        layout.finish(),
        tuple(references),
        tuple(each.descriptor for each in sent),
        tuple(each.manifest for each in sent),
    )


def send_named(store: Store, sender: Sender, named: NamedImage) -> Sent:
    """Send an image, or the index that its name means; see :meth:`Sender.send`."""
    reference = named.name or ""
    index = named.stored_index
    if index is not None:
        parts_of = {digest: load_parts(store, image) for digest, image in index.images.items()}
        return sender.send_index(index, parts_of, reference).sent
    image = named.image
    parts = image if isinstance(image, ImageParts) else load_parts(store, image)
    return sender.send(parts, reference, named.others)


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


class LayoutDestination:
    """An OCI layout that is added to, a destination of :mod:`~layerstore.image.exchange.exchange`.

    Nothing of it counts before :meth:`finish`. What was there already is not relied on. As a
    context manager it takes away what it has written when the block fails.

    Attributes:
        reference: What the latest image is called in the layout.

    Raises:
        OutputTakenError: Something else is there.
        FormatError: A layout that is damaged, or of another version.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._blobs = f"{root}/blobs/sha256"
        self._is_new = not os.path.lexists(root)
        self._index = open_layout(root)
        self._written: set[str] = set()
        self._added: dict[str, int] = {}
        self.reference: str | None = None

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        """Return whether the blob was written by this very save."""
        return descriptor.digest in self._written

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        """Write a blob, durable with :meth:`finish`.

        Raises:
            IntegrityError: It is not ``expected``.
        """
        with BlobFile(self._blobs) as blob:
            for piece in pieces:
                blob.write(piece)
            if expected is not None and blob.digest != expected.digest:
                raise IntegrityError(f"blob {expected.digest} came out as {blob.digest}")
            path = f"{self._blobs}/{blob.digest.partition(':')[2]}"
            is_new = path in self._added or not os.path.lexists(path)
            digest = blob.publish()
        self._written.add(digest)
        if is_new:
            self._added[path] = os.lstat(path).st_ino
        return oci.Descriptor(media_type=media_type, digest=digest, size=blob.size)

    def put_document(self, document: Document, reference: str | None) -> None:
        """Write a manifest or an index, and list it unless another document does."""
        descriptor = document.descriptor
        self.put_blob([document.raw], document.media_type, descriptor)
        if reference is not None:
            self._index, self.reference = with_entry(self._index, descriptor, reference or None)

    def finish(self) -> Digest:
        """Make everything durable and listed; return the digest of index.json."""
        fsync_directory(self._blobs)
        self._added, self._is_new = {}, False  # an index that may be there names them
        return sha256_digest(replace_index(self._root, self._index))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            self._abandon()

    def _abandon(self) -> None:
        """Remove what was not there before, but for blobs that somebody else saved meanwhile."""
        with contextlib.suppress(OSError):
            for path, inode in self._added.items():
                if os.lstat(path).st_ino == inode:
                    os.unlink(path)
            if self._is_new:
                for directory in (self._blobs, os.path.dirname(self._blobs), self._root):
                    os.rmdir(directory)


def replace_index(root: str, index: oci.Index) -> bytes:
    """Make ``index`` that of the layout, durably; its blobs are on disk. Return its bytes."""
    raw = oci.encode_index(index)
    _replace(f"{root}/{LAYOUT_FILE}", LAYOUT)
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


def with_entry(
    index: oci.Index, descriptor: oci.Descriptor, name: str | None
) -> tuple[oci.Index, str | None]:
    """Return the index with one more image, and what the image is called in it.

    A name that is taken goes to the new one; of several repositories' images with one tag the
    first has the tag as its reference, the others their whole names. A name without a tag is
    a reference of this layout alone.
    """
    if name is None:
        kept = [
            entry
            for entry in index.manifests
            if entry.digest != descriptor.digest or entry.annotations.get(oci.REF_NAME)
        ]
        return structs.replace(index, manifests=(*kept, descriptor)), None
    if ":" not in name:
        kept = [entry for entry in index.manifests if entry.annotations.get(oci.REF_NAME) != name]
        named = structs.replace(descriptor, annotations={oci.REF_NAME: name})
        return structs.replace(index, manifests=(*kept, named)), name
    whole = full_name(name)
    kept = [
        entry for entry in index.manifests if entry.annotations.get(oci.CONTAINERD_NAME) != whole
    ]
    taken = {entry.annotations.get(oci.REF_NAME) for entry in kept}
    reference = name.rpartition(":")[2]
    if reference in taken:
        reference = name  # another repository's image has that tag here
        kept = [entry for entry in kept if entry.annotations.get(oci.REF_NAME) != reference]
    named = structs.replace(
        descriptor, annotations={oci.REF_NAME: reference, oci.CONTAINERD_NAME: whole}
    )
    return structs.replace(index, manifests=(*kept, named)), reference


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
