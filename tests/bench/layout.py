"""Layout by measurement: what cut, grouping, order and level cost, simulated on real trees.

    python -m tests.bench.layout CACHE [CORPUS] [--scheme TEXT] [--sample N]
                                 [--json FILE]

Simulates how a corpus of ``tests.bench.corpora`` would lie in a store, tree after tree,
every content once, and prints for each scheme the bytes of frames and of what finds them.
Frames are made with the store's own codec; an entry of the index is counted with
``CHUNK_INDEX_BYTES``, a block's with ``BLOCK_INDEX_BYTES``. Trees (paths, owners, times) are
the same for every scheme and left out. ``--sample N`` compresses every Nth block only and
scales, for the high levels. What differences against older versions bring is not simulated
here but measured in a store: ``tests.bench.ratio``.

Scheme names read ``CUT / GROUPING / ORDER / LEVEL``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from layerstore.chunking.cutter import CutParameters
from layerstore.formats.pack import BLOCK_MAX_BYTES
from layerstore.image.layers.similar import path_pattern
from layerstore.store.packs.codec import compress_block, compress_difference
from tests.bench.corpora import CORPORA, make_corpus
from tests.bench.harness import environment, grid, megabytes, say
from tests.bench.result import Result
from tests.support.cuts import cut_lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

KIB = 1024
CHUNK_INDEX_BYTES = 36 + 57
"""A chunk's entry in a pack's footer and its row in the catalog, as measured in a store."""
BLOCK_INDEX_BYTES = 28 + 28


class Content(NamedTuple):
    """A distinct content, where it was met first."""

    tree: int
    path: bytes
    host: bytes
    size: int

    def read(self) -> memoryview:
        with open(self.host, "rb", buffering=0) as file:
            return memoryview(file.read())


class Corpus(NamedTuple):
    """What trees hold; ``logical`` counts every tree's files, hard links once."""

    contents: list[Content]
    logical: int
    files: int


def read_corpus(trees: Sequence[Path]) -> Corpus:
    """Read every file once and return the distinct contents in order of arrival."""
    seen: set[bytes] = set()
    contents = []
    logical = files = 0
    for number, tree in enumerate(trees):
        for content in _files(number, os.fsencode(tree)):
            files += 1
            logical += content.size
            digest = blake3(content.read()).digest()
            if content.size and digest not in seen:
                seen.add(digest)
                contents.append(content)
    return Corpus(contents, logical, files)


def _files(number: int, tree: bytes) -> list[Content]:
    """Return the regular files of a tree in path order, of hard links one."""
    found = []
    inodes: set[int] = set()
    for host, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(host, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode) and info.st_ino not in inodes:
                inodes.add(info.st_ino)
                found.append(Content(number, os.path.relpath(path, tree), path, info.st_size))
    return sorted(found, key=lambda content: content.path.split(b"/"))


@dataclass(frozen=True)
class Scheme:
    """How contents lie.

    Attributes:
        cut: FastCDC's average in KiB (minimum a quarter, maximum four times, at most 1 MiB);
            None for pieces of a block's size.
        whole: KiB up to which content stays one chunk.
        block: KiB of a block.
        grouping: ``alone``: a piece of longer content is a block of its own; ``one``: all
            share blocks; ``two``: whole contents and pieces share blocks with their own.
        order: ``path``: as they arrive; ``name``, ``extension``, ``size``: sorted so within a
            tree; ``all``: by extension and name over all trees, as optimize does.
        neighbours: Blocks of a group of eight before this one that are its dictionary at most.
    """

    cut: int | None = 64
    whole: int = 256
    block: int = 1024
    grouping: str = "two"
    order: str = "path"
    level: int = 3
    neighbours: int = 0

    def __str__(self) -> str:
        cut = f"cdc {self.cut}K over {self.whole}K" if self.cut else "no cdc"
        prefix = f" + {self.neighbours} before" if self.neighbours else ""
        return f"{cut} / {self.grouping} {self.block}K / {self.order} / {self.level}{prefix}"

    @property
    def parameters(self) -> CutParameters | None:
        if self.cut is None:
            return None
        average = self.cut * KIB
        return CutParameters(
            self.whole * KIB, average // 4, average, min(average * 4, BLOCK_MAX_BYTES), 2
        )


