"""Images out of a source into the store (which one: :mod:`layerstore.image.exchange.finding`).

Everything is verified while it streams: size and digest against the descriptor, the diff ID
against the config. Layers that the store has are not read, unless their compressed form is
wanted and nobody knows it yet. An image becomes visible in one commit, with its names and what
is remembered of how it came; an adoption that dies before leaves garbage for gc. What came from
far away until then is kept for who tries again (:mod:`layerstore.image.exchange.received`).

From a source that is far away three blobs come at a time, into scratch files, while the first
of them is taken in. How layers were compressed is found out beside that.
"""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self, cast

from layerstore.errors import (
    FormatError,
    IntegrityError,
    LayerstoreError,
    LimitExceededError,
    NotFoundError,
    StorageError,
    UnsafeContentError,
)
from layerstore.formats import oci
from layerstore.formats.decompress import decompressed
from layerstore.formats.origins import Encoding, Origins, is_of_origins
from layerstore.formats.tar_limits import Limits
from layerstore.image.exchange.exchange import VerifiedBlob
from layerstore.image.exchange.originals import Originals, keep_original, known_encodings
from layerstore.image.exchange.received import ReceivedLayers, forget_layers
from layerstore.image.exchange.reencoding import find_recipe
from layerstore.image.exchange.spooled_blob import SpooledBlob
from layerstore.image.exchange.typed_layer import TypedLayer
from layerstore.image.images import ATTESTATION_KEY, ImageParts, publish_parts
from layerstore.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from layerstore.digest import DiffId, Digest
    from layerstore.image.exchange.exchange import BlobReader, Document, ImageSource
    from layerstore.image.exchange.finding import FoundImage
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class Adopted(NamedTuple):
    """An image that was brought into the store.

    Attributes:
        documents: What it came under: digests of its manifest and of the indexes above it.
        kept_bytes: Of compressed originals that nothing makes again, and were not there.
        layers: Digests of its layers as the source has them.
        encodings: How they are made, as far as that is known.
    """

    image: ImageRecord
    documents: tuple[Digest, ...]
    kept_bytes: int
    layers: tuple[Digest, ...]
    encodings: tuple[Encoding, ...]


def adopt_image(
    session: WriteSession,
    source: ImageSource,
    image: FoundImage,
    *,
    names: Sequence[str] = (),
    originals: Originals = Originals.AUTO,
    beside: Sequence[Document] = (),
    is_part: bool = False,
    received: Mapping[Digest, Encoding | None] | None = None,
    progress: Progress | None = None,
) -> Adopted:
    """Bring an image into the store; durable and visible under ``names`` when this returns.

    Args:
        session: Of the store.
        source: Where the image was found.
        image: What :func:`layerstore.image.exchange.finding.find_image` returned.
        names: Familiar ones, with a tag or the digest of one of the documents.
        originals: What is remembered of how it came, if the source's manifests are somebody's.
        beside: Documents of its index that are no images, to be kept with it.
        is_part: More images come before any of them is named: what came of this one from far
            away stays remembered, for :func:`forget_rest` to forget.
        received: Compressed layers whose content came in another way, and how they are made;
            None where that is not known.
        progress: Hears the uncompressed bytes of each layer.

    Raises:
        IntegrityError: Something is not what its descriptor or the config says.
        FormatError: A layer is no tar, or one that means several things.
        UnsafeContentError: A layer would harm a host.
        StorageError: The store could not be written.
    """
    remembers = source.has_originals and originals is not Originals.DROP
    layers = adopt_layers(
        session, source, image, originals=originals if remembers else Originals.DROP,
        is_part=is_part, received=received, progress=progress,
    )  # fmt: skip
    documents = (*image.documents, *beside) if remembers else ()
    parts = ImageParts(
        image.raw_config,
        image.config.diff_ids,
        _strangers_annotations(image.manifest),
        origins=Origins({each.digest: each.media_type for each in documents}, layers.encodings),
    )
    raw = [each.raw for each in documents]
    record = publish_parts(session, parts, names=names, documents=raw)
    adopted = Adopted(
        record,
        tuple(each.digest for each in image.documents),
        layers.kept_bytes,
        tuple(layer.digest for layer in image.manifest.layers),
        tuple(layers.encodings.values()),
    )
    if source.is_remote and not is_part:
        forget_rest(session.store, [adopted])
    return adopted


