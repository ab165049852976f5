"""New layers: from entries and open files to a published layer with its canonical tar.

Every file is read once; the same bytes go to the chunker and to the SHA-256 of the
canonical tar, which is the layer's diff ID. The tar itself is never written anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec

from layerstore.chunking.cutter import WHOLE_MAX_BYTES
from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats import tar_writer
from layerstore.formats.recipe import CANONICAL
from layerstore.formats.tar_headers import BLOCK_BYTES
from layerstore.formats.tar_limits import Limits, MetadataMeter, exceeded
from layerstore.formats.tree import WHITEOUT_PREFIX, Changeset, Entry, Extent, Kind, check_paths
from layerstore.image.changeset_builder import ChangesetBuilder
from layerstore.image.hashing import DiffIdHasher
from layerstore.image.layers import publish
from layerstore.image.source_file import SourceChangedError, SourceFile
from layerstore.progress import Progress, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.session import WriteSession
    from layerstore.store.store import Store


LIMITS = Limits()
"""A layer that is written here can be read again, from its own tar, too."""


class LayerItem(NamedTuple):
    """One entry of a layer to be written.

    Attributes:
        entry: What it is. A regular file has its ``size``, and either ``extents`` of a
            published layer or ``open``. A hard link's own attributes do not
            matter when its file is among the items.
        open: Opens fresh content of exactly ``entry.size`` bytes; called at most once, and
            seekable when there are holes.
        holes: (offset, length) of parts of fresh content that are holes, ascending, not
            touching, known to be zeros. What of them fills whole blocks of 512 bytes, or
            the rest of the file, becomes a hole of the layer.
        read_whole: Returns the same content as ``open``, for small files, where a file
            object costs more than their bytes; it has exactly ``entry.size`` bytes.
    """

    entry: Entry
    open: Callable[[], BinaryIO] | None = None
    holes: tuple[tuple[int, int], ...] = ()
    read_whole: Callable[[], bytes] | None = None


def write_layer(
    session: WriteSession,
    store: Store,
    items: Iterable[LayerItem],
    *,
    whiteouts: Iterable[bytes] = (),
    opaques: Iterable[bytes] = (),
    progress: Progress | None = None,
) -> LayerRecord:
    """Store and publish a layer; when this returns it is durable.

    The layer depends on the items alone, not on their order: two runs over equal trees
    give the same diff ID.

    Args:
        session: Of ``store``.
        store: Where extents of items without ``open`` are read.
        items: In any order; of several with one path the last counts.
        whiteouts: Paths to remove from lower layers.
        opaques: Directories whose lower content is hidden.
        progress: Hears the bytes of content.

    Raises:
        UnsafeContentError: The items contradict each other (an entry below a file, a
            hard link to a directory) or have a name that no layer can carry.
        SourceChangedError: A file's content is not as long as its entry says.
        FormatError: An entry breaks a rule of the tree format.
        LimitExceededError: More entries, or larger names and attributes, than a layer may have.
        StorageError: The store could not be written.
    """
    report = progress or Silent()
    gathered = _gather(items, whiteouts, opaques)
    total = sum(entry.size for entry in gathered.changeset.entries)
    report.start("writing layer", total)
    with DiffIdHasher() as hasher:
        writer = _Writer(session, store, hasher, report, gathered.sources)
        changeset = writer.run(gathered.changeset)
        diff_id = hasher.diff_id()
    record = publish(
        session,
        changeset,
        diff_id=diff_id,
        tar_size=hasher.size,
        recipe=(),
        recipe_format=CANONICAL,
    )
    report.finish()
    return record


class _Gathered(NamedTuple):
    """A valid changeset whose fresh files have no extents yet, and where to read those."""

    changeset: Changeset
    sources: dict[bytes, LayerItem]


def _gather(
    items: Iterable[LayerItem], whiteouts: Iterable[bytes], opaques: Iterable[bytes]
) -> _Gathered:
    by_path = _limited(items)
    whiteouts, opaques = list(whiteouts), list(opaques)
    check_image_paths(sorted(by_path))
    check_image_paths(sorted([*whiteouts, *opaques]))
    builder = ChangesetBuilder()
    path = b""
    try:
        # Links last: then every link finds its file, whatever the order of the items was.
        for item in sorted(by_path.values(), key=lambda item: item.entry.kind is Kind.HARDLINK):
            path = item.entry.path
            builder.add(item.entry)
        for path in whiteouts:
            builder.add_whiteout(path)
        for path in opaques:
            builder.add_opaque(path)
    except UnsafeContentError as err:
        raise UnsafeContentError(f"{path[:300]!r}: {err.message}") from err
    changeset = builder.finish()
    sources = {}
    for item in by_path.values():
        if item.open is not None and item.entry.size:
            final = builder.final(item.entry)
            assert final is not None
            sources[final.path] = item
    return _Gathered(changeset, sources)


def _limited(items: Iterable[LayerItem]) -> dict[bytes, LayerItem]:
    """Return items by path: no more than a layer may have when it is read again.

    Raises:
        LimitExceededError: A step or a directory made more.
    """
    by_path: dict[bytes, LayerItem] = {}
    meter = MetadataMeter(LIMITS)
    for item in items:
        entry = item.entry
        meter.charge(len(entry.path) + len(entry.target) + sum(map(_xattr_bytes, entry.xattrs)))
        by_path[entry.path] = item
        if len(by_path) > LIMITS.entries:
            raise exceeded("entries", len(by_path), LIMITS.entries, "entries of a layer")
    return by_path


def _xattr_bytes(pair: tuple[bytes, bytes]) -> int:
    return len(pair[0]) + len(pair[1])


def check_image_paths(paths: Sequence[bytes]) -> None:
    """Refuse names that a layer cannot carry.

    Args:
        paths: Relative to the image's root; the root itself may only come first.

    Raises:
        UnsafeContentError: Names the path and what to do about it.
    """
    try:
        check_paths(paths)
    except FormatError as err:
        hint = "names that begin with .wh. mean whiteouts in layers: rename or exclude the file"
        whiteout = any(b"/" + WHITEOUT_PREFIX in b"/" + path for path in paths)
        raise UnsafeContentError(err.message, hint=hint if whiteout else None) from err


class _Writer:
    """Hashes the canonical tar while the content goes to the store."""

    def __init__(
        self,
        session: WriteSession,
        store: Store,
        hasher: DiffIdHasher,
        progress: Progress,
        sources: dict[bytes, LayerItem],
    ) -> None:
        self._session = session
        self._store = store
        self._hasher = hasher
        self._progress = progress
        self._sources = sources

    def run(self, changeset: Changeset) -> Changeset:
        """Write every member; return the changeset with all extents."""
        hasher = self._hasher
        entries = []
        for header, entry in tar_writer.in_canonical_order(changeset):
            if header is not None:
                hasher.update(header)
                continue
            assert entry is not None
            source = self._sources.get(entry.path)
            if source is not None:
                entries.append(self._fresh(entry, source))
            else:
                self._stored(entry)
                entries.append(entry)
        hasher.update(tar_writer.TAR_END)
        return Changeset(tuple(entries), changeset.whiteouts, changeset.opaques)

    def _stored(self, entry: Entry) -> None:
        """Take an entry whose content, if any, is in the store."""
        self._hasher.update(tar_writer.member_header(entry))
        stored = 0
        for length, chunk in entry.extents:
            if chunk is not None:
                self._take(self._store.read_refs(((length, chunk),)))
                stored += length
        self._hasher.update(tar_writer.padding(stored))

    def _fresh(self, entry: Entry, source: LayerItem) -> Entry:
        """Take a file whose content is read now; return its entry with extents."""
        opener = source.open
        assert opener is not None
        if source.holes:
            source = source._replace(holes=_whole_blocks(source.holes, entry.size))
        if entry.size <= WHOLE_MAX_BYTES and not source.holes:
            return self._small(entry, source)
        regions = _regions(source)
        if source.holes:
            self._hasher.update(tar_writer.sparse_member_header(entry, regions))
        else:
            self._hasher.update(tar_writer.member_header(entry))
        with opener() as file:
            extents = self._content(entry, file, regions)
            if isinstance(file, SourceFile):
                file.verify()
            elif not source.holes and file.read(1):
                raise SourceChangedError(entry.path, "it grew")
        self._hasher.update(tar_writer.padding(sum(length for _, length in regions)))
        return msgspec.structs.replace(entry, extents=extents)

    def _small(self, entry: Entry, source: LayerItem) -> Entry:
        """Take a file of one chunk: most files of a root file system are like this."""
        header = tar_writer.member_header(entry)
        content = source.read_whole() if source.read_whole else _read_small(entry, source)
        size = len(content)
        self._hasher.update(header, content, tar_writer.padding(size))
        self._progress.advance(size)
        extents = ((size, self._session.put_chunk(content)),)
        return msgspec.structs.replace(entry, extents=extents)

    def _content(
        self, entry: Entry, file: BinaryIO, regions: list[tuple[int, int]]
    ) -> tuple[Extent, ...]:
        extents: list[Extent] = []
        at = 0
        for offset, length in regions:
            if offset > at:
                extents.append((offset - at, None))
                file.seek(offset)
            extents += self._data(entry, file, length)
            at = offset + length
        if entry.size > at:
            extents.append((entry.size - at, None))
        return tuple(extents)

    def _data(self, entry: Entry, file: BinaryIO, length: int) -> Refs:
        def read(count: int) -> bytes:
            piece = file.read(count)
            if not piece:
                raise SourceChangedError(entry.path, "it shrank")
            self._take(piece)
            return piece

        return self._session.put_stream(read, length)

    def _take(self, piece: bytes) -> None:
        self._hasher.update(piece)
        self._progress.advance(len(piece))


def _read_small(entry: Entry, source: LayerItem) -> bytes:
    """Return the whole of fresh content."""
    assert source.open is not None
    size = entry.size
    with source.open() as file:
        content = file.read(size + 1)
        while len(content) < size:
            more = file.read(size + 1 - len(content))
            if not more:
                raise SourceChangedError(entry.path, "it shrank")
            content += more
        if len(content) > size:
            raise SourceChangedError(entry.path, "it grew")
        if isinstance(file, SourceFile):
            file.verify()
    return content


def _whole_blocks(holes: tuple[tuple[int, int], ...], size: int) -> tuple[tuple[int, int], ...]:
    """Return what of holes a tar can leave out: data between them fills whole blocks.

    GNU tar begins every region of a sparse file at a block, others where the one before
    ends; where all but the last fill their blocks, both are the same.
    """
    whole = []
    for offset, length in holes:
        start, end = offset + -offset % BLOCK_BYTES, offset + length
        if end < size:
            end -= end % BLOCK_BYTES
        if start < end:
            whole.append((start, end - start))
    return tuple(whole)


def _regions(source: LayerItem) -> list[tuple[int, int]]:
    """Return the (offset, length) of what is not a hole."""
    regions = []
    at = 0
    for offset, length in source.holes:
        assert at <= offset, "holes overlap"
        assert offset + length <= source.entry.size, "a hole leaves the file"
        if offset > at:
            regions.append((at, offset - at))
        at = offset + length
    if source.entry.size > at:
        regions.append((at, source.entry.size - at))
    return regions