SCHEMES = (
    Scheme(cut=256, grouping="alone"),
    Scheme(cut=None, grouping="one"),
    Scheme(cut=None, grouping="one", block=256),
    Scheme(cut=256, grouping="one"),
    Scheme(cut=256),
    Scheme(cut=256, whole=1024),
    Scheme(cut=128, whole=128),
    Scheme(cut=64, whole=64),
    Scheme(cut=64, grouping="one"),
    Scheme(),
    Scheme(cut=16, whole=64),
    Scheme(cut=16),
    Scheme(block=512),
    Scheme(block=256),
    Scheme(order="extension"),
    Scheme(order="name"),
    Scheme(order="size"),
    Scheme(order="all"),
    Scheme(level=6),
    Scheme(level=9),
    Scheme(order="all", level=9),
    Scheme(order="all", level=9, neighbours=1),
    Scheme(order="all", level=9, neighbours=2),
)
SLOW_SCHEMES = (
    Scheme(level=19),
    Scheme(order="all", level=19),
    Scheme(order="all", level=19, neighbours=1),
)
"""Only with ``--slow``: about three CPU minutes a gigabyte each."""


def _extension(path: bytes) -> bytes:
    return os.path.splitext(os.path.basename(path))[1]


def _pattern(path: bytes) -> bytes:
    return path_pattern(os.path.basename(path))


_WITHIN_TREE: dict[str, Callable[[Content], object]] = {
    "path": lambda content: content.path.split(b"/"),
    "name": lambda content: (os.path.basename(content.path), content.path),
    "extension": lambda content: (_extension(content.path), content.path),
    "size": lambda content: content.size,
}


def ordered(contents: Iterable[Content], order: str) -> Iterator[list[Content]]:
    """Yield what is stored together, in its order: a tree's new contents, or all at once."""
    if order == "all":
        yield sorted(
            contents,
            key=lambda one: (_extension(one.path), _pattern(one.path), one.path, one.tree),
        )
        return
    for _, group in itertools.groupby(contents, key=lambda content: content.tree):
        yield sorted(group, key=_WITHIN_TREE[order])  # type: ignore[arg-type]


Block = list[memoryview]


def blocks_of(contents: Iterable[Content], scheme: Scheme) -> Iterator[Block]:
    """Yield the blocks of a scheme, each as its chunks."""
    seen: set[bytes] = set()
    limit = scheme.block * KIB
    for together in ordered(contents, scheme.order):
        open_blocks: dict[bool, Block] = {False: [], True: []}
        for content in together:
            pieces = list(_pieces(content.read(), scheme.parameters, limit))
            is_cut = len(pieces) > 1
            for piece in _unseen(pieces, seen) if is_cut and scheme.cut else pieces:
                if is_cut and scheme.grouping == "alone":
                    yield [piece]
                    continue
                stream = is_cut and scheme.grouping == "two"
                if sum(map(len, open_blocks[stream])) + len(piece) > limit:
                    yield open_blocks[stream]
                    open_blocks[stream] = []
                open_blocks[stream].append(piece)
        yield from filter(None, open_blocks.values())


def _pieces(data: memoryview, cuts: CutParameters | None, limit: int) -> Iterator[memoryview]:
    start = 0
    for length in [len(data)] if cuts is None else cut_lengths(data, cuts):
        # A chunk that is longer than a block is cut at the block's size.
        for offset in range(start, start + length, limit):
            yield data[offset : min(offset + limit, start + length)]
        start += length


def _unseen(pieces: Iterable[memoryview], seen: set[bytes]) -> Iterator[memoryview]:
    for piece in pieces:
        digest = blake3(piece).digest()
        if digest not in seen:
            seen.add(digest)
            yield piece