def forget_rest(store: Store, images: Iterable[Adopted]) -> None:
    """Forget what is remembered of layers beside the images that have them, which are named."""
    for image in images:
        forget_layers(store, image.layers, image.encodings)


def _strangers_annotations(manifest: oci.Manifest) -> dict[str, str]:
    """Return a manifest's annotations without those by which a store remembers things."""
    return {
        key: value
        for key, value in manifest.annotations.items()
        if not key.startswith(ATTESTATION_KEY) and not is_of_origins(key)
    }


class AdoptedLayers(NamedTuple):
    """What is known of an image's compressed layers once its layers are in the store."""

    encodings: Mapping[Digest, Encoding]
    kept_bytes: int


def adopt_layers(
    session: WriteSession,
    source: ImageSource,
    image: FoundImage,
    *,
    originals: Originals = Originals.DROP,
    is_part: bool = False,
    received: Mapping[Digest, Encoding | None] | None = None,
    progress: Progress | None = None,
) -> AdoptedLayers:
    """Bring an image's layers into the store, and hold them until the session ends.

    ``is_part`` as for :func:`adopt_image`.

    Raises:
        IntegrityError: A layer is not the one that the config names.
        FormatError: A layer is no tar, or one that means several things.
    """
    with _Adoption(session, source, originals, received or {}, progress or Silent()) as adoption:
        pairs = zip(image.config.diff_ids, image.manifest.layers, strict=True)
        return adoption.run([_Layer(*pair) for pair in pairs], is_part=is_part)


class _Layer(NamedTuple):
    """A layer of an image, and where the source has it."""

    diff_id: DiffId
    descriptor: oci.Descriptor

    @property
    def is_plain(self) -> bool:
        """Whether it is not compressed, so that its bytes are the layer's."""
        return self.descriptor.digest == self.diff_id


