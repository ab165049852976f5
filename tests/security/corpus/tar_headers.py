"""Class C: headers that contradict, lie, end early, or cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.formats.tar_limits import Limits
from tests.security.corpus.entrances import SMALL, stream, tar
from tests.security.corpus.tar_paths import paths
from tests.support.tars import (
    END,
    GNU,
    V7,
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
    sparse_1,
    sparse_slots,
    symlink,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.formats.tree import Changeset

MIB = 1 << 20


def _sparse_text(text: bytes) -> bytes:
    return pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"10"),
    ) + member(b"s", text)  # fmt: skip


_SIZED = fill(b"12345")
_REFUSED = [
    ("C02", "middle", member(b"a") + member(b"b", checksum=b"000001\0 ") + member(b"c")),
    ("C03", "negative", member(b"a", size=base256(-1, 12))),
    ("C03", "text", member(b"a", size=b"12x4")),
    ("C03", "underscore", member(b"a", size=b"1_0")),
    ("C03", "sign", member(b"a", size=b"-1")),
    ("C03", "digit 8", member(b"a", size=b"00000000008")),
    ("C03", "mode beyond 32 bits", member(b"a", mode=base256(1 << 40, 8))),
    ("C04", "contradicts", pax((b"size", b"4")) + member(b"a", b"12345678")),
    ("C04", "header is zero", pax((b"size", b"512")) + member(b"a", b"") + fill(b"1")),
    ("C05", "symlink", symlink(b"a", b"x", size=5) + _SIZED),
    ("C05", "directory", directory(b"d/", size=5) + _SIZED),
    ("C05", "pax, symlink", pax((b"size", b"5")) + symlink(b"a", b"x")),
    ("C05", "pax, directory", pax((b"size", b"5")) + directory(b"d/")),
    ("C05", "hard link", member(b"a", b"12345") + hardlink(b"b", b"a", size=5) + _SIZED),
    ("C06", "path", pax((b"path", b"a"), (b"path", b"b")) + member(b"x")),
    ("C06", "size", pax((b"size", b"0"), (b"size", b"0")) + member(b"x")),
    ("C07", "L then x", gnu_long(b"a") + pax((b"path", b"b")) + member(b"x", magic=GNU)),
    ("C07", "x then L", pax((b"path", b"b")) + gnu_long(b"a") + member(b"x", magic=GNU)),
    ("C07", "two x", pax((b"path", b"a")) + pax((b"path", b"b")) + member(b"x")),
    ("C08", "two", gnu_long(b"a") + gnu_long(b"b") + member(b"x", magic=GNU)),
    (
        "C08",
        "name without its zero byte",
        member(b"././@LongLink", b"n" * 512, typeflag=b"L", magic=GNU) + member(b"x", magic=GNU),
    ),
    (
        "C08",
        "name longer than its size",
        header(b"././@LongLink", size=75, typeflag=b"L", magic=GNU)
        + b"n" * 512
        + member(b"x", magic=GNU),
    ),
    ("C09", "on a file", gnu_long(b"a", typeflag=b"K") + member(b"x", magic=GNU)),
    ("C10", "short", pax_raw(b"5 path=x\n") + member(b"x")),
    ("C10", "no newline", pax_raw(b"9 path=xy") + member(b"x")),
    ("C11", "long", pax_raw(b"99 path=x\n") + member(b"x")),
    ("C11", "very long", pax_raw(b"9" * 19 + b" path=x\n") + member(b"x")),
    ("C12", "zero", pax_raw(b"0 path=x\n") + member(b"x")),
    ("C13", "text", pax_raw(b"ab path=x\n") + member(b"x")),
    ("C13", "none", pax_raw(b"path=x\n") + member(b"x")),
    ("C14", "empty", pax((b"", b"x")) + member(b"x")),
    ("C14", "no equals", pax_raw(b"7 path\n") + member(b"x")),
    ("C14", "NUL", pax((b"pa\0th", b"x")) + member(b"x")),
    ("C15", "path", pax((b"path", b"x"), typeflag=b"g") + member(b"a")),
    ("C15", "size", pax((b"size", b"1"), typeflag=b"g") + member(b"a")),
    ("C15", "owner", pax((b"uid", b"1"), typeflag=b"g") + member(b"a")),
    ("C16", "Z", member(b"a", typeflag=b"Z")),
    ("C16", "volume label", member(b"a", typeflag=b"V")),
    ("C16", "other volume", member(b"a", typeflag=b"M")),
    ("C16", "dump directory", member(b"a", typeflag=b"D")),
    ("C17", "overlap", old_sparse(b"s", [(0, 1024), (512, 512)], 4096, bytes(1536))),
    ("C17", "order", old_sparse(b"s", [(2048, 512), (0, 512)], 4096, bytes(1024))),
    ("C17", "beyond", old_sparse(b"s", [(4096, 512)], 4100, bytes(512))),
    ("C17", "sum", old_sparse(b"s", [(0, 512)], 4096, bytes(1024))),
    ("C17", "ends within a block", old_sparse(b"s", [(0, 100), (512, 100)], 4096, bytes(200))),
    ("C17", "short of the end", old_sparse(b"s", [(0, 512)], 4096, bytes(512))),
    ("C17", "1.0, short of the end", sparse_1([(0, 512)], 4096, bytes(512))),
    ("C17", "1.0, no regions", sparse_1([], 4096, b"")),
    ("C17", "1.0, ends within a block", sparse_1([(0, 100), (512, 100)], 4096, bytes(200))),
    ("C17", "1.0, overlap", sparse_1([(0, 1024), (512, 512)], 4096, bytes(1536))),
    ("C17", "1.0, text", _sparse_text(fill(b"x\n"))),
    ("C17", "1.0, no map", _sparse_text(b"")),
    ("C17", "2.0", pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.size", b"0")) + member(b"s")),
    ("C17", "directory", pax((b"GNU.sparse.size", b"0")) + directory(b"d/")),
    (
        "C17",
        "half a pair",
        pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.offset", b"0")) + member(b"s"),
    ),
    ("C18", "2^32", pax((b"uid", b"4294967296")) + member(b"a")),
    ("C18", "2^32-1", pax((b"uid", b"4294967295")) + member(b"a")),
    ("C18", "gid", pax((b"gid", b"4294967296")) + member(b"a")),
    ("C19", "base 256", member(b"a", uid=base256(-1, 8))),
    ("C19", "pax", pax((b"uid", b"-1")) + member(b"a")),
    ("C22", "one block", member(b"a") + bytes(512) + member(b"b")),
    ("C30", "charset", pax((b"hdrcharset", b"latin-1")) + member(b"a")),
    ("C29", "device", member(b"a", typeflag=b"3", magic=V7)),
    ("C16", "device number", member(b"a", typeflag=b"3", devmajor=5000, devminor=1)),
    ("C15", "x at the end", member(b"a") + pax((b"path", b"b"))),
    ("C48", "NaN", pax((b"mtime", b"nan")) + member(b"a")),
    ("C48", "1e300", pax((b"mtime", b"1e300")) + member(b"a")),
    ("C48", "far", pax((b"mtime", b"9" * 19)) + member(b"a")),
]
# What ADD does not take for an archive it copies as a file, as docker does.
_COPIED = [
    ("C01", "first", member(b"a", checksum=b"000001\0 ")),
    ("C24", "garbage", b"\xa5" * 512 + member(b"a")),
]
_CUT = [
    ("C20", "header", member(b"a")[:300], "S"),
    ("C20", "second header", member(b"a") + member(b"b")[:511], "R"),
    ("C20", "pax header", pax((b"path", b"b"))[:700], "R"),
    ("C20", "three bytes", b"abc", "S"),
    ("C21", "content", member(b"a", b"x" * 1000)[:900], "R"),
    ("C21", "padding", member(b"a", b"x" * 1000)[:1520], "R"),
    ("C23", "nothing", b"", "S"),
]


def _mode(changeset: Changeset) -> None:
    assert [entry.mode for entry in changeset.entries] == [0o7755]


def _last_wins(changeset: Changeset) -> None:
    (entry,) = changeset.entries
    assert entry.size == 4


def _extents(*lengths: int):
    def check(changeset: Changeset) -> None:
        assert tuple(length for length, _ in changeset.entries[0].extents) == lengths

    return check


_PAIRS = b"".join(
    record(key, value)
    for key, value in (
        (b"GNU.sparse.size", b"4096"), (b"GNU.sparse.numblocks", b"3"),
        (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"512"),
        (b"GNU.sparse.offset", b"1024"), (b"GNU.sparse.numbytes", b"512"),
        (b"GNU.sparse.offset", b"4096"), (b"GNU.sparse.numbytes", b"0"),
    )
)  # fmt: skip
_SAFE = [
    ("C25", "pax path", pax((b"path", b"\xff\xfe")) + member(b"x"), paths(b"\xff\xfe")),
    (
        "C26",
        "path",
        pax((b"hdrcharset", b"BINARY"), (b"path", b"\xff")) + member(b"x"),
        paths(b"\xff"),
    ),
    ("C27", "behind a member", member(b"a") + pax((b"comment", b"x"), typeflag=b"g"), paths(b"a")),
    ("C28", "file", member(b"a", b"1", typeflag=b"7"), paths(b"a")),
    ("C29", "file", member(b"a", b"1", magic=V7, typeflag=b"\0"), paths(b"a")),
    (
        "C30",
        "three",
        member(b"a", magic=V7) + member(b"b", magic=GNU) + pax((b"path", b"c")) + member(b"x"),
        paths(b"a", b"b", b"c"),
    ),
    (
        "C30",
        "L and K",
        gnu_long(b"n" * 120) + gnu_long(b"t" * 120, typeflag=b"K") + symlink(b"n", b"t", magic=GNU),
        paths(b"n" * 120),
    ),
    ("C30", "base-256 size", member(b"a", b"123", size=base256(3, 12)), paths(b"a")),
    ("C30", "leading spaces", member(b"a", mode=b"   644 "), paths(b"a")),
    ("C30", "unknown pax key", pax((b"VENDOR.key", b"x")) + member(b"a"), paths(b"a")),
    ("C31", "file type in mode", member(b"a", mode=0o107755), _mode),
    ("C35", "10,000", b"".join(member(b"a", b"%04d" % i) for i in range(10_000)), _last_wins),
    (
        "C47",
        "1.0",
        sparse_1([(512, 512), (2048, 100), (4096, 0)], 4096, bytes(612)),
        _extents(512, 512, 1024, 100, 1948),
    ),
    ("C47", "1.0, all hole", sparse_1([(4096, 0)], 4096, b""), _extents(4096)),
    (
        "C47",
        "0.1",
        pax(
            (b"GNU.sparse.size", b"4096"),
            (b"GNU.sparse.numblocks", b"3"),
            (b"GNU.sparse.name", b"s"),
            (b"GNU.sparse.map", b"0,512,1024,512,4096,0"),
        )
        + member(b"GNUSparseFile.1/s", b"1" * 1024),
        _extents(512, 512, 512, 2560),
    ),
    ("C47", "0.0", pax_raw(_PAIRS) + member(b"s", b"1" * 1024), _extents(512, 512, 512, 2560)),
    (
        "C47",
        "old, extended",
        old_sparse(b"s", [(i * 1024, 512) for i in range(60)], 60_928, b"1" * 30720),
        None,
    ),
    ("C48", "negative, base 256", member(b"a", mtime=base256(-5, 12)), paths(b"a")),
    ("C48", "negative, pax", pax((b"mtime", b"-1.5")) + member(b"a"), paths(b"a")),
]
_LIMITED = [
    ("C37", "2^63-1", member(b"a", size=base256(2**63 - 1, 12)), "expanded_bytes"),
    ("C38", "pax", member(b"x", typeflag=b"x", size=0o77777777777), "expanded_bytes|pax_bytes"),
    ("C38", "long name", member(b"x", bytes(2 * MIB), typeflag=b"L"), "pax_bytes"),
    ("C38", "1 MiB and 1", member(b"x", b"1" * (MIB + 1), typeflag=b"x"), "pax_bytes"),
    (
        "C39",
        "300,000",
        pax_raw(b"".join(b"11 k%05d=v\n" % (i % 100_000) for i in range(300_000))),
        "pax_bytes",
    ),
    (
        "C40",
        "64 KiB and more",
        b"".join(pax((b"comment", b"%d" % i), typeflag=b"g") + member(b"a") for i in range(90)),
        "global_pax_bytes",
    ),
    (
        "C41",
        "1,001",
        old_sparse(b"s", [(i * 1024, 512) for i in range(1001)], 2 * MIB, bytes(512_512)),
        "sparse_regions",
    ),
    (
        "C42",
        "1.0",
        sparse_1([(i * 1024, 512) for i in range(1001)], 2 * MIB, bytes(512_512)),
        "sparse_regions",
    ),
    (
        "C42",
        "0.1",
        pax((b"GNU.sparse.size", b"9999"), (b"GNU.sparse.map", b",".join([b"1"] * 2002)))
        + member(b"s"),
        "sparse_regions",
    ),
    ("C43", "8 EiB", sparse_1([(0, 1), (2**63, 0)], 2**63, b"1"), "logical_bytes"),
    ("C43", "1 TiB twice", sparse_1([(0, 1), (1 << 40, 0)], 1 << 40, b"1") * 2, "logical_bytes"),
    ("C44", "10 KiB", pax((b"uname", b"u" * 10240)) + member(b"a"), "owner_name_bytes"),
    ("C45", "128 KiB", member(b"a") + END + bytes(1 << 17), "trailing_bytes"),
    ("C46", "101", b"".join(member(b"a%d" % i) for i in range(101)), "entries"),
]


# -- at full size ------------------------------------------------------------------


def _members(count: int) -> Iterator[bytes]:
    """That many members whose headers are equal but for the name."""
    for start in range(0, count, 2048):
        yield b"".join(member(b"%08x" % at) for at in range(start, min(start + 2048, count)))
    yield END


def _pieces(head: bytes, piece: bytes, count: int) -> Iterator[bytes]:
    yield head
    for _ in range(count):
        yield piece


def _long_paths() -> Iterator[bytes]:
    front, same = b"/".join([b"p" * 250] * 15), member(b"x")
    for number in range(1_000_000):
        yield pax((b"path", front + b"/%d" % number)) + same


def _deep_paths() -> Iterator[bytes]:
    """Each of them implies a thousand directories of its own."""
    for number in range(1_000_000):
        yield pax((b"path", b"%06d" % number + b"/d" * 1023)) + member(b"x")


def _attributes() -> Iterator[bytes]:
    records = pax(*((b"SCHILY.xattr.user.%d" % at, b"x" * 60_000) for at in range(16)))
    for number in range(100_000):
        yield records + member(b"%d" % number)


def _sparse_files() -> Iterator[bytes]:
    for _ in range(1000):
        yield from _regions(20_000)


def _sparse_map(count: int) -> Iterator[bytes]:
    """An old sparse member of that many regions of one block, without its content."""
    first = old_sparse(b"s", [(at * 1024, 512) for at in range(5)], (count << 10) - 512, b"")
    yield header(b"s", typeflag=b"S", magic=GNU, size=count * 512, prefix=first[345:500],
                 tail=first[500:512])  # fmt: skip
    for start in range(4, count, 21):
        pairs = [(at * 1024, 512) for at in range(start, min(start + 21, count))]
        yield sparse_slots(pairs, 21) + bytes([start + 21 < count]) + bytes(7)


def _old_sparse_million() -> Iterator[bytes]:
    """The map alone; it is refused before its content would come."""
    yield from _sparse_map(1_000_001)


def _regions(count: int) -> Iterator[bytes]:
    yield from _sparse_map(count)
    for _ in range(0, count, 1000):
        yield bytes(512_000)


def _globals() -> Iterator[bytes]:
    for number in range(2000):
        yield pax((b"comment", b"%d" % number), typeflag=b"g")
    yield b"".join(member(b"a%d" % number) for number in range(5000))


def _long_header(typeflag: bytes) -> Iterator[bytes]:
    head = member(b"x", typeflag=typeflag, size=base256(8 << 30, 12))
    return _pieces(head, b"1" * MIB, 8192)


_FULL = [
    stream("C37", "full size", "L", lambda: _pieces(member(b"a", size=base256(2**63 - 1, 12)),
                                                    bytes(MIB), 1 << 40), says="expanded_bytes"),
    stream("C38", "full size, pax", "L", lambda: _long_header(b"x"), says="pax_bytes"),
    stream("C38", "full size, long name", "L", lambda: _long_header(b"L"), says="pax_bytes"),
    stream("C40", "full size", "L", _globals, says="global_pax_bytes"),
    stream("C41", "full size", "L", _old_sparse_million, says="sparse_regions"),
    stream("C45", "full size", "L", lambda: _pieces(member(b"a") + END, bytes(MIB), 4096),
           says="trailing_bytes"),
]  # fmt: skip

CASES = [
    *(tar(entry, name, "R", archive) for entry, name, archive in _REFUSED),
    *(tar(entry, name, "R", archive, add="S") for entry, name, archive in _COPIED),
    *(tar(entry, name, "R", archive, add=add, end=b"") for entry, name, archive, add in _CUT),
    *(
        tar(entry, name, "S", archive, check=check,
            limits=Limits() if entry == "C35" else SMALL)
        for entry, name, archive, check in _SAFE
    ),
    tar("C27", "alone", "S", pax((b"comment", b"x"), typeflag=b"g"), check=paths()),
    tar("C32", "open", "S", member(b"a", b"1"), check=paths(b"a"), end=b""),
    tar("C32", "one block", "S", member(b"a", b"1"), check=paths(b"a"), end=bytes(512)),
    tar("C33", "garbage", "S", member(b"a", b"1"), check=paths(b"a"), end=END + b"\xa5" * 777),
    tar("C34", "two blocks", "S", b"", check=paths(), add="S"),
    tar("C34", "one block", "S", b"", check=paths(), end=bytes(512)),
    tar("C34", "twenty blocks", "S", b"", check=paths(), end=bytes(10240)),
    tar("C36", "zip behind", "S", member(b"a"), check=paths(b"a"),
        end=END + b"PK\x03\x04" + bytes(26)),
    tar("C24", "unknown magic", "R", member(b"a", magic=b"ustax\x0000")),
    *(tar(entry, name, "L", archive, says=says) for entry, name, archive, says in _LIMITED),
    *_FULL,
    # Small members that together cost much: their sum is bounded, too.
    *(
        stream(entry, f"{name}, lowered to 64 MiB", "L", pieces, says="metadata_bytes",
               limits=Limits(metadata_bytes=64 * MIB))
        for entry, name, pieces in (
            ("C46", "long paths", _long_paths), ("C46", "implied directories", _deep_paths),
            ("C44", "attributes", _attributes), ("C41", "sparse files", _sparse_files),
        )
    ),
    *(
        stream(entry, f"{name}, full size", "L", pieces, says="metadata_bytes", long=True,
               memory=512 * MIB)
        for entry, name, pieces in (
            ("C46", "long paths", _long_paths), ("C46", "implied directories", _deep_paths),
            ("C44", "attributes", _attributes),
        )
    ),
    # What may be as much as this needs more than all others: decision 0085.
    stream("C46", "full size", "L", lambda: _members(2_000_001), says="entries", long=True,
           memory=1 << 30, seconds=120),
    stream("C46", "400,000 members", "S", lambda: _members(400_000), long=True, seconds=30),
    stream("C41", "1,000,000", "S", lambda: _regions(1_000_000), long=True, memory=640 << 20),
    stream("C41", "300,000", "S", lambda: _regions(300_000), long=True),
]  # fmt: skip
