"""Getting what another machine sent into a store, believing nothing of it.

Items are known by their own hashes. A layer is known by its tar: one whose tar is
made of its tree is written again and hashed; of every other the tar is written again and
*imported*, so that the tree that is published is the one that our reader makes of the bytes that
the diff ID vouches for, and no other. Whoever sends can waste time and nothing else.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from layerstore.digest import DiffId, Digest
from layerstore.errors import FormatError, IntegrityError, LimitExceededError, NotFoundError
from layerstore.formats.pack import BLOCK_MAX_BYTES, PREFIX_MAX_BYTES, ItemKind
from layerstore.formats.recipe import CANONICAL
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tree import Kind, decode_changeset
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.similar import SimilarFiles, brief_entries
from layerstore.image.trees.export_layer import LayerStream, layer_tar
from layerstore.progress import Silent
from layerstore.store.packs.codec import decompress_block
from layerstore.store.records import decode_layer, refs_length
from layerstore.store.rewriting.rewrite import item_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.digest import ChunkId
    from layerstore.formats.pack import Block
    from layerstore.progress import Progress
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.writing.session import WriteSession

_NEAR_BYTES = 128 * 1024
"""Of a similar file before and after a piece's own place: what a difference is tried against."""


TREE_MAX_BYTES: Final = 2 * Limits().metadata_bytes
"""Of a layer that was sent: what the entries of an import may cost, and as much for the ids of
the chunks of large files. A record of a few bytes may name one chunk without end."""


class ReceivedLayerError(IntegrityError):
    """A layer that was sent is not the one that it claims to be."""


class ContentMissingError(NotFoundError):
    """What was sent builds on content that is not here."""


def received_records(encoded: Iterable[bytes]) -> list[LayerRecord]:
    """Return records of layers that somebody sent.

    Raises:
        FormatError: One is damaged.
        LimitExceededError: One is larger than a block, or describes more than an import would take.
    """
    records = [decode_layer(_of_a_block(each)) for each in encoded]
    for record in records:
        for what, size, most in (
            ("a tree", refs_length(record.tree), TREE_MAX_BYTES),
            ("a tar", record.tar_size, Limits().expanded_bytes),
        ):
            if size > most:
                raise LimitExceededError(
                    f"layer {record.diff_id} was sent with {what} of {size} bytes, the limit is "
                    f"{most}"
                )
    return records


def _of_a_block(encoded: bytes) -> bytes:
    """Return a record that a block can hold, as those do that a store writes.

    A reference of four bytes, which is none, is an object of sixty before anybody sees that.
    """
    if len(encoded) > BLOCK_MAX_BYTES:
        raise LimitExceededError(
            f"a layer was sent with a record of {len(encoded)} bytes, the limit is "
            f"{BLOCK_MAX_BYTES}"
        )
    return encoded


class ItemReceiver:
    """Takes blocks of packs that somebody sent, and puts their items; for one thread.

    What was taken can be read, and be a base of what comes next, after :meth:`settle`.
    """

    def __init__(self, session: WriteSession, records: Sequence[LayerRecord]) -> None:
        """Prepare.

        Args:
            session: Gets the items.
            records: Of the layers that the items are for, to find what those resemble.
        """
        self._session = session
        self._store = session.store
        self._likeness = _Likeness(session, records)
        self._trees_wait = False
        self.plain_bytes = 0

    def lacking_bases(self, blocks: Iterable[Block]) -> set[bytes]:
        """Return what blocks are differences against and the store does not have."""
        return self._store.catalog.missing({base for block in blocks for base in block.bases})

    def take(self, block: Block, frame: bytes, *, where: str) -> None:
        """Decode a block and put what it holds.

        Args:
            block: Of a pack's footer.
            frame: Its bytes in the pack.
            where: What errors call the pack.

        Raises:
            FormatError: It does not decode, or holds other items than it says.
            NotFoundError: A base is not here.
        """
        if block.kind is ItemKind.LAYER:
            raise FormatError(f"{where} holds layer records, which are not sent in packs")
        is_meta = block.kind is ItemKind.META
        if self._trees_wait and not is_meta:
            self.settle()  # they say what content resembles
        self._trees_wait = is_meta
        raw = decompress_block(frame, block.raw_length, self._prefix(block, where))
        offset = 0
        for item in block.items:
            data = raw[offset : offset + item.length]
            if not item_matches(block.kind, item, data):
                raise FormatError(f"{where}: chunk {item.item_id.hex()} does not match its id")
            like = None if is_meta else partial(self._likeness.of, item.item_id)
            self._session.put_chunk(data, meta=is_meta, like=like)
            offset += item.length
        self.plain_bytes += len(raw)

    def _prefix(self, block: Block, where: str) -> bytes:
        parts: list[bytes] = []
        left = PREFIX_MAX_BYTES
        for base in block.bases:
            parts.append(self._store.read_chunk(base))
            left -= len(parts[-1])
            if left < 0:
                raise FormatError(f"{where} has a difference against more than a prefix may hold")
        return b"".join(parts)

    def settle(self) -> None:
        """Make everything taken readable."""
        self._session.flush()


