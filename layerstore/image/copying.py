"""Images from one place to another, past every store: documents byte for byte, blobs as they are.

A blob is verified while it passes through, and is not asked for where it is already. What a
document names is there before the document is. Any manifest can be copied, of an image or not;
what it may hold is not looked into.

Source: OCI distribution spec, "Pushing manifests"; skopeo-copy(1) for what people expect.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError
from layerstore.formats import oci
from layerstore.image.exchange import READ_BYTES, VerifiedBlob, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import Digest
    from layerstore.image.exchange import Document, ImageDestination, ImageSource
    from layerstore.progress import Progress

PARALLEL = 3
"""Blobs on their way at once, as docker and podman do it."""


class Copied(NamedTuple):
    """What was copied.

    Attributes:
        digest: Of the manifest or index that the target's name means now.
        blobs: Blobs that were sent.
        sent_bytes: Of those.
    """

    digest: Digest
    blobs: int
    sent_bytes: int


class Copier:
    """Copies images from one place to another.

    Args:
        source: Where from.
        destination: Where to.
        progress: Hears the bytes of blobs.
        parallel: Blobs that the destination takes at once.
    """

    def __init__(
        self,
        source: ImageSource,
        destination: ImageDestination,
        progress: Progress,
        parallel: int = PARALLEL,
    ) -> None:
        self._parallel = parallel
        self._source = source
        self._destination = destination
        self._progress = progress
        self._blobs = 0
        self._bytes = 0

    def copy(
        self,
        reference: str,
        target: str,
        serves: Callable[[oci.Platform], bool] | None = None,
        permit: Callable[[Sequence[Digest]], None] = lambda _: None,
    ) -> Copied:
        """Copy what a reference means.

        Args:
            reference: A tag or a digest of the source.
            target: What the destination is to call it.
            serves: Of an index, the one image for this platform; None for the index and all
                that it lists.
            permit: Told the digest of what is meant, and of the indexes that led to it, before
                anything else is read; raises if it may not be copied.

        Raises:
            NotFoundError: There is no such image.
            FormatError: A document is malformed, or indexes are nested deeper than three.
            IntegrityError: Something is not what its descriptor says.
        """
        found = [self._source.document(reference)]
        if serves is not None:
            found = self._chosen(found[0], serves)
        document = found[0]
        permit([each.digest for each in found])
        with ThreadPoolExecutor(self._parallel, "layerstore-copy") as workers:
            self._send(document, target, workers, 0)
        return Copied(document.digest, self._blobs, self._bytes)

    def _chosen(self, document: Document, serves: Callable[[oci.Platform], bool]) -> list[Document]:
        """Return the manifest for a platform, and the indexes that led to it, the lowest first."""
        from layerstore.errors import NotFoundError

        path = [document]
        for _ in range(oci.INDEX_DEPTH + 1):
            document = path[0]
            if document.media_type not in oci.INDEX_TYPES:
                return path
            index = oci.decode_index(document.raw, media_type=document.media_type)
            fits = [
                each for each in index.manifests if each.platform is None or serves(each.platform)
            ]
            if not fits:
                raise NotFoundError(
                    f"{self._source.name} has no image for this platform",
                    hint="--platform names another one, --all copies them all",
                )
            path.insert(0, read_document(self._source, fits[0]))
        raise FormatError(
            f"{self._source.name}: indexes are nested more than {oci.INDEX_DEPTH} deep"
        )

    def _send(
        self, document: Document, target: str | None, workers: ThreadPoolExecutor, depth: int
    ) -> None:
        """Send a document after everything that it names."""
        if document.media_type in oci.INDEX_TYPES:
            if depth == oci.INDEX_DEPTH:
                raise FormatError(f"indexes are nested more than {oci.INDEX_DEPTH} deep")
            index = oci.decode_index(document.raw, media_type=document.media_type)
            for descriptor in index.manifests:
                below = read_document(self._source, descriptor)
                self._send(below, None, workers, depth + 1)
        else:
            manifest = oci.decode_artifact(document.raw, media_type=document.media_type)
            descriptors = {each.digest: each for each in (*manifest.layers, manifest.config)}
            self._send_blobs(list(descriptors.values()), workers)
        self._destination.put_document(document, target)

    def _send_blobs(self, descriptors: list[oci.Descriptor], workers: ThreadPoolExecutor) -> None:
        self._progress.start("layers", sum(each.size for each in descriptors))
        futures = [workers.submit(self._send_blob, each) for each in descriptors]
        try:
            for future in futures:
                sent = future.result()
                self._blobs += bool(sent)
                self._bytes += sent
        finally:
            for future in futures:
                future.cancel()
            self._progress.finish()

    def _send_blob(self, descriptor: oci.Descriptor) -> int:
        """Send a blob unless it is there; return how many bytes were sent."""
        if self._destination.has_blob(descriptor):
            self._progress.advance(descriptor.size)
            return 0
        with contextlib.closing(self._source.open_blob(descriptor)) as reader:
            pieces = self._pieces(VerifiedBlob(reader, descriptor))
            self._destination.put_blob(pieces, descriptor.media_type, descriptor)
        return descriptor.size

    def _pieces(self, blob: VerifiedBlob) -> Iterator[bytes]:
        for piece in iter(partial(blob.read, READ_BYTES), b""):
            yield piece
            self._progress.advance(len(piece))
        blob.finish()
