"""New layers: from entries and open files to a published layer with its canonical tar.

Every file is read once; the same bytes go to the chunker and to the SHA-256 of the
canonical tar, which is the layer's diff ID. The tar itself is never written anywhere.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import msgspec

from layerstore.errors import UnsafeContentError
from layerstore.formats import tar_writer
from layerstore.formats.recipe import CANONICAL
from layerstore.formats.tar_headers import BLOCK_BYTES
from layerstore.formats.tar_limits import Limits, MetadataMeter, exceeded
from layerstore.formats.tree import (
    Changeset,
    Entry,
    Extent,
    Kind,
    check_references,
    with_extents,
)
from layerstore.image.layers.changeset_builder import ChangesetBuilder
from layerstore.image.layers.hashing import DiffIdHasher
from layerstore.image.layers.layer_item import LayerItem, check_image_paths
from layerstore.image.layers.layers import publish
from layerstore.image.layers.similar import SimilarFiles
from layerstore.image.layers.source_file import SourceChangedError, SourceFile
from layerstore.image.layers.tree_spool import TreeSpool
from layerstore.progress import Progress, Silent
from layerstore.store.batch_reader import BatchReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import DiffId
    from layerstore.store.records import LayerRecord, Refs
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


LIMITS = Limits()
"""A layer that is written here can be read again, from its own tar, too."""

_TOLD_BYTES: Final = 1 << 20
"""Progress hears of so many bytes at once."""


def write_layer(
    session: WriteSession,
    store: Store,
    items: Iterable[LayerItem],
    *,
    whiteouts: Iterable[bytes] = (),
    opaques: Iterable[bytes] = (),
    near: Sequence[DiffId] = (),
    progress: Progress | None = None,
    told: Callable[[Changeset], object] | None = None,
    was_read: Callable[[], object] | None = None,
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
        near: Layers whose files this one's may replace, lowest first: what changed little
            is stored as a difference.
        progress: Hears the bytes of content.
        told: Hears what the layer holds, as it could be read from the store from then on.
        was_read: Called once nothing of the items is opened any more, at the latest before the
            layer is published: what they come from may go, whatever becomes of the layer.

    Raises:
        UnsafeContentError: The items contradict each other (an entry below a file, a
            hard link to a directory) or have a name that no layer can carry.
        SourceChangedError: A file's content is not as long as its entry says.
        FormatError: An entry breaks a rule of the tree format.
        LimitExceededError: More entries, or larger names and attributes, than a layer may have.
        StorageError: The store could not be written.
    """
    report = progress or Silent()
    changeset, sources = _gather(items, whiteouts, opaques)
    check_references(changeset)
    report.start("writing layer", sum(entry.size for entry in changeset.entries))
    opens = any(item.open is not None for item in sources.values())
    if was_read is not None and not opens:
        was_read()
    with DiffIdHasher() as hasher, TreeSpool(session) as tree:
        writer = _Writer(session, store, hasher, report, tree, near)
        writer.read_together(changeset.entries)
        for header, entry in tar_writer.in_canonical_order(changeset):
            if header is not None:
                hasher.update(header)
            else:
                assert entry is not None
                writer.take(entry, sources.get(entry.path))
        if was_read is not None and opens:
            was_read()
        record = writer.publish(changeset.whiteouts, changeset.opaques)
    if told is not None:
        told(msgspec.structs.replace(changeset, entries=tuple(writer.entries)))
    return record


def write_sorted_layer(
    session: WriteSession,
    store: Store,
    items: Iterable[LayerItem],
    *,
    progress: Progress | None = None,
) -> LayerRecord:
    """Store and publish a layer whose items come in the order of its tree.

    This is :func:`write_layer` for trees of any size: no item is kept. Each hard link
    must come after its file and have its mode, owner and time.

    Raises:
        SourceChangedError: A file's content is not as long as its entry says.
        FormatError: An entry breaks a rule of the tree format, such as its order.
        StorageError: The store could not be written.
    """
    report = progress or Silent()
    report.start("writing layer", None)
    with DiffIdHasher() as hasher, TreeSpool(session) as tree:
        writer = _Writer(session, store, hasher, report, tree)
        for item in _limited(items):
            writer.take(item.entry, item)
        return writer.publish()


class _Gathered(NamedTuple):
    """A valid changeset whose fresh files have no extents yet, and where to read those."""

    changeset: Changeset
    sources: dict[bytes, LayerItem]


def _gather(
    items: Iterable[LayerItem], whiteouts: Iterable[bytes], opaques: Iterable[bytes]
) -> _Gathered:
    by_path = {item.entry.path: item for item in _limited(items)}
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
        if item.entry.size and (item.content is not None or item.open is not None):
            final = builder.final(item.entry)
            assert final is not None
            sources[final.path] = item
    return _Gathered(changeset, sources)


