"""Archives for the comparison with GNU tar: honest ones, odd ones, and slightly damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.security.fuzz.mutate import change_once
from tests.security.fuzz.seeds import TAR_TOKENS, repair_tar
from tests.support.tars import (
    END,
    GNU,
    USTAR,
    V7,
    base256,
    gnu_long,
    member,
    old_sparse,
    pax,
    sparse_1,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_NAMES = (b"a", b"b", b"c", b"d", b"d/x", b"d/y", b"d/e", b"d/e/z", b"f/g", b"./a", b"d//x", b"/q")
_TARGETS = (b"a", b"d", b"../x", b"/etc/passwd", b"nowhere", b"d/e/z", b".")
_MODES = (0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0o400, 0o100644)


def archive(random: Random) -> bytes:
    """Return one archive, ended or not; the same random state gives the same."""
    body = b"".join(_member(random) for _ in range(random.randrange(1, 6)))
    data = body + random.choice((END, END, END, b"", END + b"behind", bytes(512)))
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        data = change_once(random, data, [data], TAR_TOKENS)
        if random.random() < 0.8:
            data = repair_tar(data)
    return data


def _member(random: Random) -> bytes:
    make = random.choice(_MAKERS)
    return make(random)


def _fields(random: Random) -> dict[str, object]:
    mtime = random.choice((0, 1, 1_600_000_000, base256(-5, 12), base256(1 << 33, 12)))
    return {
        "mode": random.choice(_MODES), "uid": random.choice((0, 1000, 65534)),
        "gid": random.choice((0, 5, base256(70_000, 8))), "mtime": mtime,
        "magic": random.choice((USTAR, USTAR, GNU)),
    }  # fmt: skip


def _name(random: Random) -> bytes:
    return random.choice(_NAMES)


def _file(random: Random) -> bytes:
    content = random.randbytes(random.choice((0, 1, 511, 512, 513, 2000)))
    return member(_name(random), content, typeflag=random.choice((b"0", b"0", b"7", b"\0")),
                  **_fields(random))  # fmt: skip


def _v7(random: Random) -> bytes:
    name = _name(random) + random.choice((b"", b"/"))
    return member(name, b"" if name.endswith(b"/") else b"v7", magic=V7, typeflag=b"\0")


def _directory(random: Random) -> bytes:
    name = random.choice((b"d", b"d/", b"d/e/", b"f/", b"./", b"a", b"x/y/z/"))
    return member(name, typeflag=b"5", **_fields(random))


def _symlink(random: Random) -> bytes:
    return member(_name(random), typeflag=b"2", linkname=random.choice(_TARGETS),
                  **_fields(random))  # fmt: skip


def _hardlink(random: Random) -> bytes:
    return member(_name(random), typeflag=b"1", linkname=random.choice(_NAMES),
                  **_fields(random))  # fmt: skip


def _special(random: Random) -> bytes:
    return member(_name(random), typeflag=random.choice((b"3", b"4", b"6")), devmajor=1,
                  devminor=random.choice((3, 5, 300)), **_fields(random))  # fmt: skip


def _extended(random: Random) -> bytes:
    records = {
        b"path": random.choice((b"long/" + b"n" * 120, b"d/pax", b"\xff\xfe", b"a b\n")),
        b"mtime": random.choice((b"1.5", b"-1.25", b"1600000000.123456789", b"0")),
        b"uid": random.choice((b"1", b"3000000")), b"comment": b"x",
        b"SCHILY.xattr.user.k": random.choice((b"", b"v", b"\0\xff")),
    }  # fmt: skip
    chosen = random.sample(sorted(records.items()), random.randrange(1, 4))
    return pax(*chosen) + random.choice(_PLAIN)(random)


def _long(random: Random) -> bytes:
    name = gnu_long(b"g/" + b"n" * random.choice((98, 99, 120, 300)))
    fields = {**_fields(random), "magic": GNU}
    return name + member(b"cut", b"long", **fields)


def _prefixed(random: Random) -> bytes:
    return member(b"n" * 100, b"p", prefix=random.choice((b"p" * 155, b"p/q", b"/abs")),
                  **{**_fields(random), "magic": USTAR})  # fmt: skip


def _global(random: Random) -> bytes:
    return pax((b"comment", b"global"), typeflag=b"g")


_MAPS = (
    [(0, 512), (4096, 0)], [(512, 512), (2048, 100), (4096, 0)], [(4096, 0)], [(0, 512)],
    [(0, 1024), (3584, 512)], [(0, 512), (512, 512), (4096, 0)], [(1, 2), (5, 1)],
)  # fmt: skip


def _sparse(random: Random) -> bytes:
    pairs = random.choice(_MAPS)
    content = random.randbytes(sum(length for _, length in pairs))
    if random.random() < 0.5:
        return sparse_1(pairs, 4096, content)
    return old_sparse(b"s", pairs, 4096, content)


_PLAIN: tuple[Callable[[Random], bytes], ...] = (_file, _directory, _symlink, _hardlink)
_MAKERS = (
    _file, _file, _file, _directory, _directory, _symlink, _hardlink, _hardlink, _special,
    _extended, _extended, _long, _prefixed, _global, _sparse, _v7,
)  # fmt: skip
