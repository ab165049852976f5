"""Deflate blocks as Go's compress/flate writes them: stored, fixed or dynamic codes.

A token is a literal (0 to 255) or a match: ``MATCH | (length - 3) << 16 | (distance - 1)``.
Source: RFC 1951; which kind of block is taken, and how the code lengths are written: Go 1.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerstore.formats.goflate._compiled import compiled
from layerstore.formats.goflate.huffman import CODE_MASK, LENGTH_SHIFT, bit_length, generate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Ints = NDArray[np.int64]

MATCH = 1 << 24
STORED_MAX_BYTES = 65535
NOT_THERE = -1
"""For the beginning of a block's plain bytes that are no longer in the window."""

BITS, BITS_COUNT, MADE = 0, 1, 2
"""The places of a writer's state: bits that are no byte yet, how many, bytes in ``out``."""

_END = 256
_LITERALS = 286
_DISTANCES = 30
_LENGTH_EXTRA = np.array([0] * 8 + [n // 4 for n in range(4, 24)] + [0], np.int64)
_DISTANCE_EXTRA = np.array([0, 0] + [n // 2 for n in range(28)], np.int64)
_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int64)


def _bases(extra: Ints) -> Ints:
    bases: Ints = np.concatenate(([0], np.cumsum(1 << extra)[:-1]))
    return bases


_LENGTH_BASE = _bases(_LENGTH_EXTRA)
_LENGTH_BASE[28] = 255
_DISTANCE_BASE = _bases(_DISTANCE_EXTRA)
_LENGTH_CODE = np.searchsorted(_LENGTH_BASE, np.arange(256), side="right") - 1
_DISTANCE_CODE = np.searchsorted(_DISTANCE_BASE, np.arange(1 << 15), side="right") - 1
_FIXED_LITERALS = np.zeros(_LITERALS, np.int64)
_FIXED_DISTANCES = np.zeros(_DISTANCES, np.int64)


def _reversed(code: int, length: int) -> int:
    return int(f"{code:0{length}b}"[::-1], 2) | length << LENGTH_SHIFT


for _symbol in range(_LITERALS):
    if _symbol < 144:
        _FIXED_LITERALS[_symbol] = _reversed(48 + _symbol, 8)
    elif _symbol < 256:
        _FIXED_LITERALS[_symbol] = _reversed(400 + _symbol - 144, 9)
    elif _symbol < 280:
        _FIXED_LITERALS[_symbol] = _reversed(_symbol - 256, 7)
    else:
        _FIXED_LITERALS[_symbol] = _reversed(192 + _symbol - 280, 8)
for _symbol in range(_DISTANCES):
    _FIXED_DISTANCES[_symbol] = _reversed(_symbol, 5)


@compiled
def write_block(
    tokens: Ints, count: int, window: Bytes, start: int, end: int, state: Ints, out: Bytes
) -> None:
    """Write a block in the kind that is smallest.

    Args:
        tokens: What the block holds.
        count: Tokens of it.
        window: Has the block's plain bytes.
        start: Where they begin; may be ``NOT_THERE``.
        end: Where they end.
        state: The writer's.
        out: Takes what is written: 3 bytes for each plain one, and 1 KiB, are enough.
    """
    literals, distances = _frequencies(tokens, count)
    codes = np.zeros(_LITERALS, np.int64)
    distance_codes = np.zeros(_DISTANCES, np.int64)
    generate(literals, 15, codes)
    generate(distances, 15, distance_codes)
    extra = 0
    for at in range(len(_LENGTH_EXTRA)):
        extra += literals[_END + 1 + at] * _LENGTH_EXTRA[at]
    for at in range(_DISTANCES):
        extra += distances[at] * _DISTANCE_EXTRA[at]
    lengths, header_codes, header_bits = _header(literals, codes, distances, distance_codes)
    size = header_bits + bit_length(literals, codes) + bit_length(distances, distance_codes)
    fixed = 3 + bit_length(literals, _FIXED_LITERALS) + bit_length(distances, _FIXED_DISTANCES)
    is_dynamic = size < fixed
    if _is_stored(start, end, min(size, fixed) + extra):
        write_stored(window, start, end, state, out)
    elif is_dynamic:
        _write_header(literals, distances, lengths, header_codes, state, out)
        _write_tokens(tokens, count, codes, distance_codes, state, out)
    else:
        put(state, out, 2, 3)
        _write_tokens(tokens, count, _FIXED_LITERALS, _FIXED_DISTANCES, state, out)


@compiled
def write_dynamic(
    tokens: Ints, count: int, window: Bytes, end: int, state: Ints, out: Bytes
) -> None:
    """Write a block in codes of its own, or stored if they save less than a seventeenth.

    Bits beside the codes are not counted, as Go does not for its fastest level. For the
    arguments see :func:`write_block`; the plain bytes begin the window.
    """
    literals, distances = _frequencies(tokens, count)
    codes = np.zeros(_LITERALS, np.int64)
    distance_codes = np.zeros(_DISTANCES, np.int64)
    generate(literals, 15, codes)
    generate(distances, 15, distance_codes)
    lengths, header_codes, header_bits = _header(literals, codes, distances, distance_codes)
    size = header_bits + bit_length(literals, codes) + bit_length(distances, distance_codes)
    if _is_stored(0, end, size + (size >> 4)):
        write_stored(window, 0, end, state, out)
    else:
        _write_header(literals, distances, lengths, header_codes, state, out)
        _write_tokens(tokens, count, codes, distance_codes, state, out)


@compiled
def put(state: Ints, out: Bytes, value: int, count: int) -> None:
    """Write up to 32 bits, the lowest first."""
    bits = state[BITS] | value << state[BITS_COUNT]
    pending = state[BITS_COUNT] + count
    made = state[MADE]
    while pending >= 8:
        out[made] = bits & 0xFF
        made += 1
        bits >>= 8
        pending -= 8
    state[BITS], state[BITS_COUNT], state[MADE] = bits, pending, made


@compiled
def write_stored_header(length: int, is_last: int, state: Ints, out: Bytes) -> None:
    """Write what begins a stored block, at whose end the bytes are whole."""
    put(state, out, is_last, 3)
    if state[BITS_COUNT]:
        put(state, out, 0, 8 - state[BITS_COUNT])
    put(state, out, length, 16)
    put(state, out, length ^ 0xFFFF, 16)


@compiled
def _is_stored(start: int, end: int, size: int) -> bool:
    length = end - start
    return start != NOT_THERE and length <= STORED_MAX_BYTES and (length + 5) * 8 < size


@compiled
def write_stored(window: Bytes, start: int, end: int, state: Ints, out: Bytes) -> None:
    """Write a stored block of bytes of the window."""
    write_stored_header(end - start, 0, state, out)
    made = state[MADE]
    for at in range(start, end):
        out[made] = window[at]
        made += 1
    state[MADE] = made


@compiled
def _frequencies(tokens: Ints, count: int) -> tuple[Ints, Ints]:
    literals = np.zeros(_LITERALS, np.int64)
    distances = np.zeros(_DISTANCES, np.int64)
    literals[_END] = 1
    has_match = False
    for at in range(count):
        token = tokens[at]
        if token < MATCH:
            literals[token] += 1
        else:
            has_match = True
            literals[_END + 1 + _LENGTH_CODE[token >> 16 & 0xFF]] += 1
            distances[_DISTANCE_CODE[token & 0x7FFF]] += 1
    if not has_match:
        distances[0] = 1  # a block must have a code of distances
    return literals, distances


@compiled
def _used(freq: Ints, least: int) -> int:
    count = len(freq)
    while count > least and freq[count - 1] == 0:
        count -= 1
    return count


@compiled
def _header(
    literals: Ints, codes: Ints, distances: Ints, distance_codes: Ints
) -> tuple[Ints, Ints, int]:
    """Return a dynamic block's code lengths, run by run, their codes, and the header's bits.

    A run is a symbol of the code lengths' code, and above its lowest 8 bits the number that
    follows it.
    """
    count, distance_count = _used(literals, 257), _used(distances, 1)
    total = count + distance_count
    runs = np.empty(total, np.int64)
    freq = np.zeros(19, np.int64)
    used = at = 0
    while at < total:
        length = (codes[at] if at < count else distance_codes[at - count]) >> LENGTH_SHIFT
        end = at + 1
        while end < total and length == (
            (codes[end] if end < count else distance_codes[end - count]) >> LENGTH_SHIFT
        ):
            end += 1
        repeats = end - at
        at = end
        if length:
            runs[used] = length
            used += 1
            freq[length] += 1
            repeats -= 1
        least = 3 if length else 11
        while repeats >= least:
            taken = min(repeats, 6 if length else 138)
            symbol = 16 if length else 18
            runs[used] = symbol | (taken - least) << 8
            used += 1
            freq[symbol] += 1
            repeats -= taken
        if not length and repeats >= 3:
            runs[used] = 17 | (repeats - 3) << 8
            used += 1
            freq[17] += 1
            repeats = 0
        for _ in range(repeats):
            runs[used] = length
            used += 1
            freq[length] += 1
    header_codes = np.zeros(19, np.int64)
    generate(freq, 7, header_codes)
    bits = 3 + 5 + 5 + 4 + 3 * _lengths_written(header_codes) + bit_length(freq, header_codes)
    return runs[:used], header_codes, bits + freq[16] * 2 + freq[17] * 3 + freq[18] * 7


@compiled
def _lengths_written(header_codes: Ints) -> int:
    count = 19
    while count > 4 and header_codes[_ORDER[count - 1]] == 0:
        count -= 1
    return count


@compiled
def _write_header(
    literals: Ints, distances: Ints, runs: Ints, header_codes: Ints, state: Ints, out: Bytes
) -> None:
    put(state, out, 4, 3)
    put(state, out, _used(literals, 257) - 257, 5)
    put(state, out, _used(distances, 1) - 1, 5)
    written = _lengths_written(header_codes)
    put(state, out, written - 4, 4)
    for at in range(written):
        put(state, out, header_codes[_ORDER[at]] >> LENGTH_SHIFT, 3)
    for run in runs:
        symbol = run & 0xFF
        code = header_codes[symbol]
        put(state, out, code & CODE_MASK, code >> LENGTH_SHIFT)
        if symbol == 16:
            put(state, out, run >> 8, 2)
        elif symbol == 17:
            put(state, out, run >> 8, 3)
        elif symbol == 18:
            put(state, out, run >> 8, 7)


@compiled
def _write_tokens(
    tokens: Ints, count: int, codes: Ints, distance_codes: Ints, state: Ints, out: Bytes
) -> None:
    bits, pending, made = state[BITS], state[BITS_COUNT], state[MADE]
    for at in range(count):
        token = tokens[at]
        symbol = token
        if token >= MATCH:
            symbol = _END + 1 + _LENGTH_CODE[token >> 16 & 0xFF]
        code = codes[symbol]
        bits |= (code & CODE_MASK) << pending
        pending += code >> LENGTH_SHIFT
        if token >= MATCH:
            symbol -= _END + 1
            bits |= ((token >> 16 & 0xFF) - _LENGTH_BASE[symbol]) << pending
            pending += _LENGTH_EXTRA[symbol]
            symbol = _DISTANCE_CODE[token & 0x7FFF]
            code = distance_codes[symbol]
            bits |= (code & CODE_MASK) << pending
            pending += code >> LENGTH_SHIFT
            bits |= ((token & 0x7FFF) - _DISTANCE_BASE[symbol]) << pending
            pending += _DISTANCE_EXTRA[symbol]
        while pending >= 8:  # at most 7 bits and a match's 48 are pending
            out[made] = bits & 0xFF
            made += 1
            bits >>= 8
            pending -= 8
    state[BITS], state[BITS_COUNT], state[MADE] = bits, pending, made
    put(state, out, codes[_END] & CODE_MASK, codes[_END] >> LENGTH_SHIFT)
