"""From an untrusted tar stream to a published layer, in one pass.

Decompressing, hashing, parsing and chunking happen while the stream is read; nothing
is unpacked anywhere. The layer's recipe brings the same bytes back, so its diff ID is
that of the tar. A stream that is refused leaves no layer behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from layerstore.chunking.cutter import WHOLE_MAX_BYTES
from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats.decompress import decompressed
from layerstore.formats.recipe import SEGMENTS, content_entries, encode_plan
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import Member, TarReader
from layerstore.formats.tree import WHITEOUT_PREFIX, Changeset, Entry, Extent, Kind
from layerstore.image.changeset_builder import ChangesetBuilder
from layerstore.image.hashing import DiffIdHasher
from layerstore.image.layers import publish
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.digest import ChunkId
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.session import WriteSession

_LITERALS_BYTES: Final = 1 << 20
"""Literals are stored in pieces of this size: one block each."""
_OPAQUE: Final = WHITEOUT_PREFIX + WHITEOUT_PREFIX + b".opq"


def ingest_tar(
    session: WriteSession,
    stream: BinaryIO,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    rootfs: bool = False,
) -> LayerRecord:
    """Store a layer tar and publish the layer; when this returns it is durable.

    Args:
        session: The layer belongs to the store that the session writes to.
        stream: A tar, plain or compressed by gzip, zstd, xz or bzip2; read to its end.
        limits: What it may cost.
        progress: Hears the uncompressed bytes as they come.
        rootfs: The tar stands alone: it may not hold whiteouts, nor hard links to paths
            that it does not bring. A layer's hard links may name lower layers' files.

    Raises:
        FormatError: Malformed, ambiguous, truncated, or damaged in its compression.
        UnsafeContentError: A path or link that could lead out of the image.
        LimitExceededError: It costs more than ``limits``; the message names which.
        StorageError: The store could not be written.
    """
    chosen = limits or Limits()
    report = progress or Silent()
    with DiffIdHasher() as hasher:
        report.start("reading layer", None)
        spans = _hashed(decompressed(stream.read, chosen), hasher, report)
        ingest = _Ingest(session, TarReader(spans, chosen), rootfs=rootfs)
        ingest.run()
        changeset, recipe = ingest.finish()
        del ingest  # publishing decodes the tree once more: not beside all that made it
        diff_id = hasher.diff_id()
    record = publish(
        session,
        changeset,
        diff_id=diff_id,
        tar_size=hasher.size,
        recipe=recipe,
        recipe_format=SEGMENTS,
    )
    report.finish()
    return record


def _hashed(spans: Iterator[bytes], hasher: DiffIdHasher, progress: Progress) -> Iterator[bytes]:
    for span in spans:
        hasher.update(span)
        progress.advance(len(span))
        yield span


class _Ingest:
    """One tar on its way into the store."""

    def __init__(self, session: WriteSession, reader: TarReader, *, rootfs: bool) -> None:
        self._session = session
        self._reader = reader
        self._rootfs = rootfs
        self._builder = ChangesetBuilder(reader.metadata.charge, alone=rootfs)
        self._steps: list[tuple[int, Entry]] = []
        self._literals_done = 0
        self._literals: list[tuple[int, ChunkId]] = []

    def run(self) -> None:
        """Read the archive to its end."""
        reader = self._reader
        while (member := reader.next_member()) is not None:
            try:
                if WHITEOUT_PREFIX in member.path and self._marker(member):
                    continue
                if member.kind is Kind.FILE:
                    self._file(member)
                else:
                    self._builder.add(_entry(member, ()))
            except (FormatError, UnsafeContentError) as err:
                raise type(err)(_blamed(err.message, member)) from err
            if len(reader.literals) >= _LITERALS_BYTES:
                self._store_literals()

    def _file(self, member: Member) -> None:
        literal = self._reader.literal_count
        entry = _entry(member, self._content(member))
        self._builder.add(entry)
        if member.stored:
            self._steps.append((literal - self._literals_done, entry))
            self._literals_done = literal

    def _content(self, member: Member) -> tuple[Extent, ...]:
        if member.regions is None:
            return self._data(member.stored)
        extents: list[Extent] = []
        at = 0
        for offset, length in member.regions:
            if offset > at:
                extents.append((offset - at, None))
            extents += self._data(length)
            at = offset + length
        if member.size > at:
            extents.append((member.size - at, None))
        return tuple(extents)

    def _data(self, length: int) -> Refs:
        if length > WHOLE_MAX_BYTES:
            return self._session.put_stream(self._reader.read, length)
        if not length:
            return ()
        return ((length, self._session.put_chunk(self._reader.read_exactly(length))),)

    def _marker(self, member: Member) -> bool:
        """Take a whiteout; return False when the path only looks like one."""
        *parents, name = member.path.split(b"/")
        if any(parent.startswith(WHITEOUT_PREFIX) for parent in parents):
            raise UnsafeContentError("directory with the name of a whiteout")
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        if self._rootfs:
            raise UnsafeContentError("whiteout in a root file system")
        if member.kind is not Kind.FILE or member.size or member.xattrs:
            raise UnsafeContentError("whiteout that is not an empty file")
        hidden = name[len(WHITEOUT_PREFIX) :]
        if name == _OPAQUE:
            self._builder.add_opaque(b"/".join(parents))
        elif hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT_PREFIX):
            raise UnsafeContentError("whiteout of no proper name")
        else:
            self._builder.add_whiteout(b"/".join([*parents, hidden]))
        return True

    def _store_literals(self) -> None:
        taken = self._reader.take_literals()
        for start in range(0, len(taken), _LITERALS_BYTES):
            piece = taken[start : start + _LITERALS_BYTES]
            self._literals.append((len(piece), self._session.put_chunk(piece, meta=True)))

    def finish(self) -> tuple[Changeset, Refs]:
        """Return the layer's changeset and the references of its recipe."""
        self._store_literals()
        changeset = self._builder.finish()
        steps, own = self._numbered(changeset)
        tail = self._reader.literal_count - self._literals_done
        plan = encode_plan(steps, tail, [length for length, _ in own])
        head = self._session.put_bytes(plan, meta=True)
        return changeset, (*head, *self._literals, *_joined(own))

    def _numbered(
        self, changeset: Changeset
    ) -> tuple[list[tuple[int, int]], list[tuple[int, Refs]]]:
        """Return the plan's steps, and the contents that the tree does not have."""
        entries = content_entries(changeset)
        numbers = {id(entry): number for number, entry in enumerate(entries)}
        steps = []
        own: list[tuple[int, Refs]] = []
        for literal, entry in self._steps:
            final = self._builder.final(entry)
            if final is not None:
                steps.append((literal, numbers[id(final)]))
                continue
            steps.append((literal, len(entries) + len(own)))
            refs = tuple((length, chunk) for length, chunk in entry.extents if chunk is not None)
            own.append((sum(length for length, _ in refs), refs))
        return steps, own


def _joined(own: list[tuple[int, Refs]]) -> Iterator[tuple[int, ChunkId]]:
    for _, refs in own:
        yield from refs


def _entry(member: Member, extents: tuple[Extent, ...]) -> Entry:
    # Positional: this runs once for every member.
    return Entry(
        member.path,
        member.kind,
        member.mode,
        member.uid,
        member.gid,
        member.mtime_ns,
        member.size,
        extents,
        member.target,
        member.dev_major,
        member.dev_minor,
        () if member.kind is Kind.HARDLINK else member.xattrs,
    )


def _blamed(message: str, member: Member) -> str:
    return f"{message} (member {member.name[:300]!r} at offset {member.offset})"
