"""Where content is cut into chunks.

Content up to a limit is one chunk; longer content is cut by FastCDC with normalized
chunking, so that an insertion disturbs only the chunks around it.
Cuts depend on the bytes alone, never on how they were read. Pure: no I/O of its
own. The parameters are part of a store's format: golden tests freeze the cuts.
Normative: docs/format/chunking.md.

Source: Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking
Approach for Data Deduplication", USENIX ATC 2016; the two-bytes-a-step form of 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUT_MAX_BYTES: Final = 1024 * 1024
"""The longest chunk that any parameters may allow: it must fit a block (format break)."""

BUFFER_BYTES: Final = 2 * CUT_MAX_BYTES
"""Bytes held while streaming: a cut needs at most ``CUT_MAX_BYTES`` of look-ahead. The memory of
one twice as long goes back to the kernel each time, and making its pages anew costs as much as
cutting."""


class CutParameters(NamedTuple):
    """Where a store cuts; part of its config, since other cuts would not be shared.

    Attributes:
        whole_max_bytes: Longest content kept as one chunk.
        min_bytes: Shortest chunk that FastCDC cuts, but for the last.
        average_bytes: A power of two.
        max_bytes: Longest chunk.
        normalization: FastCDC's level: 2 keeps most chunks near the average.
    """

    whole_max_bytes: int
    min_bytes: int
    average_bytes: int
    max_bytes: int
    normalization: int


DEFAULT_CUTS: Final = CutParameters(256 * 1024, 16 * 1024, 64 * 1024, 256 * 1024, 2)
"""What new stores are made with: measured in docs/decisions/0090."""


class SourceEndedError(Exception):
    """The source gave fewer bytes than its size promised.

    Attributes:
        missing: How many bytes did not come.
    """

    def __init__(self, missing: int) -> None:
        super().__init__(f"source ended {missing} bytes early")
        self.missing = missing


def _fastcdc_lengths(data: bytes | bytearray | memoryview, cuts: CutParameters) -> Iterator[int]:
    from pyfastcdc import FastCDC  # lazily: most commands cut nothing

    chunker = FastCDC(
        cuts.average_bytes,
        min_size=cuts.min_bytes,
        max_size=cuts.max_bytes,
        normalized_chunking=cuts.normalization,  # type: ignore[arg-type]
    )
    for chunk in chunker.cut_buf(data):
        yield int(chunk.length)


def cut_stream(
    read: Callable[[int], bytes], size: int, cuts: CutParameters
) -> Iterator[memoryview]:
    """Yield the chunks of exactly ``size`` bytes from ``read``, a bounded buffer at a time.

    The views are of ``bytes`` objects: they never change and may be kept, though each
    keeps up to ``BUFFER_BYTES`` alive.

    Args:
        read: Returns 1 to n bytes for ``read(n)``, or none at the end.
        size: Bytes to take; nothing beyond them is read.
        cuts: Where to cut.

    Raises:
        SourceEndedError: ``read`` ended early.
    """
    if size <= cuts.whole_max_bytes:
        if size:
            yield memoryview(_filled(b"", read, size))
        return
    rest = memoryview(b"")
    left = size
    while left or rest:
        wanted = min(left, BUFFER_BYTES - len(rest))
        view = memoryview(_filled(rest, read, wanted))
        left -= wanted
        start = 0
        for length in _fastcdc_lengths(view, cuts):
            # A cut may look max_bytes ahead: without them only the end is certain.
            if left and len(view) - start < cuts.max_bytes:
                break
            yield view[start : start + length]
            start += length
        rest = view[start:]


def _filled(head: bytes | memoryview, read: Callable[[int], bytes], count: int) -> bytes:
    """Return ``head`` and exactly ``count`` bytes from ``read``."""
    parts = [head] if head else []
    while count:
        part = read(count)
        if not part:
            raise SourceEndedError(count)
        if len(part) > count:
            raise AssertionError("read returned more than was asked for")
        parts.append(part)
        count -= len(part)
    # A whole file in one piece is not copied.
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
