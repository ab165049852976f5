"""What a view answers, with a dictionary for a store and no mount anywhere."""

import hashlib
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.digest import ChunkId
from layerstore.errors import IntegrityError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.trees.stack import stack
from layerstore.vfs import view as view_module
from layerstore.vfs.view import (
    ImageView,
    NoSuchPathError,
    NoSuchXattrError,
    NotADirectoryInViewError,
    WrongKindError,
)


class Chunks:
    """Content by id, and how often each was asked for."""

    def __init__(self) -> None:
        self.content: dict[bytes, bytes] = {}
        self.reads: list[bytes] = []

    def put(self, data: bytes) -> ChunkId:
        chunk_id = ChunkId(hashlib.sha256(data).digest())
        self.content[chunk_id] = data
        return chunk_id

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        self.reads.append(chunk_id)
        return self.content[chunk_id]


def view_of(*entries: Entry, chunks: Chunks | None = None) -> ImageView:
    return ImageView(chunks or Chunks(), stack([Changeset(entries)]))


def a_file(chunks: Chunks, parts: list[bytes | int], path: bytes = b"f") -> tuple[Entry, bytes]:
    """A file of data and holes (given by length), and its content."""
    extents = tuple(
        (part, None) if isinstance(part, int) else (len(part), chunks.put(part)) for part in parts
    )
    content = b"".join(bytes(p) if isinstance(p, int) else p for p in parts)
    return Entry(path=path, kind=Kind.FILE, size=len(content), extents=extents), content


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=9), st.integers(1, 9)), max_size=6),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_reading_anywhere_gives_the_slice(parts, offset, size):
    chunks = Chunks()
    entry, content = a_file(chunks, parts)
    view = view_of(entry, chunks=chunks)
    assert view.read(view.find(b"f"), offset, size) == content[offset : offset + size]


def test_a_large_chunk_read_in_pieces_is_decoded_once():
    chunks = Chunks()
    entry, content = a_file(chunks, [os.urandom(1 << 20)])
    view = view_of(entry, chunks=chunks)
    node = view.find(b"f")
    pieces = [view.read(node, offset, 131072) for offset in range(0, 1 << 20, 131072)]
    assert b"".join(pieces) == content
    assert len(chunks.reads) == 1


def test_kept_chunks_are_bounded(monkeypatch):
    monkeypatch.setattr(view_module, "CHUNK_CACHE_BYTES", 100)
    monkeypatch.setattr(view_module, "KEPT_CHUNK_MIN_BYTES", 0)
    chunks = Chunks()
    entry, _ = a_file(chunks, [bytes([i]) * 40 for i in range(5)])
    view = view_of(entry, chunks=chunks)
    node = view.find(b"f")
    view.read(node, 0, 200)
    view.read(node, 160, 40)
    assert len(chunks.reads) == 5
    view.read(node, 0, 40)
    assert len(chunks.reads) == 6


def test_a_chunk_shorter_than_its_layer_says_is_refused():
    chunks = Chunks()
    entry = Entry(path=b"f", kind=Kind.FILE, size=9, extents=((9, chunks.put(b"short")),))
    view = view_of(entry, chunks=chunks)
    with pytest.raises(IntegrityError, match="5 bytes"):
        view.read(view.find(b"f"), 0, 9)


@pytest.mark.parametrize(
    ("kind", "file_type"),
    [
        (Kind.DIR, stat.S_IFDIR),
        (Kind.SYMLINK, stat.S_IFLNK),
        (Kind.CHAR, stat.S_IFCHR),
        (Kind.BLOCK, stat.S_IFBLK),
        (Kind.FIFO, stat.S_IFIFO),
        (Kind.FILE, stat.S_IFREG),
    ],
)
def test_attributes_of_every_kind(kind: Kind, file_type: int):
    target = b"to" if kind is Kind.SYMLINK else b""
    device = (4, 70000) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0)
    entry = Entry(
        path=b"x",
        kind=kind,
        mode=0o4751,
        uid=70000,
        gid=4294967294,
        mtime_ns=-1,
        target=target,
        dev_major=device[0],
        dev_minor=device[1],
    )
    view = view_of(entry)
    found = view.attributes(view.find(b"x"))
    assert found.mode == file_type | 0o4751
    assert (found.uid, found.gid, found.mtime_ns) == (70000, 4294967294, -1)
    assert found.rdev == (os.makedev(*device) if device[0] else 0)
    assert found.nlink == (2 if kind is Kind.DIR else 1)
    assert found.size == {Kind.DIR: 4096, Kind.SYMLINK: 2}.get(kind, 0)


def test_blocks_leave_holes_out():
    chunks = Chunks()
    entry, _ = a_file(chunks, [b"x" * 5000, 1 << 20, b"y" * 10])
    view = view_of(entry, chunks=chunks)
    found = view.attributes(view.find(b"f"))
    assert found.size == 5010 + (1 << 20)
    assert found.blocks == 16  # 5,010 bytes in blocks of 4 KiB, counted in 512 bytes


def test_names_come_sorted_with_numbers_and_types():
    view = view_of(
        Entry(path=b"\xff", kind=Kind.FIFO),
        Entry(path=b"a", kind=Kind.DIR),
        Entry(path=b"a/b", kind=Kind.SYMLINK, target=b"x"),
    )
    names = list(view.names(view.root))
    assert [name.name for name in names] == [b"a", b"\xff"]
    assert [stat.S_IFMT(name.mode) for name in names] == [stat.S_IFDIR, stat.S_IFIFO]
    assert [name.ino for name in names] == [view.find(b"a").ino, view.find(b"\xff").ino]


def test_xattrs():
    entry = Entry(path=b"f", kind=Kind.FILE, xattrs=((b"user.a", b"\0\xff"), (b"user.b", b"")))
    view = view_of(entry, Entry(path=b"g", kind=Kind.FILE))
    node = view.find(b"f")
    assert view.xattr_names(node) == [b"user.a", b"user.b"]
    assert (view.xattr(node, b"user.a"), view.xattr(node, b"user.b")) == (b"\0\xff", b"")
    with pytest.raises(NoSuchXattrError):
        view.xattr(node, b"user.c")
    assert view.has_xattrs()
    assert not view_of(Entry(path=b"g", kind=Kind.FILE)).has_xattrs()


def test_errors_say_what_is_wrong():
    view = view_of(Entry(path=b"f", kind=Kind.FILE), Entry(path=b"s", kind=Kind.FIFO))
    with pytest.raises(NoSuchPathError):
        view.find(b"none")
    with pytest.raises(NotADirectoryInViewError):
        view.find(b"f/x")
    with pytest.raises(NotADirectoryInViewError):
        list(view.names(view.find(b"f")))
    with pytest.raises(WrongKindError):
        view.link_target(view.find(b"f"))
    with pytest.raises(WrongKindError):
        view.read(view.find(b"s"), 0, 1)


def test_totals_count_inodes_once():
    chunks = Chunks()
    entry, content = a_file(chunks, [b"12345"])
    link = Entry(path=b"g", kind=Kind.HARDLINK, target=b"f")
    totals = view_of(entry, link, chunks=chunks).totals()
    assert (totals.inodes, totals.content_bytes) == (2, len(content))
