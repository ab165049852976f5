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

from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.formats import oci
from layerstore.image.exchange.exchange import READ_BYTES, VerifiedBlob, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.digest import Digest
    from layerstore.image.exchange.exchange import Document, ImageDestination, ImageSource
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


MAX_REFERRERS = 10_000
"""Referrers, and referrers of those, that one copy takes along."""


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
        self._sent: dict[Digest, None] = {}

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
            found = chosen_documents(self._source, found[0], serves)
        document = found[0]
        permit([each.digest for each in found])
        with ThreadPoolExecutor(self._parallel, "layerstore-copy") as workers:
            self._send(document, target, workers, 0)
        return Copied(document.digest, self._blobs, self._bytes)

    def copy_referrers(
        self,
        referring: Callable[[Digest], Sequence[oci.Descriptor]],
        tags_of: Callable[[Digest], Sequence[str]],
    ) -> Sequence[Digest]:
        """Copy whatever refers to the documents copied so far, and whatever refers to that.

        Args:
            referring: Tells what has a manifest as its subject.
            tags_of: Tells the tags under which clients keep what belongs to a manifest and does
                not say so; most are not there.

        Returns:
            The digests of the referrers.

        Raises:
            LimitExceededError: There are more than anybody has use for.
            FormatError: One of them is malformed.
            IntegrityError: One of them is not what its descriptor says.
        """
        asked: set[Digest] = set()
        taken: list[Digest] = []
        with ThreadPoolExecutor(self._parallel, "layerstore-copy") as workers:
            while waiting := [each for each in self._sent if each not in asked]:
                for subject in waiting:
                    asked.add(subject)
                    for descriptor in referring(subject):
                        if descriptor.digest in self._sent:
                            continue
                        if len(taken) == MAX_REFERRERS:
                            raise LimitExceededError(
                                f"{self._source.name} has more than {MAX_REFERRERS} referrers "
                                "of this image"
                            )
                        # Named by nothing: who looks for it asks for its subject.
                        self._send(read_document(self._source, descriptor), "", workers, 0)
                        taken.append(descriptor.digest)
                    taken += self._send_tagged(tags_of(subject), workers)
        return taken

    def _send_tagged(self, tags: Sequence[str], workers: ThreadPoolExecutor) -> list[Digest]:
        """Send what there is under these tags, under the same."""
        sent = []
        for tag in tags:
            try:
                document = self._source.document(tag)
            except NotFoundError:
                continue
            self._send(document, tag, workers, 0)
            sent.append(document.digest)
        return sent

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
        self._sent[document.digest] = None

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


def chosen_documents(
    source: ImageSource, document: Document, serves: Callable[[oci.Platform], bool]
) -> list[Document]:
    """Return the manifest for a platform, and the indexes that led to it, the lowest first.

    Raises:
        NotFoundError: No image is for this platform.
        FormatError: A document is malformed, or indexes are nested deeper than three.
    """
    path = [document]
    for _ in range(oci.INDEX_DEPTH + 1):
        document = path[0]
        if document.media_type not in oci.INDEX_TYPES:
            return path
        index = oci.decode_index(document.raw, media_type=document.media_type)
        fits = [each for each in index.manifests if each.platform is None or serves(each.platform)]
        if not fits:
            raise NotFoundError(
                f"{source.name} has no image for this platform",
                hint="--platform names another one, --all copies them all",
            )
        path.insert(0, read_document(source, fits[0]))
    raise FormatError(f"{source.name}: indexes are nested more than {oci.INDEX_DEPTH} deep")
