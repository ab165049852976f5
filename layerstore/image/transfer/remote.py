"""An image in a registry, by its parcels, as a remote that lazy views read from.

Content is fetched in blocks, with what those are differences against; blocks that came lately are
kept, since what lies together is read together. For several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from layerstore.digest import ImageId
from layerstore.errors import FormatError, NotFoundError
from layerstore.formats.pack import PREFIX_MAX_BYTES
from layerstore.formats.parcels import ARTIFACT_TYPE
from layerstore.image.exchange.finding import find_image
from layerstore.image.exchange.gated_source import GatedSource
from layerstore.image.exchange.registry_places import RegistrySource
from layerstore.image.transfer.artefacts import Artefact, Placed, find_artefact
from layerstore.image.transfer.remotes import REGISTRY_PREFIX
from layerstore.store.packs.codec import decompress_block
from layerstore.store.reading import DECODE_MAX_BYTES
from layerstore.store.remotes.remote import RemoteImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import ChunkId, DiffId, Digest
    from layerstore.formats import oci
    from layerstore.formats.pack import Block
    from layerstore.registry.repository import Repository
    from layerstore.store.records import LayerRecord

_KEPT_BYTES = 48 * 1024 * 1024
"""Of decoded blocks: a start of a program reads some twenty of them."""


class RegistryRemote:
    """See the module.

    Args:
        repository: Where the image is.
        reference: A tag, or a digest.
        serves: Which platform will do, where there are several.
        on_close: Called when nobody needs the repository any more.
        permit: As of :class:`~layerstore.image.exchange.gated_source.GatedSource`.
    """

    def __init__(
        self,
        repository: Repository,
        reference: str,
        serves: Callable[[oci.Platform], bool],
        on_close: Callable[[], object] = lambda: None,
        permit: Callable[[Sequence[Digest]], None] = lambda _: None,
    ) -> None:
        """Find the image and its parcels.

        Raises:
            NotFoundError: There is none, or it has no parcels.
            RegistryError: The registry cannot be asked.
            IntegrityError: What it gives is something else.
            UnsafeContentError: It may not come in.
        """
        self._repository = repository
        self._on_close = on_close
        source = GatedSource(RegistrySource(repository), permit)
        found = find_image(source, reference, serves)
        digest = found.documents[0].digest
        self.location = f"{REGISTRY_PREFIX}{repository.name}@{digest}"
        artefact = find_artefact(repository, digest)
        if artefact is None:
            raise NotFoundError(
                f"the image {repository.name}@{digest} has no parcels ({ARTIFACT_TYPE}), so it "
                "cannot be read in parts",
                hint="push it with 'layerstore push --delta', or pull it",
            )
        self._artefact: Artefact = artefact
        self._records = artefact.records()
        self._image = RemoteImage(
            ImageId(found.manifest.config.digest), found.raw_config, found.config.diff_ids
        )
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Placed, dict[bytes, bytes]] = OrderedDict()
        self._kept_bytes = 0

    def image(self, reference: str) -> RemoteImage:
        """Return the image, which is the only one; ``reference`` its id if it is a digest.

        Raises:
            NotFoundError: Another one is meant.
        """
        if reference.startswith("sha256:") and reference != self._image.image_id:
            raise NotFoundError(f"{self.location} is not image {reference}")
        return self._image

    def layer(self, diff_id: DiffId) -> LayerRecord:
        """Return what the parcels say of a layer."""
        record = self._records.get(diff_id)
        if record is None:
            raise NotFoundError(f"the parcels of {self.location} do not describe layer {diff_id}")
        return record

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        """Yield chunks, which the caller compares with their ids.

        Raises:
            NotFoundError: The parcels lack something.
            RegistryError: The registry does not give it.
            FormatError: A block does not decode.
        """
        plain: dict[bytes, bytes] = {}

        def missing(items: set[bytes]) -> set[bytes]:
            """Take what is kept; return the rest."""
            for item, placed in self._artefact.find(items).items():
                kept = self._blocks.get(placed)
                if kept is not None and item not in plain:
                    self._blocks.move_to_end(placed)
                    plain.update(kept)
            return items - plain.keys()

        with self._lock:
            needed = self._artefact.needed(set(chunk_ids), missing)
        self._refuse_too_much(needed)
        for number in sorted(needed, reverse=True):
            table = self._artefact.table(number)
            places = {table[index].offset: Placed(number, index) for index in needed[number]}
            for block, frame in self._artefact.frames(number, needed[number]):
                items = _decoded(block, frame, plain)
                plain.update(items)
                self._keep(places[block.offset], items)
        for chunk_id in chunk_ids:
            if chunk_id in plain:
                yield chunk_id, plain[chunk_id]

    def _refuse_too_much(self, needed: Mapping[int, Iterable[int]]) -> None:
        """Refuse to decode more for one question than any store does for one chunk.

        All of it is in memory, and differences against each other may lead to every block.
        """
        size = sum(
            self._artefact.table(number)[index].raw_length
            for number, chosen in needed.items()
            for index in chosen
        )
        if size > DECODE_MAX_BYTES:
            raise FormatError(
                f"the parcels of {self.location} would have {size} bytes decoded at once, the "
                f"limit is {DECODE_MAX_BYTES}"
            )

    def _keep(self, placed: Placed, items: dict[bytes, bytes]) -> None:
        with self._lock:
            if placed in self._blocks:
                return
            self._blocks[placed] = items
            self._kept_bytes += sum(map(len, items.values()))
            while self._kept_bytes > _KEPT_BYTES and len(self._blocks) > 1:
                _, old = self._blocks.popitem(last=False)
                self._kept_bytes -= sum(map(len, old.values()))

    def keep(self, image: RemoteImage) -> None:
        """Do nothing: a registry keeps what is tagged for as long as its owner likes."""

    def close(self) -> None:
        """Let go of the connections."""
        self._on_close()


def _decoded(block: Block, frame: bytes, plain: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the items of a block, not compared with their ids."""
    try:
        bases = [plain[base] for base in block.bases]
    except KeyError as err:
        raise FormatError("the packs of an image's parcels are not in order") from err
    if sum(map(len, bases)) > PREFIX_MAX_BYTES:
        raise FormatError("a block of an image's parcels is a difference against too much")
    raw = decompress_block(frame, block.raw_length, b"".join(bases))
    items: dict[bytes, bytes] = {}
    offset = 0
    for item_id, length in block.items:
        items[item_id] = raw[offset : offset + length]
        offset += length
    return items
