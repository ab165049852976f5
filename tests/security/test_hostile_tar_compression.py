"""The hostile corpus for compressed layers: gzip, zstd, xz, bzip2."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import time
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard

from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.decompress import decompressed
from layerstore.image.limits import Limits
from tests.support.tars import END, Trickle, member

if TYPE_CHECKING:
    from collections.abc import Callable

TAR = member(b"a", os.urandom(3000)) + END
ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress(TAR)
GZIP = gzip.compress(TAR, mtime=0)
MIB = 1 << 20
XZ_512_MIB = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 * MIB}]


def plain(packed: bytes, limits: Limits | None = None, step: int = 1 << 18) -> bytes:
    return b"".join(decompressed(Trickle(packed, step).read, limits or Limits()))


def zstd_frame(content: bytes, *, size: int | None = None, window_log: int = 0) -> bytes:
    """A frame of one raw block, its header written by hand."""
    if size is None:
        head = b"\x00" + bytes([(window_log - 10) << 3])
    else:
        head = b"\xc0" + bytes([(max(window_log, 10) - 10) << 3]) + size.to_bytes(8, "little")
    return b"\x28\xb5\x2f\xfd" + head + (len(content) << 3 | 1).to_bytes(3, "little") + content


def skippable(content: bytes, length: int | None = None) -> bytes:
    stated = len(content) if length is None else length
    return b"\x50\x2a\x4d\x18" + stated.to_bytes(4, "little") + content


def flipped(packed: bytes, at: int) -> bytes:
    damaged = bytearray(packed)
    damaged[at] ^= 1
    return bytes(damaged)


REFUSED = {
    "zstd claims 1 TiB of zeros less": zstd_frame(TAR, size=50 << 30, window_log=20),
    "zstd claims 0": zstd_frame(TAR, size=0, window_log=20),
    "zstd checksum": flipped(ZSTD, -1),
    "zstd dictionary": b"\x28\xb5\x2f\xfd\x01\x50\x07" + ZSTD[6:],
    "zstd reserved block": b"\x28\xb5\x2f\xfd\x00\x50" + (7).to_bytes(3, "little"),
    "zstd huge block": b"\x28\xb5\x2f\xfd\x00\x50" + (0x20001 << 3 | 1).to_bytes(3, "little"),
    "zstd truncated": ZSTD[:-10],
    "zstd truncated header": ZSTD[:5],
    "zstd garbage behind": ZSTD + b"garbage",
    "gzip garbage behind": GZIP + b"garbage",
    "gzip CRC": flipped(GZIP, -5),
    "gzip ISIZE": flipped(GZIP, -1),
    "gzip truncated": GZIP[:-1],
    "gzip truncated body": GZIP[:200],
    "gzip of unknown method": b"\x1f\x8b\x07" + GZIP[3:],
    "gzip reserved flags": b"\x1f\x8b\x08\x80" + GZIP[4:],
    "xz truncated": lzma.compress(TAR)[:-4],
    "xz garbage behind": lzma.compress(TAR) + b"garbage!",
    "xz damaged": flipped(lzma.compress(TAR), 100),
    "bzip2 truncated": bz2.compress(TAR)[:-4],
    "bzip2 garbage behind": bz2.compress(TAR) + b"garbage!",
    "lz4": b"\x04\x22\x4d\x18" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
    "compress": b"\x1f\x9d" + bytes(100),
}

SAFE = {
    "plain": TAR,
    "gzip": GZIP,
    "zstd": ZSTD,
    "xz": lzma.compress(TAR),
    "bzip2": bz2.compress(TAR),
    "two zstd frames": (
        zstandard.ZstdCompressor().compress(TAR[:700])
        + zstandard.ZstdCompressor().compress(TAR[700:])
    ),
    "zstd without size": zstandard.ZstdCompressor(write_content_size=False).compress(TAR),
    "zstd raw block": zstd_frame(TAR, window_log=20),
    "zstd skippable frames": skippable(b"before") + ZSTD + skippable(b"table of contents" * 9),
    "zstd empty frames": zstd_frame(b"", window_log=20) * 20 + ZSTD,
    "ten thousand frames": b"".join(
        zstd_frame(TAR[at : at + 1], window_log=10) for at in range(len(TAR))
    ),
    "gzip members": gzip.compress(TAR[:700]) + gzip.compress(b"") + gzip.compress(TAR[700:]),
    "gzip zeros behind": GZIP + bytes(1000),
    "zstd zeros behind": ZSTD + bytes(1000),
    "xz streams": lzma.compress(TAR[:700]) + lzma.compress(TAR[700:]),
    "bzip2 streams and zeros": bz2.compress(TAR[:700]) + bz2.compress(TAR[700:]) + bytes(10),
    "gzip with name": (
        b"\x1f\x8b\x08\x1e" + bytes(6) + b"\3\0abc" + b"name\0comment\0" + b"\0\0" + GZIP[10:]
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("step", [1 << 18, 7])
def test_refused(name: str, step: int) -> None:
    with pytest.raises(FormatError):
        plain(REFUSED[name], step=step)


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("step", [1 << 18, 1])
def test_accepted(name: str, step: int) -> None:
    assert plain(SAFE[name], step=step) == TAR


@pytest.mark.parametrize(
    ("packed", "limit"),
    [
        (zstd_frame(TAR, size=32 << 40, window_log=20), "expanded_bytes"),
        (zstd_frame(TAR, window_log=31), "window_bytes"),
        (zstd_frame(b"", window_log=29), "window_bytes"),
        (skippable(b"", 0xFFFF_FFFF), "skippable_bytes"),
        (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (10 * MIB), "gzip_header_bytes"),
        (lzma.compress(b"x", filters=XZ_512_MIB), "memory"),
    ],
    ids=["claim", "window 2^31", "window 2^29", "skippable", "gzip name", "xz dictionary"],
)  # fmt: skip
def test_limited(packed: bytes, limit: str) -> None:
    with pytest.raises(LimitExceededError, match=limit):
        plain(packed)


def zstd_zeros() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(256 * MIB))


def bzip2_zeros() -> bytes:
    return bz2.compress(bytes(64 * MIB))


@pytest.mark.parametrize("make", [zstd_zeros, bzip2_zeros])
def test_ratio_bombs_stop_early(make: Callable[[], bytes]) -> None:
    packed = make()
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spans = decompressed(io.BytesIO(packed).read, Limits())
    with pytest.raises(LimitExceededError, match="ratio"):
        assert all(len(span) <= 2 * MIB for span in spans)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_honest_zeros_in_gzip_pass() -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(128)) + packer.flush()
    assert sum(map(len, decompressed(io.BytesIO(packed).read, Limits()))) == 128 * MIB


def test_expanded_limit_is_exact() -> None:
    assert plain(GZIP, Limits(expanded_bytes=len(TAR))) == TAR
    with pytest.raises(LimitExceededError, match="expanded_bytes"):
        plain(GZIP, Limits(expanded_bytes=len(TAR) - 1))


def test_name_that_looks_like_a_magic_stays_a_tar() -> None:
    assert plain(member(b"BZh9 notes") + END)[:4] == b"BZh9"
