"""What the tree format refuses, one rule each."""

from __future__ import annotations

import time

import msgspec
import pytest

from layerstore.digest import ChunkId
from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats.tree import (
    MAGIC,
    Changeset,
    Entry,
    Kind,
    check_paths,
    decode_changeset,
    path_fault,
)
from tests.support.encoding import encode_changeset

CHUNK = ChunkId(b"c" * 32)
FILE = Entry(b"f", Kind.FILE, size=3, extents=((3, CHUNK),))

BAD_ENTRIES = {
    "unsorted": (Entry(b"b", Kind.DIR), Entry(b"a", Kind.DIR)),
    "unsorted by separator": (Entry(b"a.b", Kind.DIR), Entry(b"a/b", Kind.DIR)),
    "twice": (Entry(b"a", Kind.DIR), Entry(b"a", Kind.DIR)),
    "absolute": (Entry(b"/a", Kind.DIR),),
    "trailing slash": (Entry(b"a/", Kind.DIR),),
    "empty component": (Entry(b"a//b", Kind.DIR),),
    "dot": (Entry(b"a/./b", Kind.DIR),),
    "dot dot": (Entry(b"..", Kind.DIR),),
    "NUL": (Entry(b"a\0b", Kind.DIR),),
    "whiteout name": (Entry(b"d/.wh.a", Kind.DIR),),
    "long component": (Entry(b"n" * 256, Kind.DIR),),
    "long path": (Entry(b"/".join([b"p" * 100] * 41), Kind.DIR),),
    "deep": (Entry(b"/".join([b"d"] * 1025), Kind.DIR),),
    "root is a file": (Entry(b"", Kind.FILE),),
    "root is a symlink": (Entry(b"", Kind.SYMLINK, target=b"x"),),
    "mode": (Entry(b"a", Kind.DIR, mode=0o10000),),
    "uid": (Entry(b"a", Kind.DIR, uid=2**32 - 1),),
    "gid": (Entry(b"a", Kind.DIR, gid=-1),),
    "mtime": (Entry(b"a", Kind.DIR, mtime_ns=2**63),),
    "size without extents": (Entry(b"a", Kind.FILE, size=1),),
    "extents without size": (Entry(b"a", Kind.FILE, extents=((1, CHUNK),)),),
    "empty extent": (Entry(b"a", Kind.FILE, extents=((0, CHUNK),)),),
    "two holes": (Entry(b"a", Kind.FILE, size=2, extents=((1, None), (1, None))),),
    "short id": (Entry(b"a", Kind.FILE, size=1, extents=((1, ChunkId(b"c")),)),),
    "directory with size": (Entry(b"a", Kind.DIR, size=1),),
    "directory with target": (Entry(b"a", Kind.DIR, target=b"x"),),
    "file with device": (Entry(b"a", Kind.FILE, dev_major=1),),
    "device too large": (Entry(b"a", Kind.CHAR, dev_major=4096),),
    "symlink without target": (Entry(b"a", Kind.SYMLINK),),
    "symlink with NUL": (Entry(b"a", Kind.SYMLINK, target=b"a\0"),),
    "symlink too long": (Entry(b"a", Kind.SYMLINK, target=b"t" * 4096),),
    "hard link to itself": (Entry(b"a", Kind.HARDLINK, target=b"a"),),
    "hard link upwards": (Entry(b"a", Kind.HARDLINK, target=b"../b"),),
    "hard link with xattr": (
        Entry(b"a", Kind.HARDLINK, target=b"b", xattrs=((b"user.a", b""),)),
    ),
    "hard link to directory": (
        Entry(b"a", Kind.DIR), Entry(b"b", Kind.HARDLINK, target=b"a"),
    ),
    "hard link before its file": (Entry(b"a", Kind.HARDLINK, target=b"f"), FILE),
    "hard link to hard link": (
        FILE, Entry(b"g", Kind.HARDLINK, target=b"f"), Entry(b"h", Kind.HARDLINK, target=b"g"),
    ),
    "hard link with another mode": (FILE, Entry(b"g", Kind.HARDLINK, target=b"f", mode=1)),
    "hard link below a file": (FILE, Entry(b"g", Kind.HARDLINK, target=b"f/x")),
    "below a file": (FILE, Entry(b"f/x", Kind.DIR)),
    "xattrs unsorted": (
        Entry(b"a", Kind.DIR, xattrs=((b"user.b", b""), (b"user.a", b""))),
    ),
    "xattr twice": (Entry(b"a", Kind.DIR, xattrs=((b"user.a", b""), (b"user.a", b""))),),
    "xattr without name": (Entry(b"a", Kind.DIR, xattrs=((b"", b""),)),),
    "xattr too large": (Entry(b"a", Kind.DIR, xattrs=((b"user.a", bytes(65537)),)),),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_entries_are_neither_written_nor_read(name: str) -> None:
    changeset = Changeset(BAD_ENTRIES[name])
    with pytest.raises(FormatError):
        encode_changeset(changeset)
    body = msgspec.msgpack.encode((changeset.entries, (), ()))
    with pytest.raises(FormatError):
        decode_changeset(MAGIC + b"\1" + body)


@pytest.mark.parametrize(
    "changeset",
    [
        Changeset(whiteouts=(b"b", b"a")),
        Changeset(whiteouts=(b"a", b"a")),
        Changeset(whiteouts=(b"",)),
        Changeset(whiteouts=(b"../a",)),
        Changeset(opaques=(b"a/",)),
        Changeset(opaques=(b"b", b"a")),
        Changeset((FILE,), whiteouts=(b"f/x",)),
        Changeset((FILE,), opaques=(b"f",)),
        Changeset((FILE,), opaques=(b"f/x",)),
    ],
)
def test_bad_whiteouts(changeset: Changeset) -> None:
    with pytest.raises(FormatError):
        encode_changeset(changeset)


def test_other_bytes() -> None:
    good = encode_changeset(Changeset((FILE,)))
    for bad in (b"", MAGIC, b"x" + good, good + b"\0", good[:-1]):
        with pytest.raises(FormatError):
            decode_changeset(bad)
    with pytest.raises(UnsupportedVersionError):
        decode_changeset(MAGIC + b"\2" + good[len(MAGIC) + 1 :])


def test_other_encodings_of_the_same_values_are_refused() -> None:
    # 0 as a 16-bit number instead of the one-byte form.
    good = encode_changeset(Changeset((Entry(b"a", Kind.DIR, mode=0),)))
    assert good.count(b"\xc4\x01a\x01\x00") == 1
    with pytest.raises(FormatError, match="canonical"):
        decode_changeset(good.replace(b"\xc4\x01a\x01\x00", b"\xc4\x01a\x01\xcd\x00\x00"))


def test_root_may_come_first_only() -> None:
    check_paths([b"", b"a"])
    check_paths([])
    assert path_fault(b"") is None
    assert path_fault(b"a/b") is None


def test_sixty_thousand_entries_decode_quickly() -> None:
    entries = tuple(
        Entry(b"usr/lib/d%03d/file%05d" % (i // 100, i), Kind.FILE, 0o644, 0, 0, 10**18 + i, 9,
              ((9, ChunkId(i.to_bytes(32, "big"))),))
        for i in range(60_000)
    )  # fmt: skip
    encoded = encode_changeset(Changeset(entries))
    started = time.process_time()
    assert decode_changeset(encoded).entries == entries
    assert time.process_time() - started < 1.5  # 0.15 s on an idle machine
