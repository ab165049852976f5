"""Which images, layers and steps hold a file: by path, by content, by chunk.

Layers are read one after the other along the trie of chains, each once however many images share
it; in memory is one of them, and what was found. A file is *seen* in an image when no later layer
hides it; what is hidden still lies in the layer and travels with the image.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.chunking.cutter import SourceEndedError, cut_stream
from layerstore.digest import ChunkId, blake3_id
from layerstore.errors import InputError
from layerstore.formats.tree import DIR, FILE, HARDLINK, path_key
from layerstore.image.layers.layers import load_changeset
from layerstore.measure.chains import ChainNode, trie_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from re import Pattern
    from typing import BinaryIO

    from layerstore.digest import DiffId, ImageId
    from layerstore.formats.tree import Changeset, Entry, Extent
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_PIECE_BYTES = 1 << 20


class Wanted(Protocol):
    """What is looked for."""

    def entries(self, changeset: Changeset) -> Iterator[Entry]:
        """Yield the entries of a layer that are it, in the order of their paths."""


class ByPath:
    """Entries whose path a pattern matches.

    Args:
        pattern: Of whole paths without a leading slash.
    """

    def __init__(self, pattern: Pattern[bytes]) -> None:
        self._match = pattern.fullmatch

    def entries(self, changeset: Changeset) -> Iterator[Entry]:
        """Yield every kind of entry that matches."""
        match = self._match
        return (entry for entry in changeset.entries if match(entry.path))


class ByContent:
    """Files that have one of some contents, by all their names.

    Args:
        contents: Each as the store has it: its extents.
    """

    def __init__(self, contents: Iterable[tuple[Extent, ...]]) -> None:
        self._contents = frozenset(contents)

    def entries(self, changeset: Changeset) -> Iterator[Entry]:
        """Yield the files, and the hard links of the layer that name them."""
        return _with_links(changeset, lambda entry: entry.extents in self._contents)


class ByChunk:
    """Files whose content needs a chunk."""

    def __init__(self, chunk_id: ChunkId) -> None:
        self._chunk_id = chunk_id

    def entries(self, changeset: Changeset) -> Iterator[Entry]:
        """Yield the files, and the hard links of the layer that name them."""
        return _with_links(
            changeset, lambda entry: any(part == self._chunk_id for _, part in entry.extents)
        )


def _with_links(changeset: Changeset, is_it: Callable[[Entry], bool]) -> Iterator[Entry]:
    """Yield files and their further names in this layer; a name that a later layer adds is not."""
    found = set()
    for entry in changeset.entries:
        if entry.kind is FILE and entry.extents and is_it(entry):
            found.add(entry.path)
            yield entry
        elif entry.kind is HARDLINK and entry.target in found:
            yield entry  # its target sorts before it


class Hit(NamedTuple):
    """Something that was found in a layer.

    Attributes:
        layer: That has it.
        depth: The layer's number in the images, from 1 for the lowest.
        hidden_by: The layer that hides it in these images; None where it is seen.
        hidden_depth: That one's number.
        images: In which it is like this.
    """

    entry: Entry
    layer: DiffId
    depth: int
    hidden_by: DiffId | None
    hidden_depth: int
    images: tuple[ImageId, ...]


class _Candidate(NamedTuple):
    entry: Entry
    node: ChainNode


_Key = tuple["DiffId", int, bytes, "DiffId | None", int]


def find_entries(
    store: Store, images: Sequence[ImageRecord], wanted: Wanted, *, hidden: bool = False
) -> list[Hit]:
    """Look through images; what was found is sorted by path.

    Args:
        store: Of the images.
        images: Where to look.
        wanted: What for.
        hidden: Whether to tell what later layers hide, too.

    Raises:
        IntegrityError: A layer's tree is damaged.
    """
    found: dict[_Key, tuple[Entry, list[ImageId]]] = {}
    known: dict[DiffId, tuple[Entry, ...]] = {}
    pending: list[tuple[ChainNode, tuple[_Candidate, ...]]] = [(trie_of(images), ())]
    while pending:
        node, candidates = pending.pop()
        if node.diff_id is not None:
            candidates = _over(store, node, candidates, wanted, known, found if hidden else None)
        for image in node.ends:
            for entry, owner in candidates:
                _note(found, entry, owner, None, [image.image_id])
        pending.extend((above, candidates) for above in reversed(node.above.values()))
    hits = [
        Hit(entry, layer, depth, by, by_depth, tuple(some))
        for (layer, depth, _, by, by_depth), (entry, some) in found.items()
    ]
    return sorted(hits, key=lambda hit: (path_key(hit.entry.path), hit.depth, hit.layer))


def _over(
    store: Store,
    node: ChainNode,
    candidates: tuple[_Candidate, ...],
    wanted: Wanted,
    known: dict[DiffId, tuple[Entry, ...]],
    hidden: dict[_Key, tuple[Entry, list[ImageId]]] | None,
) -> tuple[_Candidate, ...]:
    """Return what is seen above a layer; note in ``hidden`` what it hides."""
    assert node.diff_id is not None
    own = known.get(node.diff_id)
    if own is None or candidates:
        changeset = load_changeset(store, node.diff_id)
        own = known[node.diff_id] = tuple(wanted.entries(changeset))
        if candidates:
            candidates = tuple(_left(node, candidates, _Hiding(changeset), hidden))
    return (*candidates, *(_Candidate(entry, node) for entry in own))


def _left(
    node: ChainNode,
    candidates: tuple[_Candidate, ...],
    layer: _Hiding,
    hidden: dict[_Key, tuple[Entry, list[ImageId]]] | None,
) -> Iterator[_Candidate]:
    for candidate in candidates:
        if not layer.hides(candidate.entry):
            yield candidate
        elif hidden is not None and candidate.entry.kind is not DIR:
            images = [image.image_id for image in node.images]
            _note(hidden, candidate.entry, candidate.node, node, images)


def _note(
    found: dict[_Key, tuple[Entry, list[ImageId]]],
    entry: Entry,
    owner: ChainNode,
    by: ChainNode | None,
    images: list[ImageId],
) -> None:
    assert owner.diff_id is not None
    by_id, by_depth = (None, 0) if by is None else (by.diff_id, by.depth)
    key = (owner.diff_id, owner.depth, entry.path, by_id, by_depth)
    found.setdefault(key, (entry, []))[1].extend(images)


class _Hiding:
    """What a layer takes from those below."""

    def __init__(self, changeset: Changeset) -> None:
        self._leaves = {entry.path for entry in changeset.entries if entry.kind is not DIR}
        self._directories = {entry.path for entry in changeset.entries if entry.kind is DIR}
        self._gone = frozenset(changeset.whiteouts)
        self._opaque = frozenset(changeset.opaques)

    def hides(self, entry: Entry) -> bool:
        """Return whether an entry of a lower layer is not seen any more, or is another's now."""
        path = entry.path
        if path in self._leaves or path in self._gone or path in self._directories:
            return True
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._opaque or path in self._gone or path in self._leaves:
                return True
        return b"" in self._opaque


