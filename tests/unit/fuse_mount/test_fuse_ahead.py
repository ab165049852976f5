"""Decoding ahead changes when chunks are read, never what is read."""

from __future__ import annotations

import threading

import pytest

from fuse_mount import ahead
from fuse_mount.ahead import AheadReader, Followed
from layerstore.digest import ChunkId
from layerstore.errors import IntegrityError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.stack import stack
from layerstore.vfs.view import ImageView


def name(number: int) -> ChunkId:
    return ChunkId(number.to_bytes(32, "big"))


class Reader:
    """Counts reads; holds those of ``held`` back until it is let go; fails for ``bad``."""

    def __init__(self) -> None:
        self.read: list[ChunkId] = []
        self.threads: set[int] = set()
        self.held: set[ChunkId] = set()
        self.bad: set[ChunkId] = set()
        self.begun = threading.Event()
        self.go = threading.Event()

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        self.read.append(chunk_id)
        self.threads.add(threading.get_ident())
        if chunk_id in self.held:
            self.begun.set()
            assert self.go.wait(20)
        if chunk_id in self.bad:
            raise IntegrityError("damaged")
        return bytes(chunk_id) * 10


def test_what_is_under_way_is_waited_for_and_read_once() -> None:
    reader = Reader()
    reader.held = {name(1)}
    ahead_reader = AheadReader(reader)
    ahead_reader.expect([name(1)])
    assert reader.begun.wait(20)
    threading.Timer(0, reader.go.set).start()
    assert ahead_reader.read_chunk(name(1)) == bytes(name(1)) * 10
    assert reader.read == [name(1)]
    assert threading.get_ident() not in reader.threads
    # It is given once: who asks again reads it again, or has kept it.
    assert ahead_reader.read_chunk(name(1)) == bytes(name(1)) * 10
    assert reader.read == [name(1)] * 2


def test_what_has_not_begun_is_read_at_once() -> None:
    reader = Reader()
    reader.held = {name(1)}
    ahead_reader = AheadReader(reader)
    ahead_reader.expect([name(1), name(2)])
    assert reader.begun.wait(20)
    assert ahead_reader.read_chunk(name(2)) == bytes(name(2)) * 10  # the thread still holds 1
    reader.go.set()
    assert ahead_reader.read_chunk(name(1)) == bytes(name(1)) * 10
    assert reader.read == [name(1), name(2)]


def test_an_error_is_told_to_whoever_asks_and_ends_nothing() -> None:
    reader = Reader()
    reader.held = reader.bad = {name(1)}
    ahead_reader = AheadReader(reader)
    ahead_reader.expect([name(1), name(2)])
    assert reader.begun.wait(20)
    reader.go.set()
    with pytest.raises(IntegrityError):
        ahead_reader.read_chunk(name(1))
    assert ahead_reader.read_chunk(name(2)) == bytes(name(2)) * 10


def test_what_nobody_asks_for_is_bounded() -> None:
    reader = Reader()
    ahead_reader = AheadReader(reader)
    for first in range(0, 5 * ahead.EXPECTED_MAX, 10):
        ahead_reader.expect([*map(name, range(first, first + 10))])
        assert len(ahead_reader._expected) <= ahead.EXPECTED_MAX


def test_files_read_in_order_are_noticed() -> None:
    followed = Followed()
    assert followed.is_sequential(1, 0, 100)
    assert followed.is_sequential(1, 100, 50)
    assert not followed.is_sequential(1, 500, 50)
    assert followed.is_sequential(1, 550, 50)
    assert not followed.is_sequential(2, 100, 50)
    for node in range(10, 10 + ahead.FILES_MAX):
        followed.is_sequential(node, 0, 1)
    assert not followed.is_sequential(1, 600, 50)  # forgotten


def test_the_chunks_of_a_piece() -> None:
    extents = ((10, name(1)), (5, None), (10, name(2)), (10, name(3)))
    view = ImageView(
        Reader(), stack([Changeset((Entry(b"f", Kind.FILE, 0o644, size=35, extents=extents),))])
    )
    node = view.find(b"f")
    wanted = [1] * 10 + [0] * 5 + [2] * 10 + [3] * 10
    for start in range(37):
        for size in range(40):
            expected = [name(n) for n in sorted({*wanted[start : start + size]} - {0})]
            assert view.chunks(node, start, size) == expected, (start, size)
