"""Images of a store to a registry.

Layers that the registry has are not sent, and not even made: how a layer was compressed once,
when it was pulled or pushed, is remembered, so its compressed digest is known. Blobs that
another repository of the registry has are mounted.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import sha256_digest
from layerstore.formats import oci
from layerstore.formats.origins import Encoding, Origins
from layerstore.formats.reference import is_digest_name, split_name
from layerstore.image.exchange.blob_files import compressor_of
from layerstore.image.exchange.indexes import keep_index
from layerstore.image.exchange.originals import known_encodings, original_pieces
from layerstore.image.exchange.sending import MEDIA_TYPES, Sender, find_original
from layerstore.image.images import load_parts, publish_parts
from layerstore.store.names.indexes import named_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.digest import DiffId, Digest
    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.exchange.indexes import StoredIndex
    from layerstore.image.exchange.registry_places import RegistryDestination
    from layerstore.image.exchange.sending import Policy, Sent
    from layerstore.image.images import ImageParts
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

PARALLEL = 3
"""Layers on their way at once, as docker and podman do it."""


class _Layer(NamedTuple):
    """A layer whose compressed form is known."""

    diff_id: DiffId
    descriptor: oci.Descriptor
    encoding: Encoding


class Pusher:
    """Pushes images to one repository.

    Args:
        store: Where from.
        destination: Where to.
        policy: How they leave.
        progress: Hears the bytes of layers.
    """

    def __init__(
        self, store: Store, destination: RegistryDestination, policy: Policy, progress: Progress
    ) -> None:
        self._store = store
        self._destination = destination
        self._policy = policy
        self._progress = progress

    def push(self, image: ImageRecord, name: Reference) -> Sent:
        """Send an image; when this returns, the registry has it under its tag.

        The store remembers how its layers were compressed, and, of images that it calls so itself,
        the name that the registry has: repository and digest.

        Raises:
            RegistryError: The registry does not take it.
            IntegrityError: Stored bytes are damaged.
        """
        parts = load_parts(self._store, image)
        sender = Sender(self._store, self._destination, self._policy, self._progress)
        for layer in self._send_known(parts):
            sender.reuse(layer.diff_id, layer.descriptor)
        sent = sender.send(parts, name.tag or "latest")
        names = []
        if name.repository in _tagged_repositories(self._store, image):
            names = [name._replace(digest=sent.descriptor.digest).digest_name]
        if not sent.is_original:
            self._remember(parts, sent, names)
        elif names:
            self._store.name_document(names[0], image.image_id)
        return sent

    def push_index(self, index: StoredIndex, name: Reference) -> Sent:
        """Send an index with all of its images; see :meth:`push`.

        If the store calls it so itself, the name means from now on what the registry has.
        """
        parts_of = {digest: load_parts(self._store, each) for digest, each in index.images.items()}
        sender = Sender(self._store, self._destination, self._policy, self._progress)
        for parts in parts_of.values():
            for layer in self._send_known(parts):
                sender.reuse(layer.diff_id, layer.descriptor)
        done = sender.send_index(index, parts_of, name.tag or "latest")
        names = []
        if name.repository in _tagged_repositories(self._store, index.first):
            names = [name._replace(digest=done.document.digest).digest_name]
        if not done.made:
            if names:
                self._store.name_document(names[0], index.first.image_id)
            return done.sent
        with self._store.begin("push") as session:
            session.hold_images([each.image_id for each in index.images.values()])
            for listed, member in done.made.items():
                if not member.is_original:
                    self._remember_made(session, parts_of[listed], member.manifest)
            # One with attestations would lose them: those are made anew each time.
            is_kept = not any(parts.predicates for parts in parts_of.values())
            if is_kept and names and index.name == name.name and self._is_meant(index):
                images = {
                    member.document.digest: index.images[listed].image_id
                    for listed, member in done.made.items()
                }
                keep_index(self._store, [index.name], done.document, images, index.first.image_id)
                self._store.name_document(names[0], index.first.image_id)
        return done.sent

    def _is_meant(self, index: StoredIndex) -> bool:
        """Tell whether its name still means it: a build may have ended meanwhile."""
        now = named_index(self._store, index.name)
        return now is not None and now.digest == index.document.digest

    def _remember_made(
        self, session: WriteSession, parts: ImageParts, manifest: oci.Manifest
    ) -> None:
        encodings = self._encodings(parts, manifest)
        if encodings is None:
            return
        raw = oci.encode_manifest(manifest)
        is_kept = not parts.predicates
        documents = {sha256_digest(raw): oci.MANIFEST_TYPE} if is_kept else {}
        origins = Origins(documents, encodings)
        publish_parts(session, parts._replace(origins=origins), documents=[raw] if is_kept else [])

    def _send_known(self, parts: ImageParts) -> list[_Layer]:
        """Send what can be sent without finding out how, side by side; return that."""
        layers = self._known(parts)
        if not layers:
            return []
        self._progress.start("layers", sum(each.descriptor.size for each in layers))
        with ThreadPoolExecutor(PARALLEL, "layerstore-push") as workers:
            futures = [workers.submit(self._send, layer) for layer in layers]
            try:
                for future in futures:
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
        self._progress.finish()
        return layers

    def _known(self, parts: ImageParts) -> list[_Layer]:
        policy = self._policy
        if policy.form == "original":
            original = find_original(self._store, parts, policy)
            if original is not None:
                return [
                    _Layer(diff_id, descriptor, encoding)
                    for each, _, manifest in original.images
                    for diff_id, descriptor in zip(each.layers, manifest.layers, strict=True)
                    if (encoding := each.origins.encodings.get(descriptor.digest))
                ]
        recipe = _recipe(policy.anew)
        wanted = set(parts.layers)
        return [
            _Layer(
                encoding.diff_id,
                oci.Descriptor(
                    media_type=MEDIA_TYPES[policy.anew], digest=digest, size=encoding.size
                ),
                encoding,
            )
            for digest, encoding in known_encodings(self._store).items()
            if encoding.diff_id in wanted and encoding.recipe and encoding.recipe == recipe
        ]

    def _send(self, layer: _Layer) -> None:
        descriptor = layer.descriptor
        if not self._destination.has_blob(descriptor):
            pieces = original_pieces(self._store, descriptor.digest, layer.encoding)
            self._destination.put_blob(pieces, descriptor.media_type, descriptor)
        self._progress.advance(descriptor.size)

    def _remember(self, parts: ImageParts, sent: Sent, names: Sequence[str]) -> None:
        """Remember an image's new manifest and how its layers were made for it."""
        encodings = self._encodings(parts, sent.manifest)
        if encodings is None:
            return
        raw = oci.encode_manifest(sent.manifest)
        # An index holds attestations, which are made anew each time; alone they would get lost.
        is_top = sent.descriptor.digest == sha256_digest(raw)
        documents = {sent.descriptor.digest: oci.MANIFEST_TYPE} if is_top else {}
        with self._store.begin("push") as session:
            session.hold_layers(parts.layers)
            publish_parts(
                session,
                parts._replace(origins=Origins(documents, encodings)),
                names=names if is_top else [],
                documents=[raw] if is_top else [],
            )

    def _encodings(
        self, parts: ImageParts, manifest: oci.Manifest
    ) -> Mapping[Digest, Encoding] | None:
        """Return how a manifest's layers were made; None if that is not known."""
        recipe = _recipe(self._policy.anew)
        pairs = list(zip(parts.layers, manifest.layers, strict=True))
        if recipe is None and any(made.digest != diff_id for diff_id, made in pairs):
            return None
        return {
            made.digest: Encoding(diff_id, made.size, None, recipe or {})
            for diff_id, made in pairs
            if made.digest != diff_id
        }


def sibling_paths(store: Store, image: ImageRecord, host: str) -> Sequence[str]:
    """Return repositories of a registry that have an image by its names: blobs can be had there."""
    from layerstore.formats.reference import parse_reference

    references = [parse_reference(name) for name in _names_of(store, image)]
    return list(dict.fromkeys(each.path for each in references if each.host == host))


def _tagged_repositories(store: Store, image: ImageRecord) -> set[str]:
    names = _names_of(store, image)
    return {split_name(name)[0] for name in names if not is_digest_name(name)}


def _names_of(store: Store, image: ImageRecord) -> list[str]:
    return [name for name, image_id in store.tags().items() if image_id == image.image_id]


def _recipe(compression: Compression) -> Mapping[str, object] | None:
    """Return how layers are made again that we compress, in the words of encodings."""
    match compression:
        case "gzip":
            head = compressor_of("gzip").flush()[:10]
            return {"codec": "isal", "level": 3, "header": head.hex()}
        case "zstd":
            return {"codec": "zstd", "level": 3, "checksum": True, "threads": 0}
        case "none":
            return None
