"""MessagePack arrays written piece by piece, in their shortest form."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TOGETHER: Final = 512
"""Elements that are best encoded at once."""

T = TypeVar("T")

_ENCODER = msgspec.msgpack.Encoder()


def array_head(count: int) -> bytes:
    """Return what comes before the elements of an array."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def array_elements(values: Sequence[object]) -> bytes:
    """Return some elements of an array, without a head."""
    return _ENCODER.encode(values)[len(array_head(len(values))) :]


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield values in lists of some hundreds."""
    rest = iter(values)
    while some := list(islice(rest, TOGETHER)):
        yield some