class _Likeness:
    """Which stored content an item resembles: what lies where the item is going to lie.

    Trees are sent before content, so this is known when content comes. Of a tree that does not
    come nothing is known, and its content stands alone.
    """

    def __init__(self, session: WriteSession, records: Sequence[LayerRecord]) -> None:
        self._session = session
        self._records = records
        self._similar = SimilarFiles(session.store)
        self._places: dict[ChunkId, tuple[bytes, int]] | None = None

    def of(self, chunk_id: ChunkId) -> Refs:
        """Return the content around the place that a chunk has in the file it resembles."""
        if self._places is None:
            self._places = dict(self._find())
        place = self._places.get(chunk_id)
        if place is None:
            return ()
        path, offset = place
        return _around(self._similar.find(path), offset)

    def _find(self) -> Iterator[tuple[ChunkId, tuple[bytes, int]]]:
        for record in self._records:
            try:
                encoded = self._session.store.read_refs(record.tree)
            except (IntegrityError, NotFoundError):
                continue
            for entry in brief_entries(encoded):
                offset = 0
                for length, chunk_id in entry.extents if entry.kind == Kind.FILE else ():
                    if chunk_id is not None:
                        yield chunk_id, (entry.path, offset)
                    offset += length


def _around(refs: Refs, offset: int) -> Refs:
    """Return the references from a little before ``offset`` on."""
    at = 0
    for number, (length, _) in enumerate(refs):
        if at + length > offset - _NEAR_BYTES:
            return refs[number:]
        at += length
    return ()


def publish_received(
    session: WriteSession, record: LayerRecord, *, progress: Progress | None = None
) -> None:
    """Publish a layer whose content was received, after making sure that it is that layer.

    Args:
        session: The content was put, and is readable.
        record: As it was sent.
        progress: Told the bytes of the layer's tar.

    Raises:
        ReceivedLayerError: It is another layer, or is described wrongly.
        ContentMissingError: Some of its content is not here.
        FormatError: Its tar is none that an import would take.
    """
    try:
        if record.recipe_format == CANONICAL:
            _verify_canonical(session, record, progress or Silent())
            session.publish_layer(record)
            return
        stream = cast("BinaryIO", LayerStream(session.store, record))
        found = ingest_tar(session, stream, progress=progress)
    except NotFoundError as err:
        raise ContentMissingError(
            f"layer {record.diff_id} needs content that is neither here nor was it sent: "
            f"{err.message}",
            hint="send it again with '--since' of an image that is here, or '--have' of "
            "what 'layerstore have' says here now",
        ) from err
    if found.diff_id != record.diff_id:
        raise _other_layer(record, found.diff_id)


def _verify_canonical(session: WriteSession, record: LayerRecord, progress: Progress) -> None:
    progress.start("verifying layer", record.tar_size)
    digest = hashlib.sha256()
    size = 0
    for piece in layer_tar(session.store, record):
        digest.update(piece)
        size += len(piece)
        if size > record.tar_size:
            break
        progress.advance(len(piece))
    found = DiffId(Digest(f"sha256:{digest.hexdigest()}"))
    if found != record.diff_id:
        raise _other_layer(record, found)
    entries = decode_changeset(session.store.read_refs(record.tree)).entries
    content_size = sum(entry.size for entry in entries if entry.kind is Kind.FILE)
    told = (record.tar_size, record.entry_count, record.content_size, record.recipe)
    if told != (size, len(entries), content_size, ()):
        raise ReceivedLayerError(f"layer {record.diff_id} came with a record of other sizes")
    progress.finish()


def _other_layer(record: LayerRecord, found: DiffId) -> ReceivedLayerError:
    return ReceivedLayerError(
        f"a layer was sent as {record.diff_id}, but is {found}",
        hint="the sender is damaged or lies: run 'layerstore check --read-data' there",
    )
