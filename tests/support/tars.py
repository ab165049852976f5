"""Tar archives for tests, made byte by byte: also those no honest program would write."""

from __future__ import annotations

import io
import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def octal(value: int, width: int) -> bytes:
    """A number field: octal digits and a NUL."""
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """A number field in GNU's binary form, negative numbers too."""
    field = bytearray(value.to_bytes(width, "big", signed=True))
    field[0] |= 0x80
    return bytes(field)


def fill(content: bytes) -> bytes:
    """Content with zeros up to a whole block."""
    return content + bytes(-len(content) % BLOCK)


def header(
    name: bytes = b"file",
    *,
    size: int | bytes = 0,
    typeflag: bytes = b"0",
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    linkname: bytes = b"",
    magic: bytes = USTAR,
    devmajor: int | bytes = 0,
    devminor: int | bytes = 0,
    prefix: bytes = b"",
    tail: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header block. Bytes for a number are taken as they are."""

    def number(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    before = (
        name[:100].ljust(100, b"\0")
        + number(mode, 8)
        + number(uid, 8)
        + number(gid, 8)
        + number(size, 12)
        + number(mtime, 12)
    )
    after = (
        typeflag
        + linkname[:100].ljust(100, b"\0")
        + magic
        + bytes(64)
        + number(devmajor, 8)
        + number(devminor, 8)
        + (prefix.ljust(155, b"\0") + tail)[:167].ljust(167, b"\0")
    )
    if checksum is None:
        checksum = b"%06o\0 " % (sum(before) + sum(after) + 8 * 32)
    return before + checksum + after


def member(name: bytes = b"file", content: bytes = b"", **fields: object) -> bytes:
    """A header and its content, filled up; ``size`` may lie."""
    fields.setdefault("size", len(content))
    return header(name, **fields) + fill(content)  # type: ignore[arg-type]


def directory(name: bytes = b"dir/", **fields: object) -> bytes:
    return member(name, typeflag=b"5", mode=0o755, **fields)


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return member(name, typeflag=b"2", linkname=target, **fields)


def hardlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return member(name, typeflag=b"1", linkname=target, **fields)


def record(key: bytes, value: bytes) -> bytes:
    """A pax record with its right length."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], typeflag: bytes = b"x") -> bytes:
    """An extended header with these records."""
    return pax_raw(b"".join(record(*pair) for pair in records), typeflag=typeflag)


def pax_raw(body: bytes, *, typeflag: bytes = b"x") -> bytes:
    return member(b"PaxHeader", body, typeflag=typeflag)


def gnu_long(name: bytes, *, typeflag: bytes = b"L") -> bytes:
    """A GNU long name (L) or long link name (K) header."""
    return member(b"././@LongLink", name + b"\0", typeflag=typeflag, magic=GNU)


def sparse_slots(pairs: Sequence[tuple[int, int]], slots: int) -> bytes:
    """Old GNU sparse slots, filled up with unused ones."""
    body = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in pairs)
    return body.ljust(slots * 24, b"\0")


def old_sparse(
    name: bytes, pairs: Sequence[tuple[int, int]], real_size: int | bytes, content: bytes
) -> bytes:
    """An old GNU sparse member with as many extension blocks as the map needs."""
    extensions = [pairs[at : at + 21] for at in range(4, len(pairs), 21)]
    real = real_size if isinstance(real_size, bytes) else octal(real_size, 12)
    tail = sparse_slots(pairs[:4], 4) + bytes([bool(extensions)]) + real
    # The slots begin at offset 386, 41 bytes into the prefix field.
    blocks = [header(name, typeflag=b"S", magic=GNU, size=len(content), prefix=bytes(41) + tail)]
    for number, slots in enumerate(extensions, start=1):
        blocks.append(sparse_slots(slots, 21) + bytes([number < len(extensions)]) + bytes(7))
    return b"".join(blocks) + fill(content)


def sparse_1(
    pairs: Sequence[tuple[int, int]], real: int, content: bytes, *extra: tuple[bytes, bytes]
) -> bytes:
    """A sparse member of GNU's format 1.0, called ``s``."""
    numbers = [len(pairs), *(n for pair in pairs for n in pair)]
    body = fill(b"".join(b"%d\n" % n for n in numbers)) + content
    return pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % real), *extra,
    ) + member(b"GNUSparseFile.0/s", body)  # fmt: skip


def gnu_tar(directory: Path, *options: str, names: Sequence[str] = (".",)) -> bytes:
    """What GNU tar makes of a directory."""
    done = subprocess.run(
        ["tar", "--numeric-owner", "-C", os.fspath(directory), "-cf", "-", *options, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return done.stdout


def extract_with_gnu_tar(archive: bytes, into: Path) -> None:
    """Unpack with everything GNU tar can restore."""
    subprocess.run(
        ["tar", "-C", os.fspath(into), "--numeric-owner", "--xattrs", "--xattrs-include=*",
         "-xpf", "-"],
        input=archive,
        stderr=subprocess.DEVNULL,
        check=True,
    )  # fmt: skip


class Trickle(io.RawIOBase):
    """A stream that gives its bytes in pieces of at most ``step``."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        self._at = 0
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = self._step if size < 0 else min(size, self._step)
        piece = self._data[self._at : self._at + count]
        self._at += len(piece)
        return piece
