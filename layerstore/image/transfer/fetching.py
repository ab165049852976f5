"""Layers out of parcels: what is missing here is fetched, in few requests, and verified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from layerstore.digest import DiffId, Digest
from layerstore.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    UnsafeContentError,
)
from layerstore.formats.origins import Encoding
from layerstore.image.exchange.originals import known_encodings
from layerstore.image.exchange.reencoding import is_recipe
from layerstore.image.transfer.artefacts import find_artefact
from layerstore.image.transfer.receiving import ItemReceiver, publish_received
from layerstore.progress import Silent
from layerstore.store.references import layer_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.formats.parcels import KnownEncoding
    from layerstore.image.exchange.finding import FoundImage
    from layerstore.image.transfer.artefacts import Artefact
    from layerstore.progress import Progress
    from layerstore.registry.repository import Repository
    from layerstore.store.records import LayerRecord
    from layerstore.store.writing.session import WriteSession

WORTH_IT = 0.9
"""Parcels must be smaller than this part of the layers: they cost requests and work."""


def receive_layers(
    session: WriteSession,
    artefact: Artefact,
    wanted: Mapping[DiffId, int],
    *,
    progress: Progress | None = None,
) -> bool:
    """Bring layers into the store by an image's parcels; return whether they came.

    They do not if whole layers cost less. Those that come are published and held.

    Args:
        session: Gets them.
        artefact: Of the image.
        wanted: Layers that the store lacks, with the bytes of each compressed.
        progress: Told plain bytes.

    Raises:
        ContentMissingError: The parcels lack something.
        IntegrityError: Something is not what the parcels say.
        RegistryError: The registry does not give them.
    """
    known = artefact.records()
    if not wanted.keys() <= known.keys():
        return False
    return _Receiving(session, artefact, progress or Silent()).run(
        [known[diff_id] for diff_id in wanted], sum(wanted.values())
    )


def layers_by_parcels(
    session: WriteSession,
    repository: Repository,
    image: FoundImage,
    *,
    note: Callable[[str], object],
    progress: Progress | None = None,
) -> Mapping[Digest, Encoding | None]:
    """Bring what is missing of an image by its parcels, where there are some and it pays.

    Whatever is wrong with them costs time: the layers that did not come are missing as before.

    Args:
        session: Gets the layers.
        repository: Where the image was found.
        image: Found there.
        note: Told why parcels were not used.
        progress: Told plain bytes.

    Returns:
        For the compressed layers that are here how they are made, None where nobody says; to be
        handed to :func:`layerstore.image.exchange.adopting.adopt_image`.

    Raises:
        StorageError: The store could not be written.
    """
    store = session.store
    pairs = list(zip(image.config.diff_ids, image.manifest.layers, strict=True))
    wanted = {diff_id: layer.size for diff_id, layer in pairs if not store.has_layer(diff_id)}
    encoded = {layer.digest for diff_id, layer in pairs if layer.digest != diff_id}
    if not wanted and encoded <= known_encodings(store).keys():
        return {}
    try:
        artefact = find_artefact(repository, image.documents[0].digest)
        if artefact is None:
            return {}
        if wanted and not receive_layers(session, artefact, wanted, progress=progress):
            return {}
        encodings = {Digest(e.digest): _encoding(e) for e in artefact.description.encodings}
    except (IntegrityError, NotFoundError, RegistryError, UnsafeContentError) as err:
        note(f"the image's parcels are not used, whole layers are: {err.message}")
        return {}
    here = {layer.digest: diff_id for diff_id, layer in pairs if store.has_layer(diff_id)}
    return {
        digest: encoding
        for digest, encoding in encodings.items()
        if digest in here and (encoding is None or encoding.diff_id == here[digest])
    }


class _Receiving:
    def __init__(self, session: WriteSession, artefact: Artefact, progress: Progress) -> None:
        self._session = session
        self._store = session.store
        self._artefact = artefact
        self._progress = progress

    def run(self, records: Sequence[LayerRecord], layer_bytes: int) -> bool:
        receiver = ItemReceiver(self._session, records)
        meta: set[bytes] = {chunk for record in records for _, chunk in record.tree + record.recipe}
        fetched = self._take(receiver, self._needed(meta))
        content: set[bytes] = set()
        for record in records:
            content |= layer_chunks(record, self._store.read_refs).keys()
        blocks = self._needed(content)
        if fetched + self._artefact.stored_bytes(blocks) > layer_bytes * WORTH_IT:
            return False
        self._take(receiver, blocks)
        for record in records:
            publish_received(self._session, record, progress=self._progress)
        return True

    def _needed(self, item_ids: set[bytes]) -> dict[int, set[int]]:
        return self._artefact.needed(item_ids, self._store.catalog.missing)

    def _take(self, receiver: ItemReceiver, blocks: dict[int, set[int]]) -> int:
        """Fetch blocks, those of older packs first: they are what others are against."""
        plain = sum(
            self._artefact.table(number)[index].raw_length
            for number, chosen in blocks.items()
            for index in chosen
        )
        self._progress.start("fetching", plain)
        for number in sorted(blocks, reverse=True):
            where = f"pack {self._artefact.packs[number].pack.digest}"
            for block, frame in self._artefact.frames(number, blocks[number]):
                receiver.take(block, frame, where=where)
                self._progress.advance(block.raw_length)
            receiver.settle()
        self._progress.finish()
        return self._artefact.stored_bytes(blocks)


def _encoding(known: KnownEncoding) -> Encoding | None:
    """Return how a layer is made, which nobody believes before its bytes came out right."""
    if not known.recipe:
        return None
    try:
        recipe = json.loads(known.recipe)
    except (ValueError, RecursionError) as err:
        raise FormatError(f"the parcels say nonsense of layer {known.digest}") from err
    if not isinstance(recipe, dict):
        raise FormatError(f"the parcels say nonsense of layer {known.digest}")
    if not is_recipe(recipe):
        return None
    return Encoding(DiffId(Digest(known.diff_id)), known.size, None, recipe)
