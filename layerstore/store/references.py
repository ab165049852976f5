"""What a layer needs: every chunk that its record, its tree and its recipe name.

The only place where the store looks inside a layer; gc, check and publishing
agree on what is referenced because they all ask here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tree import decode_changeset, decode_content

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from layerstore.digest import ChunkId
    from layerstore.formats.tree import Changeset
    from layerstore.store.records import LayerRecord, Refs


def layer_chunks(
    record: LayerRecord, read_refs: Callable[[Refs], bytes], *, checked: bool = True
) -> dict[ChunkId, int]:
    """Return every chunk a layer needs, with its length.

    A recipe refers to file content only through the tree, so its own chunks
    (counted here) and the tree's are all there is.

    Args:
        record: The layer.
        read_refs: Returns the bytes of references, verified.
        checked: Whether the tree must keep the rules of its format. Who only keeps or counts what
            it refers to need not ask: publishing did, and check does.

    Raises:
        IntegrityError: The tree is damaged.
        ChunkNotFoundError: A part of the tree is missing.
    """
    needed = {chunk_id: length for length, chunk_id in record.tree + record.recipe}
    if record.tree:
        tree = read_refs(record.tree)
        needed.update(tree_chunks(decode_changeset(tree)) if checked else decode_content(tree))
    return needed


def published_chunks(
    record: LayerRecord,
    read_refs: Callable[[Refs], bytes],
    content: Callable[[], Iterator[set[ChunkId]]],
) -> Callable[[], Iterator[set[ChunkId]]]:
    """Return what yields, any number of times, all chunks that a layer about to appear needs.

    Args:
        record: The layer.
        read_refs: Returns the bytes of references, verified: the tree is read once now, piece
            by piece, to know that it can be.
        content: Yields the chunks that the tree names, some at a time.

    Raises:
        IntegrityError: The tree is damaged.
        ChunkNotFoundError: A part of the tree is missing.
    """
    for ref in record.tree:
        read_refs((ref,))
    meta = {chunk_id for _, chunk_id in record.tree + record.recipe}

    def batches() -> Iterator[set[ChunkId]]:
        yield meta
        yield from content()

    return batches


def tree_chunks(changeset: Changeset) -> dict[ChunkId, int]:
    """Return the content chunks of a decoded tree, with their lengths."""
    return {
        chunk_id: length
        for entry in changeset.entries
        for length, chunk_id in entry.extents
        if chunk_id is not None
    }


def paths_with(
    changeset: Changeset, items: Collection[bytes]
) -> Iterator[tuple[bytes, list[ChunkId]]]:
    """Yield the paths of files whose content needs any of ``items``, with those it needs."""
    for entry in changeset.entries:
        found = [chunk_id for _, chunk_id in entry.extents if chunk_id in items]
        if found:
            yield entry.path, [chunk_id for chunk_id in found if chunk_id is not None]
