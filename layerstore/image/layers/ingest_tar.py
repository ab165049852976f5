"""From an untrusted tar stream to a published layer, in one pass.

Decompressing, hashing, parsing and chunking happen while the stream is read; nothing
is unpacked anywhere. The layer's recipe brings the same bytes back, so its diff ID is
that of the tar. A stream that is refused leaves no layer behind.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from layerstore.errors import FormatError, LimitExceededError, UnsafeContentError
from layerstore.formats.decompress import decompressed
from layerstore.formats.pack import BLOCK_MAX_BYTES
from layerstore.formats.recipe import SEGMENTS, content_entries, write_plan
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import (
    FILE,
    HARDLINK,
    WHITEOUT_PREFIX,
    Changeset,
    Entry,
    Extent,
    Kind,
    check_references,
)
from layerstore.image.layers.changeset_builder import ChangesetBuilder
from layerstore.image.layers.hashing import DiffIdHasher
from layerstore.image.layers.layers import publish
from layerstore.image.layers.similar import SimilarFiles
from layerstore.image.layers.spilled_changeset import SpilledChangeset, scratch_errors
from layerstore.image.layers.tree_spool import TreeSpool, put_spooled
from layerstore.linux.spool import Spool
from layerstore.progress import Progress, Silent
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.digest import ChunkId
    from layerstore.formats.tar_member import Member
    from layerstore.formats.tree import Paths
    from layerstore.image.layers.changeset_builder import LayerRules
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.writing.session import WriteSession

_LITERALS_BYTES: Final = 1 << 20
"""Literals are stored in pieces of this size: one block each."""
GATHERED_MAX: Final = 50_000
"""Entries kept in memory, 65 MB of them; a layer that has more goes on in a scratch file."""

OWN_MAX: Final = BLOCK_MAX_BYTES // 32
"""Chunks that a recipe may hold itself: more do not fit the layer's record."""

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
    with DiffIdHasher() as hasher, TreeSpool(session) as tree:
        report.start("reading layer", None)
        spans = _hashed(decompressed(stream.read, chosen), hasher, report)
        with _Ingest(session, TarReader(spans, chosen), rootfs=rootfs) as ingest:
            ingest.run()
            recipe, whiteouts, opaques = ingest.finish(tree)
            record = publish(
                session,
                tree,
                diff_id=hasher.diff_id(),
                tar_size=hasher.size,
                recipe=recipe,
                recipe_format=SEGMENTS,
                whiteouts=whiteouts,
                opaques=opaques,
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
        self._similar = SimilarFiles(session.store)
        self._whole_max = session.cutting.whole_max_bytes
        self._reader = reader
        self._rootfs = rootfs
        self._builder = ChangesetBuilder(reader.metadata.charge, alone=rootfs)
        self._contents: list[Entry] = []
        self._spilled: SpilledChangeset | None = None
        self._taken = 0
        # Of the literals before each content, in the order of the tar.
        self._lengths = array("q")
        self._literals_done = 0
        self._literals: list[tuple[int, ChunkId]] = []

    def run(self) -> None:
        """Read the archive to its end."""
        with scratch_errors():
            self._run()

    def _run(self) -> None:
        reader = self._reader
        while (member := reader.next_member()) is not None:
            try:
                if WHITEOUT_PREFIX in member.path and self._marker(member):
                    continue
                if member.kind is FILE:
                    self._file(member)
                else:
                    self._add(_entry(member, ()))
            except (FormatError, UnsafeContentError) as err:
                raise type(err)(_blamed(err.message, member)) from err
            if len(reader.literals) >= _LITERALS_BYTES:
                self._store_literals()

    def _file(self, member: Member) -> None:
        literal = self._reader.literal_count
        entry = _entry(member, self._content(member))
        self._add(entry)
        if member.stored:
            self._lengths.append(literal - self._literals_done)
            self._literals_done = literal
            if self._spilled is None:
                self._contents.append(entry)

    def _add(self, entry: Entry) -> None:
        self._taken += 1
        if self._taken == GATHERED_MAX:
            self._spill()
        self._rules().add(entry)

    def _rules(self) -> LayerRules:
        return self._builder if self._spilled is None else self._spilled

    def _spill(self) -> None:
        """Go on in a scratch file."""
        path = self._session.temporary("entries")
        self._spilled = SpilledChangeset(path, self._builder, self._contents)
        self._builder = ChangesetBuilder()
        self._contents = []

    def _content(self, member: Member) -> tuple[Extent, ...]:
        if member.regions is None:
            return self._data(member, member.stored)
        extents: list[Extent] = []
        at = 0
        for offset, length in member.regions:
            if offset > at:
                extents.append((offset - at, None))
            extents += self._data(member, length)
            at = offset + length
        if member.size > at:
            extents.append((member.size - at, None))
        return tuple(extents)

    def _data(self, member: Member, length: int) -> Refs:
        if not length:
            return ()
        like = partial(self._similar.find, member.path)
        if length > self._whole_max:
            return self._session.put_stream(self._reader.read, length, like=like)
        content = self._reader.read_exactly(length)
        return ((length, self._session.put_chunk(content, like=like)),)

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
            self._rules().add_opaque(b"/".join(parents))
        elif hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT_PREFIX):
            raise UnsafeContentError("whiteout of no proper name")
        else:
            self._rules().add_whiteout(b"/".join([*parents, hidden]))
        return True

    def _store_literals(self) -> None:
        taken = self._reader.take_literals()
        for start in range(0, len(taken), _LITERALS_BYTES):
            piece = taken[start : start + _LITERALS_BYTES]
            self._literals.append((len(piece), self._session.put_chunk(piece, meta=True)))

    def finish(self, tree: TreeSpool) -> tuple[Refs, Paths, Paths]:
        """Fill the layer's tree; return its recipe, whiteouts and opaques."""
        with scratch_errors():
            return self._finish(tree)

    def _finish(self, tree: TreeSpool) -> tuple[Refs, Paths, Paths]:
        self._store_literals()
        # Where in the tree each content of the tar is, or -1.
        sources = array("q", [-1]) * len(self._lengths)
        if self._spilled is not None:
            for entry in self._spilled.entries(sources):
                tree.add(entry)
            return (self._recipe(sources, self._spilled.lost()), *self._spilled.paths())
        changeset = self._builder.finish()
        check_references(changeset)
        lost = self._find_sources(changeset, sources)
        for entry in changeset.entries:
            tree.add(entry)
        whiteouts = len(changeset.whiteouts), changeset.whiteouts
        opaques = len(changeset.opaques), changeset.opaques
        return self._recipe(sources, lost), whiteouts, opaques

    def _find_sources(self, changeset: Changeset, sources: array[int]) -> list[tuple[int, Refs]]:
        """Fill in where contents are; return those that the tree does not have."""
        places = {id(entry): place for place, entry in enumerate(content_entries(changeset))}
        lost = []
        for number, entry in enumerate(self._contents):
            final = self._builder.final(entry)
            if final is not None:
                sources[number] = places[id(final)]
            else:
                refs = tuple((size, chunk) for size, chunk in entry.extents if chunk is not None)
                lost.append((number, refs))
        return lost

    def _recipe(self, sources: array[int], lost: Iterable[tuple[int, Refs]]) -> Refs:
        """Store the layer's recipe; it holds itself what the tree does not have."""
        own: list[int] = []
        own_refs: list[tuple[int, ChunkId]] = []
        in_tree = len(sources) - sources.count(-1)
        for number, refs in lost:
            sources[number] = in_tree + len(own)
            own.append(sum(length for length, _ in refs))
            own_refs += refs
            if len(own_refs) > OWN_MAX:
                raise LimitExceededError(
                    f"more than {OWN_MAX} chunks of content that later members replace"
                )
        tail = self._reader.literal_count - self._literals_done
        with Spool(partial(self._session.temporary, "recipe")) as body:
            steps = zip(self._lengths, sources, strict=True)
            with storage_errors("write a recipe"):
                plan = write_plan(body.write, len(sources), steps, tail, own)
            return (*put_spooled(self._session, plan, body), *self._literals, *own_refs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spilled is not None:
            self._spilled.close()


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
        () if member.kind is HARDLINK else member.xattrs,
    )


def _blamed(message: str, member: Member) -> str:
    return f"{message} (member {member.name[:300]!r} at offset {member.offset})"
