"""Layers and whole images as tar streams again.

A layer comes out bit for bit as it came in, or as its canonical tar when it was built
here; its digest is checked while it is written. Reads one chunk at a time.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from layerstore.errors import FormatError, IntegrityError
from layerstore.formats import recipe, tar_writer
from layerstore.formats.tree import Changeset, Entry, decode_changeset
from layerstore.image.layers.changeset_builder import hard_link
from layerstore.image.trees.stack import load_root, walk
from layerstore.progress import Progress, Silent
from layerstore.store.records import refs_length

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.image.trees.stack import Node
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.store import Store


class LayerMismatchError(IntegrityError):
    """A layer's tar did not come out with its digest; what was written must not be used."""


def export_layer(
    store: Store, diff_id: DiffId, out: BinaryIO, *, progress: Progress | None = None
) -> None:
    """Write a layer's uncompressed tar.

    Success means that exactly the bytes of ``diff_id`` were written. After an error
    what was written is incomplete or wrong.

    Raises:
        NotFoundError: No such layer.
        IntegrityError: The store is damaged, or the tar has another digest.
    """
    report = progress or Silent()
    report.start("writing layer", store.layer(diff_id).tar_size)
    for piece in verified_tar(store, diff_id):
        out.write(piece)
        report.advance(len(piece))
    report.finish()


def verified_tar(store: Store, diff_id: DiffId) -> Iterator[bytes]:
    """Yield a layer's uncompressed tar, and raise at its end if it was another one.

    Raises:
        NotFoundError: No such layer.
        IntegrityError: The store is damaged, or the tar has another digest: what was yielded
            must not be used.
    """
    record = store.layer(diff_id)
    digest = hashlib.sha256()
    size = 0
    for piece in layer_tar(store, record):
        digest.update(piece)
        size += len(piece)
        yield piece
    if f"sha256:{digest.hexdigest()}" != diff_id or size != record.tar_size:
        raise LayerMismatchError(
            f"layer {diff_id} came out as sha256:{digest.hexdigest()} with {size} bytes",
            hint="run 'layerstore check --read-data'",
        )


def layer_tar(store: Store, record: LayerRecord) -> Iterator[bytes]:
    """Yield a layer's tar in pieces; the caller compares the digest.

    The layer need not be published; its chunks must be readable.

    Raises:
        IntegrityError: A chunk is damaged or missing, or the recipe is malformed.
    """
    match record.recipe_format:
        case recipe.CANONICAL:
            yield from _canonical(store, _changeset(store, record))
        case recipe.SEGMENTS:
            yield from _segments(store, record)
        case recipe.WHOLE:
            yield from _bytes_of(store, record.recipe)
        case other:
            raise FormatError(f"recipe format {other!r} is unknown")


class LayerStream:
    """The tar of :func:`layer_tar` as a stream to read."""

    def __init__(self, store: Store, record: LayerRecord) -> None:
        self._pieces = layer_tar(store, record)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, none at the end.

        Raises:
            IntegrityError: As :func:`layer_tar`.
        """
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _changeset(store: Store, record: LayerRecord) -> Changeset:
    # Not by its diff ID: a layer that came from elsewhere is not published yet.
    return decode_changeset(store.read_refs(record.tree))


def export_rootfs(
    store: Store,
    diff_ids: Sequence[DiffId],
    out: BinaryIO,
    *,
    latest_ns: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write what the layers together look like as one canonical tar, without whiteouts.

    Args:
        store: Where the layers are.
        diff_ids: Lowest first.
        out: Gets the tar.
        latest_ns: No file of the tar has a later time.
        progress: Hears the bytes of content.

    Raises:
        NotFoundError: A layer is missing.
        IntegrityError: The store is damaged.
    """
    report = progress or Silent()
    changeset = flattened(load_root(store, diff_ids))
    if latest_ns is not None:
        changeset = msgspec.structs.replace(
            changeset, entries=tuple(clamped(entry, latest_ns) for entry in changeset.entries)
        )
    report.start("writing root file system", sum(entry.size for entry in changeset.entries))
    for piece in _canonical(store, changeset):
        out.write(piece)
        report.advance(len(piece))
    report.finish()


def flattened(root: Node) -> Changeset:
    """Return a whole tree as one changeset; a hard link group's first name is its file."""
    entries: list[Entry] = []
    first_names: dict[int, bytes] = {}
    for path, node in walk(root):
        entry = node.entry
        if node.children is None and node.nlink > 1:
            first = first_names.setdefault(node.ino, path)
            if first != path:
                entries.append(hard_link(path, first, entry))
                continue
        if entry.path != path:
            entry = msgspec.structs.replace(entry, path=path)
        entries.append(entry)
    return Changeset(entries=tuple(entries))


def clamped(entry: Entry, latest_ns: int) -> Entry:
    """Return an entry whose time is no later than ``latest_ns``."""
    if entry.mtime_ns <= latest_ns:
        return entry
    return msgspec.structs.replace(entry, mtime_ns=latest_ns)


def _canonical(store: Store, changeset: Changeset) -> Iterator[bytes]:
    for header, entry in tar_writer.canonical_members(changeset):
        yield header
        if entry is not None:
            yield from _content(store, entry)
            yield tar_writer.padding(tar_writer.stored_size(entry))
    yield tar_writer.TAR_END


def _content(store: Store, entry: Entry) -> Iterator[bytes]:
    for length, chunk in entry.extents:
        if chunk is not None:
            yield store.read_refs(((length, chunk),))


def _bytes_of(store: Store, refs: Refs) -> Iterator[bytes]:
    for ref in refs:
        yield store.read_refs((ref,))


class _Reader:
    """Takes exact counts from references, holding one chunk."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def take(self, count: int) -> Iterator[bytes]:
        """Yield the next ``count`` bytes in pieces."""
        while count:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    raise FormatError("damaged recipe: it is shorter than it says")
            piece = self._rest[:count]
            self._rest = self._rest[len(piece) :]
            count -= len(piece)
            yield piece


def _segments(store: Store, record: LayerRecord) -> Iterator[bytes]:
    reader = _Reader(_bytes_of(store, record.recipe))
    head = b"".join(reader.take(min(recipe.HEAD.size, refs_length(record.recipe))))
    head += b"".join(reader.take(recipe.plan_bytes(head) - len(head)))
    plan = recipe.decode_plan(head)
    entries = recipe.content_entries(_changeset(store, record))
    own = _Reader(_bytes_from(store, record.recipe, len(head) + plan.literal_bytes))
    for literal, source in recipe.segments(plan, len(entries) + len(plan.own)):
        yield from reader.take(literal)
        if source is None:
            continue
        if source < len(entries):
            yield from _content(store, entries[source])
        else:
            # Own contents are used in the order they are kept in.
            yield from own.take(plan.own[source - len(entries)])


def _bytes_from(store: Store, refs: Refs, start: int) -> Iterator[bytes]:
    """Yield what references hold from byte ``start`` on."""
    at = 0
    for length, chunk in refs:
        if at + length > start:
            yield store.read_refs(((length, chunk),))[max(start - at, 0) :]
        at += length
