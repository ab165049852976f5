"""Recipes: what is needed to write a layer's original tar again, bit for bit.

A recipe of format ``segments-1`` says how the tar alternates between *literal* bytes
(headers, padding, what follows the end), which the recipe holds itself, and file
content, which it takes from the layer's tree. Content that the tree no longer has,
because a later member of the same name replaced it, is held by the recipe too.

Sources of content are numbered: first the tree's regular files that hold data, in the
tree's order, then the recipe's own in the order of the tar.

Format: docs/format/recipe.md.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats._arrays import array_elements, array_head, batches
from layerstore.formats.tree import SIZE_MAX, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.formats.tree import Changeset, Entry

CANONICAL: Final = "canonical-1"
SEGMENTS: Final = "segments-1"
WHOLE: Final = "whole-1"

MAGIC: Final = b"LSRECIP\0"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIIQQ")
"""Magic, version, bytes of the plan, bytes of the literals, bytes of own content."""

PLAN_MAX_BYTES: Final = 32 << 20
"""Of a plan, which is in memory as a whole: twice what 2,000,000 members in any order take."""

_Wire = tuple[list[int], list[int]]
_DECODER = msgspec.msgpack.Decoder(_Wire)


class Plan(NamedTuple):
    """How a tar alternates between literals and content.

    Attributes:
        steps: Literal length, source, literal length, source, ..., literal length. A
            source is written as its distance from the number after the source before it
            (the first from 0), so that a tar in tree order has nothing but zeros.
        own: Lengths of the recipe's own contents.
        literal_bytes: Sum of all literal lengths.
    """

    steps: list[int]
    own: list[int]
    literal_bytes: int


def write_plan(
    write: Callable[[bytes], object],
    count: int,
    steps: Iterable[tuple[int, int]],
    tail: int,
    own: Sequence[int],
) -> bytes:
    """Write a plan piece by piece and return what comes before it.

    The recipe's literals and then its own contents follow the plan.

    Args:
        write: Takes everything but the beginning, in order.
        count: How many steps there are.
        steps: (literal bytes, number of the source after them) in the tar's order.
        tail: Literal bytes after the last content.
        own: Lengths of the recipe's own contents.
    """
    size = 0
    literal_bytes = tail

    def put(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        write(piece)

    def numbers() -> Iterator[int]:
        nonlocal literal_bytes
        expected = 0
        for length, source in steps:
            literal_bytes += length
            yield length
            yield source - expected
            expected = source + 1
        yield tail

    put(array_head(2) + array_head(2 * count + 1))
    for some in batches(numbers()):
        put(array_elements(some))
    put(array_head(len(own)))
    for some in batches(own):
        put(array_elements(some))
    return HEAD.pack(MAGIC, VERSION, size, literal_bytes, sum(own))


def plan_bytes(head: bytes) -> int:
    """Return the length of the plan, head included, from a recipe's first bytes.

    Raises:
        FormatError: Not a recipe.
        UnsupportedVersionError: A later version.
    """
    if len(head) < HEAD.size or head[: len(MAGIC)] != MAGIC:
        raise FormatError("not a recipe: it does not begin with LSRECIP")
    _, version, body, _, _ = HEAD.unpack_from(head)
    if version != VERSION:
        raise UnsupportedVersionError(
            f"recipe of version {version}, this layerstore reads version {VERSION}"
        )
    if body > PLAN_MAX_BYTES:
        raise FormatError(f"damaged recipe: a plan of {body} bytes, at most {PLAN_MAX_BYTES}")
    return HEAD.size + int(body)


def decode_plan(encoded: bytes) -> Plan:
    """Return the plan at the beginning of a recipe.

    Raises:
        FormatError: Damaged.
        UnsupportedVersionError: A later version.
    """
    end = plan_bytes(encoded)
    _, _, _, literal_bytes, own_bytes = HEAD.unpack_from(encoded)
    try:
        steps, own = _DECODER.decode(encoded[HEAD.size : end])
    except (msgspec.MsgspecError, RecursionError) as err:
        raise FormatError(f"damaged recipe: {err}") from err
    lengths = steps[::2]
    if (
        len(steps) % 2 != 1
        or min(lengths) < 0
        or sum(lengths) != literal_bytes
        or min(own, default=1) <= 0
        or sum(own) != own_bytes
        or literal_bytes + own_bytes > SIZE_MAX
    ):
        raise FormatError("damaged recipe: its lengths contradict each other")
    return Plan(steps, own, literal_bytes)


def segments(plan: Plan, sources: int) -> Iterator[tuple[int, int | None]]:
    """Yield (literal bytes, number of the source after them); None after the last literals.

    Args:
        plan: From :func:`decode_plan`.
        sources: How many contents there are, the tree's and the recipe's own.

    Raises:
        FormatError: A number of no source.
    """
    source = -1
    for at in range(0, len(plan.steps) - 1, 2):
        source += 1 + plan.steps[at + 1]
        if not 0 <= source < sources:
            raise FormatError(f"damaged recipe: it takes content {source} of {sources}")
        yield plan.steps[at], source
    yield plan.steps[-1], None


def content_entries(changeset: Changeset) -> list[Entry]:
    """Return the tree's sources: regular files that hold data, in the tree's order."""
    return [entry for entry in changeset.entries if entry.kind is Kind.FILE and has_content(entry)]


def has_content(entry: Entry) -> bool:
    """Tell whether a regular file holds anything but holes."""
    extents = entry.extents
    # Two holes never follow each other, so a file of more than one extent has data.
    return len(extents) > 1 or (len(extents) == 1 and extents[0][1] is not None)