def contents_with_digest(
    store: Store,
    images: Sequence[ImageRecord],
    digest: str,
    *,
    size: int | None = None,
    read: Callable[[int, int], None] = lambda _files, _size: None,
) -> list[tuple[Extent, ...]]:
    """Return the contents whose bytes have a SHA-256; each distinct one of the images is read.

    The store knows contents by their chunks, not by SHA-256, so this costs as much as reading all
    of them: a size, where it is known, leaves nearly all of them out.

    Args:
        store: Of the images.
        images: Where to look.
        digest: 64 hexadecimal digits.
        size: Of the content in bytes.
        read: Is told how many contents and bytes will be read, before they are.

    Raises:
        IntegrityError: Something in the store is damaged.
    """
    sizes: dict[tuple[Extent, ...], int] = {}
    for diff_id in {diff_id: None for image in images for diff_id in image.layers}:
        for entry in load_changeset(store, diff_id).entries:
            if entry.kind is FILE and (size is None or entry.size == size):
                sizes[entry.extents] = entry.size
    read(len(sizes), sum(sizes.values()))
    return [extents for extents in _by_place(store, sizes) if _sha256(store, extents) == digest]


def _by_place(store: Store, contents: Iterable[tuple[Extent, ...]]) -> list[tuple[Extent, ...]]:
    """Return contents as they lie in packs, so that a block is decoded once for all in it."""
    firsts = {
        extents: next((chunk for _, chunk in extents if chunk is not None), None)
        for extents in contents
    }
    places = store.catalog.places(chunk for chunk in firsts.values() if chunk is not None)

    def place(extents: tuple[Extent, ...]) -> tuple[int, int, int]:
        chunk = firsts[extents]
        at = places.get(chunk) if chunk is not None else None
        return (at.pack, at.block, at.offset) if at is not None else (-1, 0, 0)

    return sorted(firsts, key=place)


def _sha256(store: Store, extents: tuple[Extent, ...]) -> str:
    digest = hashlib.sha256()
    for length, chunk in extents:
        if chunk is not None:
            digest.update(store.read_refs(((length, chunk),)))
            continue
        for offset in range(0, length, _PIECE_BYTES):
            digest.update(bytes(min(_PIECE_BYTES, length - offset)))
    return digest.hexdigest()


def content_like(store: Store, stream: BinaryIO, size: int) -> tuple[Extent, ...]:
    """Return the content that a file would be stored as; nothing of the store is read.

    Args:
        store: Whose rules files are cut by.
        stream: The file.
        size: Of it in bytes.

    Raises:
        InputError: It ended early.
    """
    try:
        return tuple(
            (len(piece), ChunkId(blake3_id(piece)))
            for piece in cut_stream(stream.read, size, store.config.cutting)
        )
    except SourceEndedError as err:
        raise InputError("the file shrank while it was read") from err