class _Adoption:
    """The layers of one image on their way into a store."""

    def __init__(
        self,
        session: WriteSession,
        source: ImageSource,
        originals: Originals,
        received: Mapping[Digest, Encoding | None],
        progress: Progress,
    ) -> None:
        self._session = session
        self._store = session.store
        self._source = source
        self._originals = originals
        self._received = received
        self._progress = progress
        self._fetching = ThreadPoolExecutor(_FETCHES, "layerstore-fetch")
        self._trying = ThreadPoolExecutor(1, "layerstore-recipe")
        self._spools: dict[Digest, SpooledBlob] = {}
        self._encodings: dict[Digest, Encoding] = {}
        self._ingested: set[DiffId] = set()
        self._trials: dict[Digest, tuple[_Layer, Future[Mapping[str, object] | None]]] = {}
        self._taken: set[Digest] = set()
        self._came = ReceivedLayers(session)
        self._kept_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for spool in self._spools.values():
            spool.stop()
        self._fetching.shutdown(wait=True, cancel_futures=True)
        self._trying.shutdown(wait=True, cancel_futures=True)
        for spool in self._spools.values():
            spool.close()

    def run(self, layers: Sequence[_Layer], *, is_part: bool) -> AdoptedLayers:
        """Take the layers in, lowest first."""
        self._recall(layers)
        needed = [each for each in layers if not self._have(each) or self._wants(each)]
        self._fetch(needed)
        try:
            for layer in layers:
                self._came.flush()  # of those before: the last one's image is about to name it
                self._take(layer)
                self._settle_tried()
            self._settle_tried(waits=True)
            if is_part:
                self._came.flush()
        except BaseException as err:
            self._keep_what_came(layers, err)
            raise
        for layer in layers:
            self._require_truth(layer)
        return AdoptedLayers(self._encodings, self._kept_bytes)

    def _take(self, layer: _Layer) -> None:
        """Store a layer that is not there, and begin to find out how its compressed form is made.

        What is not to be found out, or is known, is all there is to remember of it.
        """
        digest = layer.descriptor.digest
        self._taken.add(digest)
        is_new = not self._have(layer)
        if is_new:
            self._ingest(layer)
        if not self._wants(layer):
            if is_new:
                self._note(layer)
        elif digest not in self._trials:
            self._trials[digest] = layer, self._trying.submit(self._recipe, layer)

    def _settle_tried(self, *, waits: bool = False) -> None:
        """Remember how layers are made for which that was found out, or wait for all."""
        for digest, (layer, found) in list(self._trials.items()):
            if waits or found.done():
                del self._trials[digest]
                self._kept_bytes += self._settle(layer, found.result())
                self._note(layer)

    def _note(self, layer: _Layer) -> None:
        """Take note that a layer came from far away: local archives are simply read again."""
        if self._source.is_remote:
            digest = layer.descriptor.digest
            self._came.add(digest, layer.diff_id, self._encodings.get(digest))

    def _keep_what_came(self, layers: Iterable[_Layer], err: BaseException) -> None:
        """Keep what came whole for the next try, before the error is told.

        Whoever interrupts does not wait for more than what is done. A disk that is full or broken
        gets nothing more, and an image that is refused will be so again. What fails here is no
        news beside the error.
        """
        if not self._source.is_remote or isinstance(err, _FINAL):
            return
        with contextlib.suppress(LayerstoreError):
            if isinstance(err, LayerstoreError):
                self._finish_whole(layers)
            for digest, (_, found) in list(self._trials.items()):
                if found.done() and found.exception() is not None:
                    del self._trials[digest]  # that one is fetched again
            self._settle_tried()
            self._came.flush()

    def _finish_whole(self, layers: Iterable[_Layer]) -> None:
        """Take in layers that came whole beside the one that failed, and settle what can be."""
        for spool in self._spools.values():
            spool.stop()
        for layer in layers:
            digest = layer.descriptor.digest
            if digest not in self._taken and digest in self._spools:
                with contextlib.suppress(LayerstoreError):
                    if self._spools[digest].is_whole:
                        self._take(layer)
        wait(found for _, found in self._trials.values())

    # -- what is known and there

    def _recall(self, layers: Iterable[_Layer]) -> None:
        """Take over how the store's images say that these compressed layers are made."""
        came = self._came.encodings({each.descriptor.digest for each in layers})
        if self._originals is Originals.DROP:
            return
        told = {digest: each for digest, each in self._received.items() if each is not None}
        known = {**came, **told, **known_encodings(self._store)}
        for layer in layers:
            encoding = known.get(layer.descriptor.digest)
            if encoding is None or encoding.diff_id != layer.diff_id:
                continue
            if self._hold(encoding.kept):
                self._encodings[layer.descriptor.digest] = encoding

    def _hold(self, diff_id: DiffId | None) -> bool:
        """Hold a layer if there is one to hold; return False when gc was faster."""
        if diff_id is None:
            return True
        try:
            self._session.hold_layers([diff_id])
        except NotFoundError:
            return False
        return True

    def _have(self, layer: _Layer) -> bool:
        return self._store.has_layer(layer.diff_id) and self._hold(layer.diff_id)

    def _wants(self, layer: _Layer) -> bool:
        """Return whether the layer's compressed form is to be remembered and nobody knows it."""
        return (
            self._originals is not Originals.DROP
            and not layer.is_plain
            and layer.descriptor.digest not in self._encodings
            and layer.descriptor.digest not in self._received
        )

    def _require_truth(self, layer: _Layer) -> None:
        """Compare a descriptor with what is known of its blob, which may not have been read now.

        A manifest that lies about a layer which is there would be remembered, and the image could
        never leave under it again.
        """
        descriptor = layer.descriptor
        encoding = self._encodings.get(descriptor.digest)
        if self._originals is Originals.DROP or not (layer.is_plain or encoding):
            return  # nothing is remembered
        size = encoding.size if encoding else self._store.layer(layer.diff_id).tar_size
        if size != descriptor.size:
            raise IntegrityError(
                f"the layer {descriptor.digest} has {size} bytes, its manifest says "
                f"{descriptor.size}"
            )
        compression = oci.compression_of_type(descriptor.media_type)
        if layer.is_plain is not (compression == "none"):
            raise FormatError(
                f"the layer {descriptor.digest} is {'not ' if layer.is_plain else ''}compressed, "
                f"its media type says {compression!r}"
            )

    # -- bytes

    def _fetch(self, layers: Iterable[_Layer]) -> None:
        """Let blobs come, a few at a time, from a source that is far away."""
        if not self._source.is_remote:
            return
        for number, layer in enumerate(layers):
            descriptor = layer.descriptor
            if descriptor.digest not in self._spools:
                spool = SpooledBlob(self._session.temporary(f"{number}.blob"))
                self._spools[descriptor.digest] = spool
                opening = partial(self._source.open_blob, descriptor)
                self._fetching.submit(spool.fill, opening, descriptor)

    def _open(self, layer: _Layer) -> BlobReader:
        spool = self._spools.get(layer.descriptor.digest)
        return spool.open() if spool else self._source.open_blob(layer.descriptor)

    def _ingest(self, layer: _Layer) -> None:
        from layerstore.image.layers.ingest_tar import ingest_tar

        with VerifiedBlob(self._open(layer), layer.descriptor) as stream:
            typed = TypedLayer(stream, layer.descriptor)
            record = ingest_tar(self._session, cast("BinaryIO", typed), progress=self._progress)
            stream.finish()
        self._compare(layer, record.diff_id)
        self._ingested.add(layer.diff_id)

    def _recipe(self, layer: _Layer) -> Mapping[str, object] | None:
        """Return how a compressed layer is made; runs beside the taking in of others."""
        if layer.diff_id not in self._ingested:
            self._verify(layer)
        if self._originals is Originals.KEEP:
            return None
        return find_recipe(partial(self._open, layer))

    def _verify(self, layer: _Layer) -> None:
        """Compare the content of a compressed layer that was here already with its diff ID.

        Otherwise an image would leave with a layer that is not its own.
        """
        made = hashlib.sha256()
        with VerifiedBlob(self._open(layer), layer.descriptor) as stream:
            for piece in decompressed(TypedLayer(stream, layer.descriptor).read, Limits()):
                made.update(piece)
            stream.finish()
        self._compare(layer, f"sha256:{made.hexdigest()}")

    def _compare(self, layer: _Layer, found: str) -> None:
        if found != layer.diff_id:
            raise IntegrityError(
                f"the layer {layer.descriptor.digest} has the diff ID {found}, its config says "
                f"{layer.diff_id}"
            )

    def _settle(self, layer: _Layer, recipe: Mapping[str, object] | None) -> int:
        """Remember how a layer is made; return the bytes that are kept for it."""
        diff_id, descriptor = layer
        if recipe is not None:
            self._encodings[descriptor.digest] = Encoding(diff_id, descriptor.size, None, recipe)
            return 0
        self._encodings[descriptor.digest] = keep_original(
            self._session, descriptor, diff_id, partial(self._open, layer)
        )
        return descriptor.size


_FINAL = (StorageError, FormatError, UnsafeContentError, LimitExceededError)
"""Errors after which nothing more of an image is taken in."""
_FETCHES = 3
"""Blobs that come at once, as docker and podman do it."""
