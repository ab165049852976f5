"""A repository of a registry as a place that images come from and go to."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from layerstore.formats import oci
from layerstore.formats.reference import DEFAULT_TAG
from layerstore.image.exchange.exchange import Document
from layerstore.registry.errors import RegistryAnswerError
from layerstore.registry.uploads import Uploaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.digest import Digest
    from layerstore.image.exchange.exchange import BlobReader
    from layerstore.registry.repository import Repository

_MOUNTS_TRIED = 2
"""Repositories that are asked for a blob: each that lacks it leaves an upload that nobody ends."""


class RegistrySource:
    """Images of one repository; ``""`` is its ``latest``. For several threads.

    Args:
        repository: Where they are.
    """

    is_remote = True
    has_originals = True

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the repository {self._repository.name}"

    def document(self, reference: str) -> Document:
        """Return a manifest or an index by its tag or its digest.

        Raises:
            NotFoundError: There is none.
            IntegrityError: It is not what its digest says.
            RegistryError: The registry does not give it.
        """
        found = self._repository.manifest(reference or DEFAULT_TAG)
        return Document(found.raw, found.media_type)

    def open_blob(self, descriptor: oci.Descriptor) -> BlobReader:
        """Return a blob's bytes as they come; a connection that breaks is made again.

        Raises:
            NotFoundError: There is no such blob; when it is read.
        """
        return self._repository.open_blob(descriptor.digest, descriptor.size)

    def referrers(self, digest: Digest, artifact_type: str = "") -> Sequence[oci.Descriptor]:
        """Return what has a manifest as its subject: signatures, attestations, other artefacts.

        Raises:
            RegistryError: The registry cannot be asked.
            FormatError: It answers with something else.
        """
        from layerstore.registry.referrers import referrers

        return referrers(self._repository, digest, artifact_type)


class RegistryDestination:
    """A repository that images are pushed to. For several threads.

    Args:
        repository: Where to.
        beside: Paths of other repositories of that registry which may have blobs already.
    """

    def __init__(self, repository: Repository, beside: Sequence[str] = ()) -> None:
        self._repository = repository
        self._beside = [path for path in beside if path != repository.path][:_MOUNTS_TRIED]
        self._lock = threading.Lock()
        self._there: set[Digest] = set()
        self.mounted = 0

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        """Return whether a blob is there, or came out of another repository by asking."""
        digest = descriptor.digest
        if digest in self._there:
            return True
        if self._repository.has_blob(digest, descriptor.size) or self._mounted(digest):
            self._note(digest)
            return True
        return False

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        """Send a blob; when this returns, the registry has it whole.

        Raises:
            IntegrityError: It is not ``expected``; the registry does not keep it.
            RegistryError: The registry does not take it.
        """
        wanted = Uploaded(expected.digest, expected.size) if expected else None
        found = self._repository.put_blob(pieces, wanted)
        self._note(found.digest)
        return oci.Descriptor(media_type=media_type, digest=found.digest, size=found.size)

    def put_document(self, document: Document, reference: str | None) -> None:
        """Write a manifest or an index, under a tag if there is one.

        Raises:
            RegistryError: The registry does not take it.
        """
        self._repository.put_manifest(document.raw, document.media_type, reference or None)

    def _mounted(self, digest: Digest) -> bool:
        for path in self._beside:
            try:
                if self._repository.mount_blob(digest, path):
                    with self._lock:
                        self.mounted += 1
                    return True
            except RegistryAnswerError:  # not even to be read by us: the bytes are sent then
                return False
        return False

    def _note(self, digest: Digest) -> None:
        with self._lock:
            self._there.add(digest)
