"""Deflate as Go makes it: judged by digests of what Go 1.19 made of the same content.

Each was had by `compress/gzip` on Debian 12, less the 10 bytes of header and 8 of trailer.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.errors import UnsafeContentError
from layerstore.formats.goflate._compiled import is_ours
from layerstore.formats.goflate.encoder import Deflate
from tests.support.store import noise

if TYPE_CHECKING:
    from collections.abc import Iterator

GO_MADE = {
    1: "55413208eb84d9cb02a8dab806353fa700ce0970f3300b84f9a756af34a93ef0",
    2: "9a817ad737745fa5147c842e2085bda01bd4dc1a919e09985e5601c34eadc16b",
    3: "e23a0e565bbeb0afcc43e27c5a9ae6d1bf326de209a8610272bab3404a7aace0",
    4: "24e5588846090f9c1fd7c4d0a73dc2eaae858057a9c10ee2a568e6a4d15cdad2",
    5: "33eb3bf4fff2455eeb2efcfac4585b2e163a845d91d3f7a06c129f5107003784",
    6: "7c3264d3b095b724a8ea79ebe4373fc2c60f22631c6112245558da98d7c064b7",
    7: "44d1c2bd7c9e85862f92cdede25ba900aadcd5649c865808d6b98b78bdc690df",
    8: "44d1c2bd7c9e85862f92cdede25ba900aadcd5649c865808d6b98b78bdc690df",
    9: "44d1c2bd7c9e85862f92cdede25ba900aadcd5649c865808d6b98b78bdc690df",
}
GO_MADE_OF_SIZES = {
    1: "4800266b50db40195d17a46737f83ea26747ee49cbef852f3993e90d2dbbb27a",
    2: "a68a4827e1ac011bef3e2298bf1d49c0e591acba30d7228e034938b6eb4b1548",
    6: "d3da59a09c1dcdd014f18f436823d6f46bd0d1f43077703b433c509abe703889",
    9: "4fbfc8fe9066ff8c24afeb8426eee4d7c418b3ac07c84817f79d217a04ceb48b",
}
SIZES = (0, 1, 3, 4, 16, 17, 127, 128, 262, 65273, 65275, 65534, 65535, 65536, 131_070)


def _content() -> bytes:
    """Return words, noise, runs and periods: every kind of block, and matches from afar."""
    blocks = [hashlib.sha256(b"%d" % number).digest() for number in range(9000)]
    words = [block.hex()[: 3 + block[0] % 9].encode() for block in blocks[:300]]
    picks = b"".join(blocks)
    text = b" ".join(words[one * two % 300] for one, two in pairwise(picks[:90_000]))
    raw = picks[100_000:250_000]
    return b"".join(
        [text[:400_000], raw, bytes(70_000), b"abcdefgh" * 9000, raw[:40_000], text, raw[:70_000]]
    )


CONTENT = _content()


def deflate(content: bytes, level: int, piece_bytes: int = 1 << 20) -> bytes:
    coder = Deflate(level)
    pieces = [
        coder.compress(content[at : at + piece_bytes]) for at in range(0, len(content), piece_bytes)
    ]
    return b"".join([*pieces, coder.flush()])


def digest(stream: bytes) -> str:
    return hashlib.sha256(stream).hexdigest()


@pytest.mark.parametrize("level", GO_MADE)
def test_every_level_makes_what_go_makes(level: int) -> None:
    made = deflate(CONTENT, level)
    assert zlib.decompress(made, -15) == CONTENT
    assert digest(made) == GO_MADE[level]


@pytest.mark.parametrize("level", GO_MADE_OF_SIZES)
def test_ends_are_gos_at_every_size(level: int) -> None:
    """Around the sizes where a window, a block or a lookahead ends."""
    made = [deflate(CONTENT[250_000 - size // 2 :][:size], level) for size in SIZES]
    assert digest(b"".join(made)) == GO_MADE_OF_SIZES[level]


@pytest.mark.parametrize("level", [1, 3, 6])
@pytest.mark.parametrize("piece_bytes", [777, 65_535, 1 << 22])
def test_pieces_do_not_matter(level: int, piece_bytes: int) -> None:
    assert digest(deflate(CONTENT, level, piece_bytes)) == GO_MADE[level]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"abcd" * 9, b"\0" * 300, noise(1, 500)])), st.integers(1, 9)
)
def test_anything_comes_back(pieces: list[bytes], level: int) -> None:
    content = b"".join(pieces)
    assert zlib.decompress(deflate(content, level), -15) == content


def test_content_that_was_made_to_be_slow_is_given_up() -> None:
    drawn = random.Random(1)
    content = bytes(drawn.choices(b"ab", k=800_000))
    assert zlib.decompress(deflate(content, 6), -15) == content
    with pytest.raises(UnsafeContentError, match="comparisons for each byte"):
        deflate(content, 9)


PROGRAM = """
import numpy
from layerstore.formats.goflate import blocks
state, out = numpy.zeros(8, numpy.int64), numpy.zeros(8, numpy.uint8)
blocks.write_stored_header(9, 1, state, out)
print(out.tobytes().hex())
print(sum(blocks.write_stored_header.stats.cache_hits.values()))
"""
"""One of the functions that are remembered, and one that it calls: all would take long."""


def in_a_process(directory: Path, *, cwd: Path | None = None) -> tuple[bytes, int]:
    """Return what a process of its own made, and whether it found something compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(directory)}
    command = [sys.executable, "-c", PROGRAM]
    made, hits = subprocess.check_output(command, env=environment, cwd=cwd).split()
    return made, int(hits)