def _limited(items: Iterable[LayerItem]) -> Iterator[LayerItem]:
    """Yield items: no more than a layer may have when it is read again.

    Raises:
        LimitExceededError: A step or a directory made more.
    """
    meter = MetadataMeter(LIMITS)
    for count, item in enumerate(items, 1):
        entry = item.entry
        cost = len(entry.path) + len(entry.target)
        if entry.xattrs:
            cost += sum(map(_xattr_bytes, entry.xattrs))
        meter.charge(cost)
        if count > LIMITS.entries:
            raise exceeded("entries", count, LIMITS.entries, "entries of a layer")
        yield item


def _xattr_bytes(pair: tuple[bytes, bytes]) -> int:
    return len(pair[0]) + len(pair[1])


class _Writer:
    """Hashes the canonical tar while the content goes to the store, entry by entry."""

    def __init__(
        self,
        session: WriteSession,
        store: Store,
        hasher: DiffIdHasher,
        progress: Progress,
        tree: TreeSpool,
        near: Sequence[DiffId] = (),
    ) -> None:
        self._session = session
        self._store = store
        self._hasher = hasher
        self._progress = progress
        self._untold_bytes = 0
        self._tree = tree
        self._similar = SimilarFiles(store, near[::-1])
        self._whole_max = session.cutting.whole_max_bytes
        self._reader = BatchReader(store, ())
        self._keeps = False
        self.entries: list[Entry] = []

    def read_together(self, entries: Iterable[Entry]) -> None:
        """Learn which entries will come, and keep them in :attr:`entries`."""
        chunks = {chunk for entry in entries for _, chunk in entry.extents if chunk is not None}
        if chunks:
            self._reader = BatchReader(self._store, chunks)
        self._keeps = True

    def _add(self, entry: Entry) -> None:
        self._tree.add(entry)
        if self._keeps:
            self.entries.append(entry)

    def take(self, entry: Entry, source: LayerItem | None) -> None:
        """Write the next member; its fresh content, if any, is what ``source`` says."""
        if source is None:
            self._stored(entry)
        elif source.content is not None:
            self._small(entry, source.content)
        elif source.open is not None and entry.size:
            self._fresh(entry, source)
        else:
            self._stored(entry)

    def publish(
        self, whiteouts: Sequence[bytes] = (), opaques: Sequence[bytes] = ()
    ) -> LayerRecord:
        """End the tar and publish the layer."""
        self._hasher.update(tar_writer.TAR_END)
        self._progress.advance(self._untold_bytes)
        record = publish(
            self._session,
            self._tree,
            diff_id=self._hasher.diff_id(),
            tar_size=self._hasher.size,
            recipe=(),
            recipe_format=CANONICAL,
            whiteouts=(len(whiteouts), whiteouts),
            opaques=(len(opaques), opaques),
        )
        self._progress.finish()
        return record

    def _stored(self, entry: Entry) -> None:
        """Take an entry whose content, if any, is in the store."""
        self._hasher.update(tar_writer.member_header(entry))
        stored = 0
        for length, chunk in entry.extents:
            if chunk is not None:
                self._take_bytes(self._reader.read(chunk, length))
                stored += length
        if stored:
            self._hasher.update(tar_writer.padding(stored))
        self._add(entry)

    def _fresh(self, entry: Entry, source: LayerItem) -> None:
        """Take a file whose content is read now."""
        assert source.open is not None
        if source.holes:
            source = source._replace(holes=_whole_blocks(source.holes, entry.size))
        if entry.size <= self._whole_max and not source.holes:
            content = source.read_whole() if source.read_whole else _read_small(entry, source)
            self._small(entry, content)
            return
        regions = _regions(source)
        if source.holes:
            self._hasher.update(tar_writer.sparse_member_header(entry, regions))
        else:
            self._hasher.update(tar_writer.member_header(entry))
        assert source.open is not None
        with source.open() as file:
            extents = self._content(entry, file, regions)
            if isinstance(file, SourceFile):
                file.verify()
            elif not source.holes and file.read(1):
                raise SourceChangedError(entry.path, "it grew")
        self._hasher.update(tar_writer.padding(sum(length for _, length in regions)))
        self._add(with_extents(entry, extents))

    def _small(self, entry: Entry, content: bytes) -> None:
        """Take a file of one chunk: most files of a root file system are like this."""
        size = len(content)
        header = tar_writer.member_header(entry)
        self._hasher.update(header, content, tar_writer.padding(size))
        self._told(size)
        like = partial(self._similar.find, entry.path)
        extents = ((size, self._session.put_chunk(content, like=like)),)
        self._add(with_extents(entry, extents))

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
            self._take_bytes(piece)
            return piece

        like = partial(self._similar.find, entry.path)
        return self._session.put_stream(read, length, like=like)

    def _take_bytes(self, piece: bytes | memoryview) -> None:
        self._hasher.update(piece)
        self._told(len(piece))

    def _told(self, size: int) -> None:
        self._untold_bytes += size
        if self._untold_bytes >= _TOLD_BYTES:
            self._progress.advance(self._untold_bytes)
            self._untold_bytes = 0


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
