"""Corners of reading tars: old writers, numbers, sparse maps, ACLs in text."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import FormatError, LimitExceededError, UnsupportedVersionError
from layerstore.formats import recipe
from layerstore.formats.tar_headers import parse_header, parse_number
from layerstore.formats.tar_pax import pax_time_ns
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tar_writer import member_header, opaque_header, whiteout_header
from layerstore.formats.tree import Entry, Kind
from layerstore.formats.xattrs import acl_from_text, check_xattr
from tests.support.encoding import encode_plan
from tests.support.tars import (
    END,
    GNU,
    base256,
    directory,
    fill,
    gnu_long,
    hardlink,
    header,
    member,
    old_sparse,
    pax,
    pax_raw,
    record,
    symlink,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.tar_limits import Limits
    from layerstore.formats.tar_member import Member


def members(*parts: bytes, limits: Limits | None = None) -> list[Member]:
    reader = TarReader(iter([*parts, END]), limits)
    found = []
    while (one := reader.next_member()) is not None:
        reader.read_exactly(one.stored)
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"   644 \0", 0o644),
        (b"644\0\0\0\0\0", 0o644),
        (b"\0" * 8, 0),
        (b" " * 8, 0),
        (b"77777777", 0o77777777),
        (base256(1 << 40, 8), 1 << 40),
        (base256(-7, 8), -7),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert parse_number(field, "field") == value


@pytest.mark.parametrize(
    "field", [b"12 34\0", b"+12", b"-12", b"0x12", b"1_2", b"9", b"1\0002", b"a"]
)
def test_not_numbers(field: bytes) -> None:
    with pytest.raises(FormatError, match="field"):
        parse_number(field, "field")


def test_signed_checksums_of_old_writers() -> None:
    block = header(b"\xff\xfe")
    signed = sum(struct.unpack("512b", block[:148] + b" " * 8 + block[156:]))
    old = block[:148] + b"%06o\0 " % signed + block[156:]
    assert parse_header(old).name == b"\xff\xfe"


def test_star_keeps_times_behind_its_prefix() -> None:
    name = header(b"n", prefix=b"p" * 131 + b"00000000000\0" + b"00000000000\0", tail=b"")
    block = bytearray(name)
    block[508:512] = b"tar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert parse_header(bytes(block)).name == b"p" * 131 + b"/n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0),
        (b"1.5", 1_500_000_000),
        (b"-1.5", -1_500_000_000),
        (b"1.", 1_000_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"9223372036.854775807", (1 << 63) - 1),
    ],
)
def test_times(text: bytes, value: int) -> None:
    assert pax_time_ns(text) == value


@pytest.mark.parametrize("text", [b"", b".5", b"1e3", b"--1", b"1,5", b"9223372036.854775808"])
def test_not_times(text: bytes) -> None:
    with pytest.raises(FormatError):
        pax_time_ns(text)


def sparse(*pairs: tuple[bytes, bytes], content: bytes = b"") -> bytes:
    return pax_raw(b"".join(record(*pair) for pair in pairs)) + member(b"s", content)


BAD_SPARSE: dict[str, bytes] = {
    "count": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"2"),
                    (b"GNU.sparse.map", b"0,1"), content=b"1"),
    "odd map": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1,2"), content=b"1"),
    "text": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,x"), content=b"1"),
    "two maps": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1"),
                       (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"1"), content=b"1"),
    "map of another version": sparse(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"),
        (b"GNU.sparse.map", b"0,1"), content=fill(b"1\n0\n1\n") + b"1"),
    "length first": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numbytes", b"1"),
                           (b"GNU.sparse.offset", b"0"), content=b"1"),
    "no size": sparse((b"GNU.sparse.map", b"0,1"), content=b"1"),
    "no name": sparse((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"0,1"),
                      (b"GNU.sparse.name", b""), content=b"1"),
    "number without end": sparse(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9"),
        content=b"1" * 1024),
    "slots": old_sparse(b"s", [(0, 512)], 4096, b"1" * 512)[:410],
    "negative": old_sparse(b"s", [], base256(-1, 12), b""),
    "posix magic": member(b"s", typeflag=b"S"),
    "star": pax((b"SCHILY.realsize", b"9")) + member(b"s"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SPARSE)
def test_bad_sparse_files(name: str) -> None:
    with pytest.raises(FormatError):
        members(BAD_SPARSE[name])


def test_used_slot_after_an_unused_one() -> None:
    block = bytearray(old_sparse(b"s", [(0, 512), (1024, 512)], 4096, b"")[:512])
    block[398:410] = bytes(12)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(FormatError, match="empty slot"):
        members(bytes(block))


def test_sparse_numbers_may_cross_blocks() -> None:
    pairs = [(i * 1_000_000, 512) for i in range(100)]
    numbers = [len(pairs) + 1, *(n for pair in pairs for n in pair), 100_000_000, 0]
    content = fill(b"".join(b"%d\n" % n for n in numbers)) + b"x" * 51_200
    archive = sparse(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"n"),
        (b"GNU.sparse.realsize", b"100000000"), content=content,
    )  # fmt: skip
    (one,) = members(archive)
    assert (one.path, one.size, one.stored, one.regions) == (b"n", 100_000_000, 51_200, pairs)


def test_touching_regions_are_one() -> None:
    (one,) = members(old_sparse(b"s", [(0, 512), (512, 512), (4096, 0)], 4096, b"1" * 1024))
    assert one.regions == [(0, 1024)]


@pytest.mark.parametrize(
    "archive",
    [
        pax((b"size", b"x")) + member(b"a"),
        pax((b"size", b"1" * 21)) + member(b"a"),
        member(b"a", mode=base256(-1, 8)),
        member(b"a", mtime=base256(1 << 80, 12)),
        gnu_long(b"a", typeflag=b"K") * 2 + symlink(b"s", b"", magic=GNU),
        gnu_long(b"") + member(b"a", magic=GNU),
        pax((b"linkpath", b"n" * 256)) + hardlink(b"b", b"x"),
        pax((b"path", b".wh." + b"n" * 256)) + member(b"x"),
        pax((b"path", b"d/" + b"n" * 256 + b"/.wh.a")) + member(b"x"),
        pax((b"SCHILY.xattr.user." + b"n" * 256, b"1")) + member(b"a"),
        pax((b"SCHILY.acl.access", b"user::r--,group::r--,other::r--")) + member(b"a", mode=0o755),
        pax((b"GNU.volume.label", b"x")) + member(b"a"),
    ],
)  # fmt: skip
def test_refused(archive: bytes) -> None:
    with pytest.raises(FormatError):
        members(archive)


def test_sizes_beyond_the_header_field() -> None:
    huge = 9 << 30
    for field in (0, 0o77777777777, base256(huge, 12)):
        with pytest.raises(FormatError, match="ends inside"):
            members(pax((b"size", b"%d" % huge)) + member(b"a", size=field))
    with pytest.raises(FormatError, match="contradicts"):
        members(pax((b"size", b"%d" % huge)) + member(b"a", size=5))
    with pytest.raises(LimitExceededError, match="expanded_bytes"):
        members(pax((b"size", b"%d" % (1 << 40))) + member(b"a"))


def test_acl_equal_to_the_mode_is_dropped() -> None:
    (one,) = members(
        pax((b"SCHILY.acl.access", b"user::rwx\ngroup::r-x\nother::r-x\n")) + directory(b"d/")
    )
    assert one.xattrs == ()


def test_acl_texts() -> None:
    star = b"user::rw-,user:name:r-x:1000,group::r--,mask:rwx,other:---"
    gnu = b"user::rw-\nuser:1000:r-x #effective:r-x\ngroup::r--\nmask::rwx\nother::---\n"
    assert acl_from_text(star) == acl_from_text(gnu)
    assert check_xattr(b"system.posix_acl_access", acl_from_text(gnu))
    assert acl_from_text(gnu.replace(b"1000", b"root")) == acl_from_text(gnu.replace(b"1000", b"0"))


@pytest.mark.parametrize(
    "text", [b"user", b"user::rwxr", b"user::q", b"nobody::r", b"mask:5:r", b"user:4294967295:r"]
)
def test_bad_acl_texts(text: bytes) -> None:
    with pytest.raises(FormatError):
        acl_from_text(b"user::rw-,group::r--,mask::r--,other::r--," + text)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(90, b""), (150, b"prefix"), (257, b"record")],
)
def test_names_of_markers(length: int, expected: bytes) -> None:
    path = b"d" * 60 + b"/" + b"n" * (length - 61)
    blocks = whiteout_header(path)
    (one,) = members(blocks)
    assert one.path == b"d" * 60 + b"/.wh." + b"n" * (length - 61)
    assert (len(blocks) > 512) == (expected == b"record")
    assert members(opaque_header(b""))[0].path == b".wh..wh..opq"


@pytest.mark.parametrize("length", [*range(95, 107), 200, 254, 255, 256, 257, 300])
def test_names_come_back(length: int) -> None:
    for path in (b"p" * 50 + b"/" + b"q" * (length - 51), b"/".join([b"x"] * (length // 2 + 1))):
        for kind in (Kind.DIR, Kind.FIFO):
            if max(map(len, path.split(b"/"))) <= 255:
                (one,) = members(member_header(Entry(path, kind, mode=0o700)))
                assert (one.path, one.kind) == (path, kind)


@pytest.mark.parametrize("parts", [[b""], [b"", END[:512]]])
def test_spans_may_be_empty(parts: Sequence[bytes]) -> None:
    reader = TarReader(iter([*parts, member(b"a", b"123")[:100], b"", member(b"a", b"123")[100:]]))
    if parts == [b""]:
        assert reader.next_member() is not None
    else:
        with pytest.raises(FormatError, match="zeros"):
            reader.next_member()


def test_literals_are_taken_once() -> None:
    archive = member(b"a", b"1") + END
    reader = TarReader(iter([archive]))
    one = reader.next_member()
    assert one is not None
    assert reader.take_literals() == archive[:512]
    reader.read_exactly(1)
    assert reader.next_member() is None
    assert reader.take_literals() == archive[513:]
    assert reader.offset == len(archive)


def test_bad_plans() -> None:
    good = encode_plan([(1, 0)], 2, [])
    with pytest.raises(UnsupportedVersionError):
        recipe.decode_plan(recipe.HEAD.pack(recipe.MAGIC, 2, 0, 0, 0))
    with pytest.raises(FormatError):
        recipe.decode_plan(good[:-1] + b"\x03")
    with pytest.raises(FormatError, match="content 0 of 0"):
        list(recipe.segments(recipe.decode_plan(good), 0))
