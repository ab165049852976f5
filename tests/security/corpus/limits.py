"""Every limit of layers: one less, exactly, one more.

At their real values where that is cheap; the others are lowered by the case, which says so.
Cases belong to the entry of the list that the limit is for.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import zstandard

from layerstore.formats.tar_limits import Limits
from layerstore.formats.tree import DEPTH_MAX, NAME_MAX_BYTES, PATH_MAX_BYTES, TARGET_MAX_BYTES
from tests.security.corpus.compression import skippable
from tests.security.corpus.entrances import as_layer
from tests.security.corpus.model import Case, Place, Way
from tests.support.tars import END, member, old_sparse, pax, pax_raw, record, sparse_1, symlink

Make = Callable[[int], bytes]
REAL = Limits()


def around(entry: str, limit: str, make: Make, *, value: int | None = None, says: str = "",
           beyond: str = "L", step: int = 1) -> list[Case]:  # fmt: skip
    """Return the three cases around a limit.

    Args:
        entry: Of the list.
        limit: Its name: a field of Limits, or only a word.
        make: Makes an archive that costs so much, without end blocks.
        value: Where the limit is lowered to, or stands if it is no field of Limits.
        says: What the error matches, if not the limit's name.
        beyond: What becomes of one more.
        step: What one more is, when the limit moves in blocks.
    """
    is_field = limit in msgspec.structs.asdict(REAL)
    limits = REAL
    if is_field and value is not None:
        limits = msgspec.structs.replace(REAL, **{limit: value})
    at = getattr(REAL, limit) if value is None else value
    lowered = ", lowered" if limits is not REAL else ""
    return [
        _case(entry, f"{limit} of {at:,}{lowered}: {word}", verdict, make, at + more, limits,
              (says or limit) if verdict == "L" else "")
        for word, more, verdict in (
            ("less", -step, "S"), ("exactly", 0, "S"), ("more", step, beyond)
        )
    ]  # fmt: skip


def _case(entry: str, name: str, verdict: str, make: Make, cost: int, limits: Limits,
          says: str) -> Case:  # fmt: skip
    def act(place: Place) -> None:
        with place.store() as store:
            as_layer(store, io.BytesIO(make(cost) + END), limits)

    return Case(entry, name, (Way("layer", verdict, act, says),))


def _record_of(size: int) -> bytes:
    """A pax record of exactly that many bytes."""
    for digits in range(1, 10):
        value = b"v" * max(size - digits - len(b" comment=\n"), 0)
        if len(record(b"comment", value)) == size:
            return record(b"comment", value)
    raise AssertionError(f"there is no record of {size} bytes")


def _global(size: int) -> bytes:
    """Global headers that cost exactly that many bytes, their blocks included."""
    body = pax_raw(_record_of(size - 512), typeflag=b"g")
    assert len(body) == size
    return body + member(b"a")


def _xattrs(total: int) -> bytes:
    """Attributes of exactly that many bytes, names and values."""
    names = [b"user.%02d" % number for number in range(20)]
    each, rest = divmod(total - sum(map(len, names)), len(names))
    values = [b"v" * (each + (rest if number == 0 else 0)) for number in range(len(names))]
    pairs = zip(names, values, strict=True)
    return pax(*((b"SCHILY.xattr." + name, value) for name, value in pairs)) + member(b"a")


def _path(size: int) -> bytes:
    name = (b"p" * 254 + b"/") * 17
    path = name[:size]
    return pax((b"path", path[:-1] + b"q")) + member(b"x")


def _zstd(size: int) -> bytes:
    """A compressed archive of exactly that many bytes, its end included."""
    tar = member(b"a", bytes(size - 512 - len(END)))
    return zstandard.ZstdCompressor().compress(tar + END)


def _packed_case(name: str, verdict: str, packed: bytes, limits: Limits, says: str) -> Case:
    def act(place: Place) -> None:
        with place.store() as store:
            as_layer(store, io.BytesIO(packed), limits)

    return Case("F24", name, (Way("layer", verdict, act, says),))


def _ratio_cases() -> list[Case]:
    """The ratio counts once ``ratio_after_bytes`` came out, and then to the byte."""
    limits = Limits(ratio=2000, ratio_after_bytes=1 << 20)
    size = 4 << 20
    packed = _zstd(size)
    fitting = -(-size // 2000)
    # What the ratio is taken of is what was read so far: with this in front it fits.
    front = skippable(bytes(fitting - len(packed) - 8))
    return [
        _packed_case("ratio of 2,000, too early", "S", _zstd(1 << 20), limits, ""),
        _packed_case("ratio of 2,000, late", "L", _zstd((1 << 20) + 512), limits, "ratio"),
        _packed_case("ratio of 2,000: exactly", "S", front + packed, limits, ""),
        _packed_case("ratio of 2,000: more", "L", packed, limits, "ratio"),
    ]  # fmt: skip


CASES = [
    *around("C46", "entries", lambda n: b"".join(member(b"%d" % i) for i in range(n)), value=100),
    *around("C46", "metadata_bytes",
            lambda n: b"".join(member(b"d/%04d" % i) for i in range(99))
            + pax((b"SCHILY.xattr.user.a", b"v" * (n - 99 * (6 + 96) - 97 - (8 + 96 + 6))))
            + member(b"xxxxxxxx"), value=1 << 14),
    *around("C38", "pax_bytes", lambda n: pax_raw(_record_of(n)) + member(b"a")),
    *around("C40", "global_pax_bytes", _global, step=512),
    *around("C44", "owner_name_bytes", lambda n: pax((b"uname", b"u" * n)) + member(b"a")),
    *around("C41", "sparse_regions",
            lambda n: old_sparse(b"s", [(i * 1024, 512) for i in range(n)], n * 1024 - 512,
                                   bytes(n * 512)),
            value=1000),
    *around("C42", "sparse_regions",
            lambda n: sparse_1([(i * 1024, 512) for i in range(n)], n * 1024 - 512,
                                   bytes(n * 512)), value=1000),
    *around("C43", "logical_bytes", lambda n: sparse_1([(0, 1), (n, 0)], n, b"1")),
    *around("C45", "trailing_bytes", lambda n: member(b"a") + END + bytes(n - len(END))),
    *around("C37", "expanded_bytes", lambda n: member(b"a", bytes(n - 512 - len(END))),
            value=1 << 20, step=512),
    *around("A15", "name", lambda n: pax((b"path", b"n" * n)) + member(b"x"),
            value=NAME_MAX_BYTES, beyond="R"),
    *around("A16", "path", _path, value=PATH_MAX_BYTES),
    *around("A21", "depth", lambda n: pax((b"path", b"/".join([b"d"] * n))) + member(b"x"),
            value=DEPTH_MAX),
    *around("B04", "target", lambda n: pax((b"linkpath", b"t" * n)) + symlink(b"a", b"x"),
            value=TARGET_MAX_BYTES, beyond="R"),
    *around("E17", "xattr_value_bytes",
            lambda n: pax((b"SCHILY.xattr.user.a", b"v" * n)) + member(b"a")),
    *around("E18", "xattrs",
            lambda n: pax(*((b"SCHILY.xattr.user.%d" % i, b"") for i in range(n))) + member(b"a")),
    *around("E18", "xattr_total_bytes", _xattrs, value=1 << 19),
    *_ratio_cases(),
]  # fmt: skip
