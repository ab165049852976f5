"""Reading a bundle: everything verified as it comes, and images appear when all of it was.

Items go into the store's own packs as they come, pack by pack, and are garbage until
layers need them. Layers are published when the bundle's last record vouched for it, and then
images with their names. A kill at any moment leaves a store without the image, or with it
whole; loading again goes on with what is there. Implements docs/format/bundle.md.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.digest import DiffId, Digest, parse_digest, sha256_digest
from layerstore.errors import FormatError, LayerstoreError, LimitExceededError, NotFoundError
from layerstore.formats.bundle import (
    DESCRIPTION_KIND,
    END_KIND,
    HEADER,
    PACK_KIND,
    RECORD,
    Description,
    HeadSum,
    RecordHead,
    check_header,
    decode_description,
    decode_record,
    read_exactly,
)
from layerstore.formats.oci import INDEX_TYPES
from layerstore.formats.oci_config import decode_config
from layerstore.formats.parcels import TABLES_MAX_BYTES
from layerstore.formats.reference import is_index_name, parse_reference, parse_stored_name
from layerstore.formats.tar_limits import Limits
from layerstore.image.exchange.exchange import Document
from layerstore.image.exchange.indexes import keep_index
from layerstore.image.exchange.reencoding import is_recipe
from layerstore.image.images import ImageParts, parts_of, publish_parts
from layerstore.image.transfer.receiving import (
    ContentMissingError,
    ItemReceiver,
    publish_received,
    received_records,
)
from layerstore.linux.files import open_private, read_at, write_all
from layerstore.progress import Silent
from layerstore.store.failures import storage_errors
from layerstore.store.packs.pack_reader import OpenPack, footer_length, read_footer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.formats.bundle import BaseImage, BundledImage
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import SessionStats
    from layerstore.store.writing.session import WriteSession

_COPY_BYTES = 1 << 20
_WHERE = "the bundle"


class LoadedImage(NamedTuple):
    """An image of a bundle, now in the store, and the names that it got."""

    image: ImageRecord
    names: tuple[str, ...]


class LoadReport(NamedTuple):
    """What loading a bundle did.

    Attributes:
        images: In the bundle's order.
        stats: What the store had to take.
    """

    images: tuple[LoadedImage, ...]
    stats: SessionStats


class BaseMissingError(NotFoundError):
    """A bundle builds on an image that is not here."""


def load_bundle(
    store: Store, read: Callable[[int], bytes], *, progress: Progress | None = None
) -> LoadReport:
    """Add a bundle's images to a store; they are durable when this returns.

    Args:
        store: The store.
        read: Gives the stream, 1 to n bytes a call, none at its end.
        progress: Told plain bytes.

    Raises:
        BaseMissingError: It builds on images that are not here.
        ContentMissingError: It builds on other content that is not here.
        FormatError: It is no bundle, was cut short, or is damaged.
        IntegrityError: It describes a layer or image wrongly.
        UnsafeContentError: It is larger than a limit.
        StorageError: The store could not be written.
    """
    with store.begin("load a bundle") as session:
        return _Loading(session, read, progress or Silent()).run()


class _Loading:
    """One bundle on its way in."""

    def __init__(
        self, session: WriteSession, read: Callable[[int], bytes], progress: Progress
    ) -> None:
        self._session = session
        self._store = session.store
        self._read = read
        self._progress = progress
        self._heads = HeadSum()

    def run(self) -> LoadReport:
        header = read_exactly(self._read, HEADER.size)
        check_header(header)
        self._heads.add(header)
        description = self._description()
        images = [_received(image) for image in description.images]
        records = received_records(description.layers)
        self._require_bases(description.bases)
        self._require_layers(images, records)
        new = [record for record in records if not self._store.has_layer(record.diff_id)]
        self._take_packs(ItemReceiver(self._session, new), description.plain_bytes)
        for record in new:
            publish_received(self._session, record, progress=self._progress)
        indexed = {
            name.partition("@")[0] for each in images for name in each.names if is_index_name(name)
        }
        loaded = [
            LoadedImage(
                publish_parts(
                    self._session,
                    image.parts,
                    names=[n for n in image.names if not is_index_name(n) and n not in indexed],
                    documents=image.documents,
                ),
                tuple(name for name in image.names if not is_index_name(name)),
            )
            for image in images
        ]
        for tag in sorted(indexed):
            self._name_index(tag, images)
        return LoadReport(tuple(loaded), self._session.stats)

    def _name_index(self, tag: str, images: Sequence[_Received]) -> None:
        """Let a tag mean the index that it meant there."""
        listed = {
            parse_digest(name.partition("@")[2]): each
            for each in images
            for name in each.names
            if name.startswith(f"{tag}@")
        }
        first = next((each for each in images if tag in each.names), None)
        kinds = first.parts.origins.documents if first else {}
        top = next((d for d in listed if kinds.get(d) in INDEX_TYPES), None)
        if first is None or top is None:
            raise FormatError(f"the bundle has no index for {tag}, of which it names images")
        known = {sha256_digest(raw): raw for raw in first.documents}
        documents = {d: Document(raw, kinds[d]) for d, raw in known.items()}
        ids = {d: each.parts.image_id for d, each in listed.items() if d != top}
        document = documents.pop(top)
        keep_index(
            self._store, [tag], document, ids, first.parts.image_id, list(documents.values())
        )

    # -- records

    def _head(self) -> tuple[RecordHead, bytes]:
        raw = read_exactly(self._read, RECORD.size)
        return decode_record(raw), raw

    def _payload(self, head: RecordHead) -> bytes:
        """Return a payload that fits into memory, compared with its checksum."""
        payload = read_exactly(self._read, head.length)
        if len(payload) != head.length:
            raise _cut_short()
        if blake3(payload).digest() != head.checksum:
            raise FormatError("a record of the bundle does not match its checksum")
        return payload

    def _description(self) -> Description:
        head, raw = self._head()
        if head.kind != DESCRIPTION_KIND:
            raise FormatError("the bundle does not begin with a description")
        self._heads.add(raw)
        return decode_description(self._payload(head))

    # -- what must be here

    def _require_bases(self, bases: Sequence[BaseImage]) -> None:
        """See to it that the images which the bundle builds on are here, and stay.

        Raises:
            BaseMissingError: One is not.
        """
        layers: list[DiffId] = []
        missing: list[str] = []
        for base in bases:
            wanted = [DiffId(Digest(diff_id)) for diff_id in base.layers]
            if all(map(self._store.has_layer, wanted)):
                layers += wanted
            else:
                missing.append(" ".join((*base.names, f"({base.image_id})")))
        if missing:
            raise BaseMissingError(
                "the bundle was made for somebody who has what is not here: "
                + ", ".join(missing[:10]),
                hint="load those first; or run 'layerstore have > LIST' here and 'layerstore "
                "save --have LIST' there",
            )
        self._session.hold_layers(layers)

    def _require_layers(self, images: Sequence[_Received], sent: Sequence[LayerRecord]) -> None:
        """Hold the layers that are here and are not sent.

        Raises:
            ContentMissingError: One is neither here nor described.
        """
        described = {record.diff_id for record in sent}
        needed = dict.fromkeys(
            d for each in images for d in (*each.parts.layers, *each.parts.origins.kept)
        )
        here = [diff_id for diff_id in needed if self._store.has_layer(diff_id)]
        missing = [d for d in needed if d not in described and d not in set(here)]
        if missing:
            raise ContentMissingError(
                f"the bundle needs {len(missing)} layers that are neither here nor in it, one is "
                f"{missing[0]}",
                hint="load the images first that it was made since",
            )
        self._session.hold_layers(here)

    # -- packs

    def _take_packs(self, receiver: ItemReceiver, plain_bytes: int) -> None:
        limit = Limits().expanded_bytes
        if plain_bytes > limit:
            raise FormatError(f"the bundle says it holds {plain_bytes} bytes, the limit is {limit}")
        self._progress.start("loading", plain_bytes)
        number = 0
        while True:
            head, raw = self._head()
            if head.kind == END_KIND:
                break
            if head.kind != PACK_KIND:
                raise FormatError("the bundle has a second description")
            self._heads.add(raw)
            number += 1
            self._take_pack(receiver, head, number, plain_bytes)
        if self._payload(head) != self._heads.digest():
            raise FormatError("the bundle was put together from parts that do not belong together")
        if receiver.plain_bytes != plain_bytes:
            raise FormatError(
                f"the bundle holds {receiver.plain_bytes} bytes of content, it says {plain_bytes}"
            )
        self._progress.finish()

    def _take_pack(
        self, receiver: ItemReceiver, head: RecordHead, number: int, plain_bytes: int
    ) -> None:
        path = self._session.temporary(f"received-{number}")
        try:
            self._spool(head, path)
            where = f"pack {number} of {_WHERE}"
            with storage_errors("read a pack"), contextlib.closing(OpenPack(path)) as file:
                _refuse_large_tables(file.fd, where)
                blocks = read_footer(file.fd)
                if sum(block.raw_length for block in blocks) > plain_bytes - receiver.plain_bytes:
                    raise FormatError(f"{_WHERE} holds more content than it says")
                lacking = receiver.lacking_bases(blocks)
                if lacking:
                    raise ContentMissingError(
                        f"the bundle builds on content that is not here: {len(lacking)} chunks of "
                        f"its pack {number}",
                        hint="run 'layerstore have > LIST' here and 'layerstore save --have LIST' "
                        "there",
                    )
                for block in blocks:
                    frame = read_at(file.fd, block.stored_length, block.offset)
                    receiver.take(block, frame, where=where)
                    self._progress.advance(block.raw_length)
            receiver.settle()
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _spool(self, head: RecordHead, path: str) -> None:
        """Write a pack to a file of our own, since its table comes last."""
        digest = blake3()
        left = head.length
        with storage_errors("spool a pack"):
            fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            while left:
                piece = self._read(min(left, _COPY_BYTES))
                if not piece:
                    raise _cut_short()
                digest.update(piece)
                left -= len(piece)
                with storage_errors("spool a pack"):
                    write_all(fd, piece)
        finally:
            os.close(fd)
        if digest.digest() != head.checksum:
            raise FormatError("a pack of the bundle does not match its checksum")


def _refuse_large_tables(fd: int, where: str) -> None:
    """Refuse a pack whose tables would fill memory: they may be all of it, in items of one byte."""
    size = footer_length(fd)
    if size > TABLES_MAX_BYTES:
        raise LimitExceededError(
            f"{where} has tables of {size} bytes, the limit is {TABLES_MAX_BYTES}"
        )


def _cut_short() -> FormatError:
    return FormatError("the bundle was cut short", hint="copy it again, and compare the sizes")


class _Received(NamedTuple):
    """An image as it was sent."""

    parts: ImageParts
    names: tuple[str, ...]
    documents: tuple[bytes, ...]


def _checked_name(name: str) -> str:
    if not is_index_name(name):
        return parse_stored_name(name)
    reference = parse_reference(name)
    return f"{reference.name}@{reference.digest}"


def _received(image: BundledImage) -> _Received:
    """Return an image as it was sent; its manifest is made anew when it is stored.

    Raises:
        FormatError: Config, manifest, a name or the documents are not what they should be.
    """
    image_id = sha256_digest(image.config)
    layers = decode_config(image.config).diff_ids
    try:
        parts = parts_of(image.config, layers, image.manifest)
        names = tuple(_checked_name(name) for name in image.names)
    except LayerstoreError as err:
        raise FormatError(f"the bundle's image {image_id} is damaged: {err.message}") from err
    known = {
        digest: encoding
        for digest, encoding in parts.origins.encodings.items()
        if encoding.kept is not None or is_recipe(encoding.recipe)
    }
    parts = parts._replace(origins=parts.origins._replace(encodings=known))
    documents = {sha256_digest(document) for document in image.documents}
    if documents != set(parts.origins.documents) or len(documents) != len(image.documents):
        raise FormatError(
            f"the bundle's image {image_id} came with other documents than its manifest names"
        )
    return _Received(parts, names, image.documents)