class Outcome(NamedTuple):
    """What a scheme came to, in bytes; ``frames`` is an estimate when blocks were sampled."""

    scheme: Scheme
    raw: int
    frames: float
    chunks: int
    blocks: int
    cpu_seconds: float

    @property
    def total(self) -> float:
        return self.frames + self.chunks * CHUNK_INDEX_BYTES + self.blocks * BLOCK_INDEX_BYTES


GROUP_BLOCKS = 8
"""Blocks of which the first may be the dictionary of the others."""


def simulate(contents: Sequence[Content], scheme: Scheme, sample: int) -> Outcome:
    """Compress a corpus as a scheme says."""
    raw = chunks = blocks = frames = compressed = 0
    seconds = 0.0
    earlier: list[bytes] = []
    for number, block in enumerate(blocks_of(contents, scheme)):
        size = sum(map(len, block))
        raw += size
        chunks += len(block)
        blocks += 1
        if number % GROUP_BLOCKS == 0:
            earlier = []
        plain = b"".join(block)
        if number // GROUP_BLOCKS % sample == 0:
            begun = time.thread_time()
            frames += len(_compress(plain, b"".join(earlier), scheme.level))
            seconds += time.thread_time() - begun
            compressed += size
        if len(earlier) < scheme.neighbours:
            earlier.append(plain)
    scale = raw / compressed if compressed else 1
    return Outcome(scheme, raw, frames * scale, chunks, blocks, seconds * scale)


def _compress(plain: bytes, prefix: bytes, level: int) -> bytes:
    if prefix:
        return compress_difference(plain, prefix, level=level)
    return compress_block(plain, verify=False, level=level)


def report(corpus: Corpus, outcomes: Iterable[Outcome]) -> str:
    """Return the table."""
    rows = [
        (
            str(one.scheme),
            megabytes(one.raw),
            megabytes(one.frames),
            f"{one.chunks:,}",
            f"{one.blocks:,}",
            megabytes(one.total),
            f"{corpus.logical / one.total:.2f}",
            f"{one.cpu_seconds:.1f}",
        )
        for one in outcomes
    ]
    head = ("scheme", "unique MB", "frames MB", "chunks", "blocks", "total MB", "1/x", "CPU s")
    return grid(head, rows)


def result_of(name: str, corpus: Corpus, outcomes: Iterable[Outcome]) -> Result:
    """Return the outcome of each scheme."""
    result = Result(notes=[f"{corpus.files:,} files, {megabytes(corpus.logical)} MB."])
    for one in outcomes:
        result.add(name, str(one.scheme), "total", "B", [one.total])
        result.add(name, str(one.scheme), "ratio", "x", [corpus.logical / one.total])
        result.add(name, str(one.scheme), "chunks", "", [one.chunks])
        result.add(name, str(one.scheme), "CPU", "s", [one.cpu_seconds])
    return result


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.layout", description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the corpora are, or are made")
    parser.add_argument("corpus", nargs="?", default="related", choices=list(CORPORA))
    parser.add_argument("--scheme", action="append", help="schemes whose name holds this text")
    parser.add_argument("--slow", action="store_true", help="level 19 too")
    parser.add_argument("--sample", type=int, default=1, help="compress one group in N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the outcomes there")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    trees = make_corpus(given.cache.absolute(), given.corpus)
    corpus = read_corpus(trees)
    outcomes = []
    for scheme in SCHEMES + (SLOW_SCHEMES if given.slow else ()):
        if given.scheme and not any(text in str(scheme) for text in given.scheme):
            continue
        outcomes.append(simulate(corpus.contents, scheme, given.sample))
        say(f"{scheme}: {megabytes(outcomes[-1].total)} MB")
    print(report(corpus, outcomes))
    if given.json:
        result_of(given.corpus, corpus, outcomes).write(given.json)
    print(
        f"{given.corpus}: {len(trees)} trees, {corpus.files:,} files, "
        f"{megabytes(corpus.logical)} MB; {len(corpus.contents):,} distinct; "
        + (f"one group of blocks in {given.sample} was compressed; " if given.sample > 1 else "")
        + f"{environment()['kernel']}, {environment()['at']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
