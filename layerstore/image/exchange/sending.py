"""Images out of a store to a destination: as they came, or made anew.

An image leaves under the manifest that it came under if that is remembered and every layer's
exact bytes are to be had, and under the whole index if that is true of all that it lists.
Otherwise its manifest is made anew: the image's id and its diff IDs are the same, the
manifest's digest is another.

Source: OCI image spec, manifest.md; BuildKit, docs/attestations/attestation-storage.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

from layerstore.digest import hex_of
from layerstore.errors import IntegrityError, LayerstoreError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.image.exchange.blob_files import compressed
from layerstore.image.exchange.exchange import Document
from layerstore.image.exchange.originals import original_pieces
from layerstore.image.images import ImageParts, load_parts, platform_of
from layerstore.image.trees.export_layer import verified_tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import DiffId, Digest
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.exchange.exchange import ImageDestination
    from layerstore.image.exchange.indexes import StoredIndex
    from layerstore.progress import Progress
    from layerstore.store.store import Store

Form = Literal["original", "gzip", "zstd", "none"]
"""How layers leave: as they came where that is to be had, or compressed anew."""

MEDIA_TYPES: dict[Compression, str] = {
    "gzip": oci.LAYER_GZIP_TYPE,
    "zstd": oci.LAYER_ZSTD_TYPE,
    "none": oci.LAYER_TAR_TYPE,
}
_ZSTD_TYPES = (oci.LAYER_ZSTD_TYPE, oci.DOCKER_LAYER_ZSTD_TYPE)


class Sent(NamedTuple):
    """What an image left under.

    Attributes:
        manifest: Its own.
        descriptor: Of that manifest, or of the index above it.
        is_original: Whether that is what the image came under.
    """

    manifest: oci.Manifest
    descriptor: oci.Descriptor
    is_original: bool


class SentMember(NamedTuple):
    """An image of an index on its way: its manifest, and whether that is one it came under."""

    document: Document
    manifest: oci.Manifest
    is_original: bool


class SentIndex(NamedTuple):
    """What an index left under.

    Attributes:
        sent: As for an image; the manifest is that of the index's first image.
        document: The index as it was sent.
        made: Its images by the digests by which the index in the store lists them; empty if
            all of it left as it came.
    """

    sent: Sent
    document: Document
    made: Mapping[Digest, SentMember]


class Policy(NamedTuple):
    """How images leave.

    Attributes:
        form: Of layers.
        anew: Compression of layers that do not leave in their original form.
        takes_zstd: Whether who reads it knows zstd; originals that are so are made anew if not.
        takes_indexes: Whether it knows indexes.
        prefer: Digests of manifests and indexes under which images leave if they came under
            several; else the first index that is whole, then the first manifest.
    """

    form: Form = "original"
    anew: Compression = "gzip"
    takes_zstd: bool = True
    takes_indexes: bool = True
    prefer: frozenset[Digest] = frozenset()


class Sender:
    """Sends images to one destination, each layer once."""

    def __init__(
        self, store: Store, destination: ImageDestination, policy: Policy, progress: Progress
    ) -> None:
        self._store = store
        self._destination = destination
        self._policy = policy
        self._progress = progress
        self._made: dict[DiffId, oci.Descriptor] = {}

    def reuse(self, diff_id: DiffId, descriptor: oci.Descriptor) -> None:
        """Take a layer as it lies at the destination, where images are made anew."""
        self._made[diff_id] = descriptor

    def send(
        self, parts: ImageParts, reference: str | None, others: Sequence[ImageParts] = ()
    ) -> Sent:
        """Send an image; its blobs before the manifest, that before the index.

        Args:
            parts: The image.
            reference: As :meth:`ImageDestination.put_document` takes it.
            others: The same for other platforms, with which it makes an index anew.

        Raises:
            IntegrityError: Stored bytes are damaged, or are not what they were.
        """
        if self._policy.form == "original" and not others:
            original = find_original(self._store, parts, self._policy)
            if original is not None:
                return self._send_original(original, reference)
        return self._send_anew((parts, *others), reference)

    def send_index(
        self, index: StoredIndex, parts_of: Mapping[Digest, ImageParts], reference: str | None
    ) -> SentIndex:
        """Send an index with all of its images: as it came, or with what had to be made anew.

        Args:
            index: What is sent.
            parts_of: Its images, by the digests by which it lists them.
            reference: As :meth:`ImageDestination.put_document` takes it.

        Raises:
            IntegrityError: Stored bytes are damaged, or are not what they were.
        """
        top = index.document
        if self._policy.form == "original":
            whole = find_index_whole(self._store, index, self._policy)
            if whole is not None:
                sent = self._send_original(whole, reference)
                return SentIndex(sent, top, {})
        made = {entry.digest: self._send_member(parts_of[entry.digest]) for entry in index.entries}
        below = []
        for entry in index.entries:
            new = made[entry.digest].document.descriptor
            below.append(
                replace(entry, digest=new.digest, size=new.size, media_type=new.media_type)
            )
        for entry in index.entries:
            parts, each = parts_of[entry.digest], made[entry.digest]
            if parts.predicates:
                below.append(self._put_attestations(parts, each.document))
        again = replace(index.listing, manifests=tuple(below), media_type=oci.INDEX_TYPE)
        top = Document(oci.encode_index(again), oci.INDEX_TYPE)
        self._destination.put_document(top, reference)
        first = next(e.digest for e in index.entries if index.images[e.digest] == index.first)
        return SentIndex(Sent(made[first].manifest, top.descriptor, is_original=False), top, made)

    def _send_member(self, parts: ImageParts) -> SentMember:
        """Send an image of an index and its manifest, as it came if it can be."""
        found = None
        # What is attested of it belongs to a manifest made anew.
        if self._policy.form == "original" and not parts.predicates:
            found = manifest_of(self._store, parts, self._policy)
        if found is not None:
            document, manifest = found
            self._send_original(
                Original(manifest, ((parts, document, manifest),), (), (document,)), None
            )
            return SentMember(document, manifest, is_original=True)
        manifest, document = self._put_image(parts)
        self._destination.put_document(document, None)
        return SentMember(document, manifest, is_original=False)

    # -- as it came

    def _send_original(self, original: Original, reference: str | None) -> Sent:
        for parts, _, manifest in original.images:
            self._put(parts.config, manifest.config.media_type, manifest.config)
            for descriptor, diff_id in zip(manifest.layers, parts.layers, strict=True):
                self._put_original_layer(parts, descriptor, diff_id)
        for blob in original.beside:
            self._put(blob.raw, blob.media_type, blob.descriptor)
        *below, top = original.documents
        for document in below:
            self._destination.put_document(document, None)
        self._destination.put_document(top, reference)
        return Sent(original.manifest, top.descriptor, is_original=True)

    def _put_original_layer(
        self, parts: ImageParts, descriptor: oci.Descriptor, diff_id: DiffId
    ) -> None:
        if self._destination.has_blob(descriptor):
            return
        encoding = parts.origins.encodings.get(descriptor.digest)
        if encoding is None:
            pieces = verified_tar(self._store, diff_id)
        else:
            pieces = original_pieces(self._store, descriptor.digest, encoding)
        self._progress.start(f"layer {hex_of(diff_id)[:12]}", descriptor.size)
        self._destination.put_blob(self._told(pieces), descriptor.media_type, descriptor)
        self._progress.finish()

    # -- made anew

    def _send_anew(self, images: Sequence[ImageParts], reference: str | None) -> Sent:
        made = [self._put_image(parts) for parts in images]
        manifest, document = made[0]
        is_attested = self._policy.takes_indexes and any(parts.predicates for parts in images)
        if len(images) == 1 and not is_attested:
            self._destination.put_document(document, reference)
            return Sent(manifest, document.descriptor, is_original=False)
        documents = [each for _, each in made]
        for each in documents:
            self._destination.put_document(each, None)
        below = [each.descriptor for each in documents]
        below += [
            self._put_attestations(parts, each)
            for parts, each in zip(images, documents, strict=True)
            if parts.predicates
        ]
        index = Document(oci.encode_index(oci.Index(manifests=tuple(below))), oci.INDEX_TYPE)
        self._destination.put_document(index, reference)
        return Sent(manifest, index.descriptor, is_original=False)

    def _put_image(self, parts: ImageParts) -> tuple[oci.Manifest, Document]:
        """Send an image's blobs; return its manifest, which is nowhere yet."""
        config = oci.describe(parts.config, oci.CONFIG_TYPE)
        self._put(parts.config, oci.CONFIG_TYPE, config)
        manifest = oci.Manifest(
            config=config,
            layers=tuple(self._put_layer(diff_id) for diff_id in parts.layers),
            annotations=dict(parts.annotations),
        )
        platform = platform_of(decode_config(parts.config))
        return manifest, Document(oci.encode_manifest(manifest), oci.MANIFEST_TYPE, platform)

    def _put_attestations(self, parts: ImageParts, manifest: Document) -> oci.Descriptor:
        """Send what is attested of an image; return what names it in the index above both."""
        from layerstore.image.exchange.attestations import attestation_blobs

        attested = attestation_blobs(manifest.descriptor, parts.predicates)
        *blobs, document = attested.blobs
        for blob in blobs:
            self._put(blob, "", oci.describe(blob, ""))
        self._destination.put_document(Document(document, oci.MANIFEST_TYPE), None)
        return attested.descriptor

    def _put_layer(self, diff_id: DiffId) -> oci.Descriptor:
        known = self._made.get(diff_id)
        if known is None:
            size = self._store.layer(diff_id).tar_size
            self._progress.start(f"layer {hex_of(diff_id)[:12]}", size)
            pieces = self._told(verified_tar(self._store, diff_id))
            media_type = MEDIA_TYPES[self._policy.anew]
            expected: oci.Descriptor | None = None
            if self._policy.anew == "none":
                expected = oci.Descriptor(media_type=media_type, digest=diff_id, size=size)
            if expected is not None and self._destination.has_blob(expected):
                known = expected
            else:
                packed = compressed(pieces, self._policy.anew)
                known = self._destination.put_blob(packed, media_type, expected)
            self._progress.finish()
            self._made[diff_id] = known
        return known

    # -- both

    def _put(self, raw: bytes, media_type: str, descriptor: oci.Descriptor) -> None:
        if not self._destination.has_blob(descriptor):
            self._destination.put_blob([raw], media_type, descriptor)

    def _told(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            yield piece
            self._progress.advance(len(piece))


# -- what an image came under


class Original(NamedTuple):
    """What an image came under, all of it to be had.

    Attributes:
        manifest: The image's own.
        images: It, and the others of the index: parts, manifest's document, manifest.
        beside: Blobs of what else the index lists.
        documents: Manifests, then what is above them; the last one is the top.
    """

    manifest: oci.Manifest
    images: tuple[tuple[ImageParts, Document, oci.Manifest], ...]
    beside: tuple[Document, ...]
    documents: tuple[Document, ...]


def find_original(store: Store, parts: ImageParts, policy: Policy) -> Original | None:
    """Return what an image came under, the most complete of it; None if nothing is to be had."""
    found = _Origins(store, policy)
    own = [each for each in found.manifests_of(parts) if each[2].config.digest == parts.image_id]
    if not own:
        return None
    own.sort(key=lambda each: each[1].digest not in policy.prefer)
    if policy.takes_indexes and own[0][1].digest not in policy.prefer:
        documents = parts.origins.documents
        indexes = [digest for digest, kind in documents.items() if kind in oci.INDEX_TYPES]
        for digest in sorted(indexes, key=lambda digest: digest not in policy.prefer):
            index = found.index(digest, documents[digest], own[0][2])
            if index is not None:
                return index
    return Original(own[0][2], (own[0],), (), (own[0][1],))


def find_index_whole(store: Store, index: StoredIndex, policy: Policy) -> Original | None:
    """Return an index with all that it lists as that came; None if not all is to be had."""
    found = _Origins(store, policy)
    for _, document, manifest in found.manifests_of(load_parts(store, index.first)):
        if document.digest in index.images:
            return found.index(index.document.digest, index.document.media_type, manifest)
    return None


def manifest_of(
    store: Store, parts: ImageParts, policy: Policy
) -> tuple[Document, oci.Manifest] | None:
    """Return the first manifest that an image came under and can leave under; None if none."""
    for _, document, manifest in _Origins(store, policy).manifests_of(parts):
        return document, manifest
    return None


class _Gathered(NamedTuple):
    """What an index lists, as far as it was followed."""

    images: list[tuple[ImageParts, Document, oci.Manifest]]
    beside: list[Document]
    documents: list[Document]
    seen: set[Digest]


class _Origins:
    """Looks documents up that a store has, and whether all that they name is to be had."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    def manifests_of(self, parts: ImageParts) -> list[tuple[ImageParts, Document, oci.Manifest]]:
        """Return the manifests that an image came under, with every layer to be had."""
        found = []
        platform = platform_of(decode_config(parts.config))
        for digest, media_type in parts.origins.documents.items():
            if media_type not in oci.MANIFEST_TYPES:
                continue
            try:
                raw = self._store.get_blob(digest)
                manifest = oci.decode_manifest(raw, media_type=media_type)
            except LayerstoreError:
                continue  # lost, which check tells, or of an attestation
            is_own = manifest.config.digest == parts.image_id
            if is_own and self._has_layers(manifest, parts):
                found.append((parts, Document(raw, media_type, platform), manifest))
        return found

    def _has_layers(self, manifest: oci.Manifest, parts: ImageParts) -> bool:
        if len(manifest.layers) != len(parts.layers):
            return False  # a bundle may bring what no registry would have passed for the image's
        for descriptor, diff_id in zip(manifest.layers, parts.layers, strict=True):
            if descriptor.media_type in _ZSTD_TYPES and not self._policy.takes_zstd:
                return False
            encoding = parts.origins.encodings.get(descriptor.digest)
            if descriptor.digest == diff_id:
                continue
            if encoding is None or encoding.diff_id != diff_id:
                return False
            if encoding.kept is not None and not self._store.has_layer(encoding.kept):
                return False
        return True

    def index(self, digest: Digest, media_type: str, manifest: oci.Manifest) -> Original | None:
        """Return an index with everything that it lists, or None if some of that is not here."""
        gathered = _Gathered([], [], [], set())
        try:
            self._gather(gathered, digest, media_type, 0)
        except (NotFoundError, IntegrityError):
            return None
        return Original(
            manifest,
            tuple(gathered.images),
            tuple(gathered.beside),
            tuple(gathered.documents),
        )

    def _gather(self, gathered: _Gathered, digest: Digest, media_type: str, depth: int) -> None:
        """Add what an index lists, and itself; each once, since strangers' may list it often."""
        if depth == oci.INDEX_DEPTH:
            raise NotFoundError(f"indexes are nested more than {oci.INDEX_DEPTH} deep")
        raw = self._store.get_blob(digest)
        for child in oci.decode_index(raw, media_type=media_type).manifests:
            if child.digest in gathered.seen:
                continue
            gathered.seen.add(child.digest)
            if child.media_type in oci.INDEX_TYPES:
                self._gather(gathered, child.digest, child.media_type, depth + 1)
                continue
            below = Document(self._store.get_blob(child.digest), child.media_type)
            plain = oci.decode_artifact(below.raw, media_type=child.media_type)
            if all(self._store.has_blob(each.digest) for each in plain.layers):
                gathered.beside.extend(
                    Document(self._store.get_blob(each.digest), each.media_type)
                    for each in (plain.config, *plain.layers)
                )
            else:
                gathered.images.append(self._image(child.digest, plain))
            gathered.documents.append(below)
        gathered.documents.append(Document(raw, media_type))

    def _image(
        self, digest: Digest, manifest: oci.Manifest
    ) -> tuple[ImageParts, Document, oci.Manifest]:
        record = self._store.catalog.image(manifest.config.digest)
        if record is not None:
            for found in self.manifests_of(load_parts(self._store, record)):
                if found[1].digest == digest:
                    return found
        raise NotFoundError(f"the image of manifest {digest} is not here whole")