def remembered(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*.nb[ic]") if path.stat().st_size]


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory that is safe: tests may be run where a group can write."""
    with TemporaryDirectory() as made:
        yield Path(made)


def test_what_numba_remembers_may_be_damaged(private: Path) -> None:
    """A power cut may leave files that have their names and not their bytes."""
    whole = in_a_process(private)[0]
    assert in_a_process(private) == (whole, 1)
    kept = remembered(private)
    assert kept
    for path in kept:
        os.truncate(path, path.stat().st_size // 2 * (path.suffix == ".nbc"))
    assert in_a_process(private) == (whole, 0)
    assert in_a_process(private) == (whole, 1)


FAILING = f"""
import builtins, errno
real = builtins.open
def fail(path, mode="r", *rest, **more):
    if "/goflate-" in str(path):
        raise OSError({{"rb": errno.EIO, "wb": errno.ENOSPC}}[mode], "not here", path)
    return real(path, mode, *rest, **more)
builtins.open = fail
{PROGRAM}
"""


def test_a_disk_that_fails_under_what_numba_remembers_costs_no_result(private: Path) -> None:
    """It was sound when it was looked for."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(private)}
    made = subprocess.check_output([sys.executable, "-c", FAILING], env=environment)
    assert made.split() == [b"010900f6ff000000", b"0"]
    assert not remembered(private)


@pytest.mark.parametrize(
    ("outer", "inner"), [(0o700, 0o770), (0o700, 0o707), (0o770, 0o700), (0o707, 0o700)]
)
def test_nothing_is_loaded_from_where_others_may_write(
    private: Path, outer: int, inner: int
) -> None:
    """What numba remembers is executed as it is read."""
    directory = private / "cache"
    directory.mkdir()
    directory.chmod(inner)
    private.chmod(outer)
    assert not is_ours(str(directory))
    directory.chmod(0o700)
    private.chmod(0o700)
    assert is_ours(str(directory))


def test_settings_in_the_working_directory_are_not_obeyed(private: Path, tmp_path: Path) -> None:
    (tmp_path / ".numba_config.yaml").write_text(f"cache_dir: {private}\n")
    with pytest.raises(subprocess.CalledProcessError):
        in_a_process(private, cwd=tmp_path)
    assert not list(private.iterdir())
