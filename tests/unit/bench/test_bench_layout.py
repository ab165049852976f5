"""The simulator keeps every byte, whatever the scheme, and counts what it says."""

from __future__ import annotations

import random

import pytest

from tests.bench.layout import KIB, Corpus, Scheme, blocks_of, read_corpus, simulate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    chance = random.Random(1)
    shared, long = chance.randbytes(5_000), chance.randbytes(1_200 * KIB)
    place = tmp_path_factory.mktemp("trees")
    trees = {
        "first": {"a.txt": shared, "b.bin": long, "empty": b""},
        "second": {"c.txt": shared, "b.bin": long + b"more", "d": chance.randbytes(300 * KIB)},
    }
    for name, files in trees.items():
        (place / name).mkdir()
        for file, content in files.items():
            (place / name / file).write_bytes(content)
    return read_corpus([place / name for name in trees])


def test_contents_are_read_once(corpus: Corpus) -> None:
    assert corpus.files == 6
    assert len(corpus.contents) == 4
    assert corpus.logical == 2 * 5_000 + 2 * 1_200 * KIB + 4 + 300 * KIB


@pytest.mark.parametrize("cut", [None, 16, 256])
@pytest.mark.parametrize("grouping", ["alone", "one", "two"])
@pytest.mark.parametrize("order", ["path", "extension", "size", "all"])
def test_blocks_hold_every_content_within_bounds(
    corpus: Corpus, cut: int | None, grouping: str, order: str
) -> None:
    scheme = Scheme(cut=cut, grouping=grouping, order=order, block=512)
    blocks = list(blocks_of(corpus.contents, scheme))
    assert all(0 < sum(map(len, block)) <= 512 * KIB for block in blocks)
    stored = sum(len(piece) for block in blocks for piece in block)
    distinct = sum(content.size for content in corpus.contents)
    # Cutting finds what the two long files share; without it every content is there in full.
    assert stored <= distinct
    assert (stored == distinct) is (cut is None)


def test_a_sample_is_scaled_to_the_whole(corpus: Corpus) -> None:
    whole = simulate(corpus.contents, Scheme(block=64), 1)
    part = simulate(corpus.contents, Scheme(block=64), 3)
    assert part.raw == whole.raw
    assert part.chunks == whole.chunks
    assert 0.9 < part.frames / whole.frames < 1.1


def test_neighbours_are_a_dictionary(corpus: Corpus) -> None:
    # Without cutting, the second long file repeats the first a few blocks later.
    scheme = Scheme(cut=None, grouping="one", block=1024, order="all", level=9)
    alone = simulate(corpus.contents, scheme, 1)
    together = simulate(
        corpus.contents, Scheme(cut=None, grouping="one", order="all", level=9, neighbours=2), 1
    )
    assert together.frames < alone.frames * 0.8
