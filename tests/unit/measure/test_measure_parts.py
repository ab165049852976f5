"""The small arithmetic of measuring: shares, the model of a host's disk, bars and tables."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.formats.tree import Entry, Kind
from layerstore.linux.removal import remove_tree
from layerstore.measure import df
from layerstore.measure.apportion import share, split
from layerstore.measure.disk import PATH_TOLD_CHARACTERS, walk_sizes
from layerstore.measure.host_model import allocated_size
from layerstore.measure.ledger import Owner
from layerstore.measure.table import (
    Bar,
    BarChart,
    Table,
    block_bar,
    chart_lines,
    columns,
    table_lines,
)
from tests.support.measure import chunk_named

C = chunk_named("c")


@given(st.lists(st.integers(0, 10**7), min_size=1), st.integers(0, 10**9))
def test_shares_of_a_block_add_up_and_stay_within_a_byte_of_their_quota(lengths, stored):
    raw = sum(lengths)
    position, shares = 0, []
    for length in lengths:
        shares.append(share(position, length, raw, stored))
        position += length
    assert sum(shares) == (stored if raw else 0)
    assert all(abs(s * raw - n * stored) < raw for s, n in zip(shares, lengths, strict=True) if raw)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.integers(0, 10**12))
def test_split_is_exact(weights, total):
    assert sum(split(total, weights)) == total


def test_split_among_nobody_is_empty():
    assert split(10, []) == []


def test_the_host_model_counts_blocks_as_du_does():
    def file(*extents):
        return Entry(b"f", Kind.FILE, size=sum(n for n, _ in extents), extents=extents)

    assert allocated_size(file()) == 0
    assert allocated_size(file((1, C))) == 4096
    assert allocated_size(file((4096, C), (1, C))) == 8192
    assert allocated_size(file((1 << 30, None), (1, C))) == 4096
    assert allocated_size(file((100, C), (100, None), (100, C))) == 4096
    assert allocated_size(file((100, C), (8192, None), (100, C))) == 8192
    assert allocated_size(Entry(b"d", Kind.DIR)) == 4096
    assert allocated_size(Entry(b"l", Kind.SYMLINK, target=b"t" * 59)) == 0
    assert allocated_size(Entry(b"l", Kind.SYMLINK, target=b"t" * 60)) == 4096
    assert allocated_size(Entry(b"h", Kind.HARDLINK, target=b"f")) == 0
    assert allocated_size(Entry(b"c", Kind.CHAR)) == 0


def test_the_walk_counts_each_inode_once_and_follows_no_link(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "d").mkdir(parents=True)
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 50_000)
    (root / "d" / "f").write_bytes(b"x" * 5_000)
    os.link(root / "d" / "f", root / "g")
    (root / "l").symlink_to(outside)
    os.mkfifo(root / "p")
    sizes = {size.path: size.apparent_size for size in walk_sizes(root)}
    assert sizes == {"": 0, "d": 0, "g": 5_000, "l": len(str(outside)), "p": 0}


def _nested(directory, depth):
    """Make directories in each other, deeper than a path reaches, with a file in the last."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dir", dir_fd=fd)
        below = os.open("dir", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open("f", "xb", opener=lambda name, flags: os.open(name, flags, dir_fd=fd)) as file:
        file.write(b"x" * 5_000)
    os.close(fd)


@pytest.mark.parametrize("depth", [1_100, 2_500])  # beyond Python's stack; beyond PATH_MAX, too
def test_the_walk_reaches_what_a_container_nests_deeper_than_a_path(tmp_path, depth):
    root = tmp_path / "root"
    (root / "uppers" / "a").mkdir(parents=True)
    (root / "uppers" / "b").write_bytes(b"y" * 7)
    _nested(root / "uppers" / "a", depth)
    try:
        found = list(walk_sizes(root))
    finally:
        remove_tree(str(root))
    assert len(found) == 1 + 2 + 1 + depth + 1
    assert sum(size.apparent_size for size in found) == 5_007
    assert all(len(size.path) <= PATH_TOLD_CHARACTERS for size in found)
    (deepest,) = (size.path for size in found if size.apparent_size == 5_000)
    assert deepest.startswith("uppers/a/dir/dir")


def test_bars_are_exact_to_an_eighth_and_never_hide_a_value():
    assert block_bar(100, 100, 4) == "████"
    assert block_bar(50, 100, 3) == "█▌"
    assert block_bar(1, 10**9, 40) == "▏"
    assert block_bar(0, 100, 4) == ""
    assert block_bar(5, 0, 4) == ""


def test_tables_and_charts_line_up():
    table = Table(
        "sizes",
        columns(["image"], ["bytes"]),
        (("a", "1"), ("long-name", "1000")),
        total=("sum", "1001"),
        notes=("a note",),
    )
    assert table_lines(table) == [
        "sizes",
        "image       bytes",
        "a               1",
        "long-name    1000",
        "─────────────────",
        "sum          1001",
        "a note",
    ]
    chart = BarChart("", (Bar("full", 8, "8B"), Bar("x", 4, "4B")))
    assert chart_lines(chart, 4) == ["full │████ 8B", "   x │██ 4B"]


def test_every_owner_has_one_row_of_df() -> None:
    listed = [owner for _, owners in df._ROWS for owner in owners]
    assert sorted(listed) == sorted(Owner)
