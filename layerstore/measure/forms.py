"""Ways to keep images that only their whole content tells: compressed layers, fixed blocks.

Every layer of a selection is read once for each; that takes a minute of processor time for
each 1.5 GB or so of layers, nearly all of it zlib's, on all processors. What layers take when
compressed is kept in the store, so that only those that came since are compressed the next time.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.formats.origins import NO_ORIGINS
from layerstore.image.trees.export_layer import layer_tar
from layerstore.measure.gzip_sizes import recall_gzip_sizes, remember_gzip_sizes
from layerstore.measure.host_model import BLOCK_BYTES
from layerstore.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from layerstore.digest import DiffId
    from layerstore.formats.tree import Entry
    from layerstore.measure.contents import Content
    from layerstore.measure.survey import Survey
    from layerstore.progress import Progress
    from layerstore.store.store import Store

GZIP_LEVEL = 6
"""What docker and most builders take: gzip's own default."""

_GZIP_WINDOW_BITS = 31
_BATCH_BYTES = 1 << 20
_DIGEST_BYTES = 12
"""Enough to tell 2**40 blocks apart but for one chance in 2**16."""


class Forms(NamedTuple):
    """What each image of a selection adds in forms that are not the store's.

    Attributes:
        compressed: Bytes of compressed layers that were new with it.
        blocks: Bytes of blocks of files that were new with it.
        layer_sizes: Bytes of each layer when compressed.
    """

    compressed: list[int]
    blocks: list[int]
    layer_sizes: dict[DiffId, int]


def take_forms(store: Store, survey: Survey, progress: Progress | None = None) -> Forms:
    """Read all content of a selection and count it in other forms.

    Args:
        store: Of the survey.
        survey: The selection.
        progress: Told bytes of layers.

    Raises:
        IntegrityError: Content is damaged or missing.
    """
    progress = progress or Silent()
    sizes = compressed_layers(store, survey, progress)
    compressed = [0] * len(survey.chosen)
    for rank, diff_id in survey.new_layers():
        compressed[rank] += sizes[diff_id]
    return Forms(compressed, _fixed_blocks(store, survey, progress), sizes)


def compressed_layers(store: Store, survey: Survey, progress: Progress) -> dict[DiffId, int]:
    """Return what each layer takes in a registry.

    That of the bytes under which it came, where the store knows them; else what gzip makes
    of its tar. Of several the smallest.
    """
    sizes: dict[DiffId, int] = {}
    for image in survey.chosen:
        origins = survey.inventory.origins.get(image.image_id, NO_ORIGINS)
        for each in origins.encodings.values():
            sizes[each.diff_id] = min(each.size, sizes.get(each.diff_id, each.size))
    wanted = [diff_id for _, diff_id in survey.new_layers()]
    sizes = {**recall_gzip_sizes(store, GZIP_LEVEL), **sizes}
    todo = [diff_id for diff_id in wanted if diff_id not in sizes]
    sizes.update(_compressed(store, todo, progress))
    return {diff_id: sizes[diff_id] for diff_id in wanted}


def _compressed(store: Store, layers: Iterable[DiffId], progress: Progress) -> dict[DiffId, int]:
    """Return what gzip makes of layers, and remember it, also of those before an interruption."""
    records = [(diff_id, store.layer(diff_id)) for diff_id in layers]
    # The largest first: at the end no processor waits long for what another one still has.
    records.sort(key=lambda each: -each[1].tar_size)
    made: dict[DiffId, int] = {}
    if not records:
        return made
    progress.start("compressing layers", sum(record.tar_size for _, record in records))
    try:
        tars = ((diff_id, layer_tar(store, record)) for diff_id, record in records)
        for diff_id, size in _gzip_sizes(tars, progress):
            made[diff_id] = size  # noqa: PERF403 -- what is made stays when it is interrupted
    finally:
        remember_gzip_sizes(store, GZIP_LEVEL, made)
    progress.finish()
    return made


class _Stream:
    """A layer that is being compressed: its tar is read here, zlib works in a thread."""

    def __init__(self, diff_id: DiffId, pieces: Iterable[bytes]) -> None:
        self.diff_id = diff_id
        self.size = 0
        self._pieces = iter(pieces)
        self._coder = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
        self._coded: Future[int] | None = None

    def go_on(self, workers: ThreadPoolExecutor, progress: Progress) -> bool:
        """Read some more, when what was read before is compressed; return whether there was any."""
        batch = bytearray()
        for piece in self._pieces:
            batch += piece
            if len(batch) >= _BATCH_BYTES:
                break
        if self._coded is not None:
            self.size += self._coded.result()
        progress.advance(len(batch))
        if not batch:
            self.size += len(self._coder.flush())
            return False
        self._coded = workers.submit(lambda: len(self._coder.compress(batch)))
        return True


def _gzip_sizes(
    tars: Iterable[tuple[DiffId, Iterable[bytes]]], progress: Progress
) -> Iterator[tuple[DiffId, int]]:
    """Yield what gzip makes of each tar, as many at once as there are processors.

    This thread alone reads, since the catalog is one thread's.
    """
    count = len(os.sched_getaffinity(0))
    rest = iter(tars)
    streams: deque[_Stream] = deque()
    with ThreadPoolExecutor(count, "layerstore-gzip") as workers:
        while True:
            while len(streams) < count and (found := next(rest, None)) is not None:
                streams.append(_Stream(*found))
            if not streams:
                return
            stream = streams.popleft()
            if stream.go_on(workers, progress):
                streams.append(stream)
            else:
                yield stream.diff_id, stream.size


def _fixed_blocks(store: Store, survey: Survey, progress: Progress) -> list[int]:
    """Return the bytes of distinct blocks of files that each image adds.

    What a disk that keeps equal blocks once would hold: files begin at blocks and the last
    is filled up with zeros; blocks of zeros take nothing.
    """
    layers = list(survey.new_layers())
    total = sum(survey.layers.content(diff_id).logical_size for _, diff_id in layers)
    progress.start("comparing blocks", total)
    added = [0] * len(survey.chosen)
    contents: set[Content] = set()
    blocks = {_name(bytes(BLOCK_BYTES))}
    for rank, diff_id in layers:
        for entry in survey.layers.changeset(diff_id).entries:
            extents = entry.extents
            if not extents:
                continue
            progress.advance(entry.size)
            key = extents[0][1] if len(extents) == 1 and extents[0][1] is not None else extents
            if key not in contents:
                contents.add(key)
                before = len(blocks)
                blocks.update(map(_name, _blocks(store, entry)))
                added[rank] += (len(blocks) - before) * BLOCK_BYTES
    progress.finish()
    return added


def _name(block: bytes) -> bytes:
    return blake3(block).digest(_DIGEST_BYTES)


def _blocks(store: Store, entry: Entry) -> Iterator[bytes]:
    """Yield the blocks of a file that hold data, each whole; whole blocks of holes are left out."""
    rest = b""
    for length, chunk_id in entry.extents:
        if chunk_id is None:
            head = min(length, -len(rest) % BLOCK_BYTES) if rest else 0
            rest += bytes(head)
            if len(rest) == BLOCK_BYTES:
                yield rest
                rest = b""
            if not rest:
                rest = bytes((length - head) % BLOCK_BYTES)
            continue
        data = rest + store.read_chunk(chunk_id)
        whole = len(data) - len(data) % BLOCK_BYTES
        for at in range(0, whole, BLOCK_BYTES):
            yield data[at : at + BLOCK_BYTES]
        rest = data[whole:]
    if rest:
        yield rest + bytes(BLOCK_BYTES - len(rest))
