"""How Go's compress/flate finds matches: levels 2 to 9 by chains of hashes, level 1 by a table.

Every position, limit and order counts, down to which positions are hashed; source: Go 1.19.
State lives in arrays of integers, so that a stream can go on from call to call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerstore.formats.goflate._compiled import compiled
from layerstore.formats.goflate.blocks import (
    MATCH,
    NOT_THERE,
    STORED_MAX_BYTES,
    write_block,
    write_dynamic,
    write_stored,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Ints = NDArray[np.int64]
    SmallInts = NDArray[np.int32]

WINDOW_BYTES = 1 << 15
HASH_SIZE = 1 << 17
BLOCK_TOKENS = 1 << 14
TABLE_SIZE = 1 << 14

LAZY, NICE, CHAIN, SKIP = 0, 1, 2, 3
"""A level's parameters. SKIP of 0: matches are lazy; else the longest that is hashed inside."""
LEVELS = {
    2: (0, 16, 8, 5),
    3: (0, 32, 32, 6),
    4: (4, 16, 16, 0),
    5: (16, 32, 32, 0),
    6: (16, 128, 128, 0),
    7: (32, 128, 256, 0),
    8: (128, 258, 1024, 0),
    9: (258, 258, 4096, 0),
}

INDEX, END, BLOCK, HAS_BYTE, LENGTH, DISTANCE, HEAD, OFFSET, TOKENS, PASSED, WORK = range(11)
"""Places of an encoder's state: the next position, bytes in the window, where the block begins,
whether the byte before is not yet a token, the match there, the chain's head, what positions are
counted from in the tables, tokens of the block, bytes before the window, bytes compared so far."""

WORK_FREE = 1 << 28
WORK_PER_BYTE = 1 << 9
"""Comparisons that a stream may cost: about a second, and a second more for each megabyte. A
Debian root takes 6 for each byte at level 6 and 56 at level 9; content can be made to take more."""

_MIN_MATCH = 4
_MAX_MATCH = 258
_MARGIN = _MIN_MATCH + _MAX_MATCH
_FAR = 4096
"""A match of 4 bytes from farther away costs more than literals."""
_MULTIPLIER = 0x1E35A7BD
_HASH_SHIFT = 15
_OFFSET_MAX = 1 << 24
_TABLE_SHIFT = 18
_FAST_MARGIN = 15
_FAST_STORED_BYTES = 16
_FAST_MATCHED_BYTES = 128
"""A last block of fewer bytes has literals only; of at most the former, it is stored."""
_FAST_RESET = 0x7FFFFFFF - 2 * STORED_MAX_BYTES


def new_state() -> Ints:
    """Return the state of an encoder of levels 2 to 9 before its first byte."""
    state = np.zeros(WORK + 1, np.int64)
    state[LENGTH] = _MIN_MATCH - 1
    state[HEAD] = -1
    state[OFFSET] = 1
    return state


def new_fast_state() -> Ints:
    """Return the state of an encoder of level 1 before its first byte."""
    state = np.zeros(WORK + 1, np.int64)
    state[OFFSET] = STORED_MAX_BYTES
    return state


@compiled
def is_too_much(state: Ints) -> bool:
    """Return whether the stream so far took more comparisons than it may, wherever it was cut."""
    return bool(state[WORK] > WORK_FREE + WORK_PER_BYTE * (state[PASSED] + state[INDEX]))


@compiled
def write(
    piece: Bytes, state: Ints, level: Ints, window: Bytes, heads: SmallInts, before: SmallInts,
    tokens: Ints, writer: Ints, out: Bytes,
) -> None:  # fmt: skip
    """Compress a piece of the stream, as far as can be without knowing what follows.

    Stops where it is too much; the stream is of no use then.
    """
    at = 0
    while at < len(piece) and not is_too_much(state):
        deflate(False, state, level, window, heads, before, tokens, writer, out)
        if state[INDEX] >= 2 * WINDOW_BYTES - _MARGIN:
            _slide(state, window, heads, before)
        end = state[END]
        count = min(len(piece) - at, len(window) - end)
        for of_piece in range(count):
            window[end + of_piece] = piece[at + of_piece]
        at += count
        state[END] += count


@compiled
def _slide(state: Ints, window: Bytes, heads: SmallInts, before: SmallInts) -> None:
    for at in range(WINDOW_BYTES):
        window[at] = window[WINDOW_BYTES + at]
    state[INDEX] -= WINDOW_BYTES
    state[END] -= WINDOW_BYTES
    state[PASSED] += WINDOW_BYTES
    if state[BLOCK] >= WINDOW_BYTES:
        state[BLOCK] -= WINDOW_BYTES
    else:
        state[BLOCK] = NOT_THERE
    state[OFFSET] += WINDOW_BYTES
    if state[OFFSET] > _OFFSET_MAX:
        less = state[OFFSET] - 1
        state[OFFSET] = 1
        state[HEAD] -= less
        for at in range(len(before)):
            before[at] = max(before[at] - less, 0)
        for at in range(len(heads)):
            heads[at] = max(heads[at] - less, 0)


@compiled
def deflate(
    is_end: bool, state: Ints, level: Ints, window: Bytes, heads: SmallInts, before: SmallInts,
    tokens: Ints, writer: Ints, out: Bytes,
) -> None:  # fmt: skip
    """Turn the window into tokens and blocks; but for the end, all of it but the last bytes."""
    index, end, has_byte = state[INDEX], state[END], state[HAS_BYTE]
    length, distance, head = state[LENGTH], state[DISTANCE], state[HEAD]
    offset, used = state[OFFSET], state[TOKENS]
    lazy, skip = level[LAZY], level[SKIP]
    hashed_end = end - (_MIN_MATCH - 1)
    while True:
        state[INDEX] = index
        lookahead = end - index
        if lookahead == 0 or (lookahead < _MARGIN and not is_end) or is_too_much(state):
            break
        if index < hashed_end:
            key = _hash(window, index)
            head = np.int64(heads[key])
            before[index & WINDOW_BYTES - 1] = head
            heads[key] = index + offset
        last_length, last_distance = length, distance
        length, distance = _MIN_MATCH - 1, 0
        if head - offset >= max(index - WINDOW_BYTES, 0) and (
            skip > 0 or (lookahead > last_length and last_length < lazy)
        ) and lookahead > _MIN_MATCH - 1:  # fmt: skip
            length, distance = _find(
                index, head - offset, lookahead, offset, level, window, before, state
            )
        if skip > 0 and length >= _MIN_MATCH:
            tokens[used] = MATCH | (length - 3) << 16 | (distance - 1)
            used += 1
            inside = index + length if length <= skip else index
            _hash_inside(index + 1, inside, hashed_end, offset, window, heads, before)
            index += length
            block_end = index
        elif skip == 0 and last_length >= _MIN_MATCH and length <= last_length:
            tokens[used] = MATCH | (last_length - 3) << 16 | (last_distance - 1)
            used += 1
            inside = index + last_length - 1
            _hash_inside(index + 1, inside, hashed_end, offset, window, heads, before)
            index = block_end = inside
            has_byte = 0
            length = _MIN_MATCH - 1
        else:
            block_end = index
            if skip > 0 or has_byte:
                block_end = index + 1 if skip > 0 else index
                tokens[used] = window[block_end - 1]
                used += 1
            index += 1
            if skip == 0:
                has_byte = 1
        if used == BLOCK_TOKENS:
            _end_block(tokens, used, window, block_end, state, writer, out)
            used = 0
    if is_end:
        if has_byte:
            tokens[used] = window[index - 1]
            used += 1
        _end_block(tokens, used, window, index, state, writer, out)
        has_byte = used = 0
    state[HAS_BYTE], state[TOKENS] = has_byte, used
    state[LENGTH], state[DISTANCE], state[HEAD] = length, distance, head


@compiled
def _end_block(
    tokens: Ints, used: int, window: Bytes, end: int, state: Ints, writer: Ints, out: Bytes
) -> None:
    if used:
        write_block(tokens, used, window, state[BLOCK], end, writer, out)
        state[BLOCK] = end


@compiled
def _hash(window: Bytes, at: int) -> int:
    word = (
        np.int64(window[at]) << 24
        | np.int64(window[at + 1]) << 16
        | np.int64(window[at + 2]) << 8
        | np.int64(window[at + 3])
    )
    return int((word * _MULTIPLIER & 0xFFFFFFFF) >> _HASH_SHIFT)


@compiled
def _hash_inside(
    start: int, end: int, hashed_end: int, offset: int,
    window: Bytes, heads: SmallInts, before: SmallInts,
) -> None:  # fmt: skip
    for at in range(start, min(end, hashed_end)):
        key = _hash(window, at)
        before[at & WINDOW_BYTES - 1] = heads[key]
        heads[key] = at + offset


@compiled
def _find(
    index: int, candidate: int, lookahead: int, offset: int,
    level: Ints, window: Bytes, before: SmallInts, state: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Return the length and distance of the match at a position; 3 and 0 for none."""
    limit = min(_MAX_MATCH, lookahead)
    nice = min(level[NICE], limit)
    tries = level[CHAIN]
    length, distance = _MIN_MATCH - 1, 0
    least = index - WINDOW_BYTES
    last = window[index + length]
    compared = 0
    while tries > 0:
        tries -= 1
        if window[candidate + length] == last:
            same = 0
            while same < limit and window[candidate + same] == window[index + same]:
                same += 1
            compared += same
            if same > length and (same > _MIN_MATCH or index - candidate <= _FAR):
                length, distance = same, index - candidate
                if same >= nice:
                    break
                last = window[index + same]
        compared += 1
        if candidate == least:
            break
        candidate = before[candidate & WINDOW_BYTES - 1] - offset
        if candidate < least or candidate < 0:
            break
    state[WORK] += compared
    return length, distance


# -- level 1


@compiled
def write_fast(
    piece: Bytes, state: Ints, window: Bytes, keys: SmallInts, values: Ints, tokens: Ints,
    writer: Ints, out: Bytes,
) -> None:  # fmt: skip
    """Compress a piece of the stream in blocks of 65,535 bytes; what is no block yet waits.

    The first half of the window is the block before, the second half the one that is filled.
    """
    at = 0
    while at < len(piece):
        if state[END] == STORED_MAX_BYTES:
            encode_fast(state, window, keys, values, tokens, writer, out)
        end = state[END]
        count = min(len(piece) - at, STORED_MAX_BYTES - end)
        for of_piece in range(count):
            window[STORED_MAX_BYTES + end + of_piece] = piece[at + of_piece]
        at += count
        state[END] += count


@compiled
def encode_fast(
    state: Ints, window: Bytes, keys: SmallInts, values: Ints, tokens: Ints,
    writer: Ints, out: Bytes,
) -> None:  # fmt: skip
    """Turn the window's second half into a block."""
    end = state[END]
    used = 0
    if end >= _FAST_MATCHED_BYTES:
        used = _fast_tokens(state, window, keys, values, tokens)
    plain = window[STORED_MAX_BYTES : STORED_MAX_BYTES + end]
    if end < _FAST_MATCHED_BYTES or used > end - (end >> 4):
        used = end
        for at in range(end):
            tokens[at] = plain[at]
    if end > _FAST_STORED_BYTES:
        write_dynamic(tokens, used, plain, end, writer, out)
    elif end > 0:
        write_stored(plain, 0, end, writer, out)
    for at in range(end):
        window[at] = plain[at]
    state[END] = 0


@compiled
def _fast_tokens(state: Ints, window: Bytes, keys: SmallInts, values: Ints, tokens: Ints) -> int:
    if state[OFFSET] >= _FAST_RESET:
        for at in range(len(keys)):
            keys[at] = max(keys[at] - state[OFFSET] + WINDOW_BYTES + 1, 0)
        state[OFFSET] = WINDOW_BYTES + 1
    base = STORED_MAX_BYTES
    offset = state[OFFSET]
    size = state[END]
    limit = size - _FAST_MARGIN
    used = emitted = at = 0
    word = _word(window, base)
    key = _fast_hash(word)
    while True:
        skip = 32
        ahead = at
        candidate = 0
        while True:
            at = ahead
            step = skip >> 5
            ahead = at + step
            skip += step
            if ahead > limit:
                break
            candidate, value = keys[key] - offset, values[key]
            now = _word(window, base + ahead)
            keys[key], values[key] = at + offset, word
            key = _fast_hash(now)
            if at - candidate <= WINDOW_BYTES and word == value:
                break
            word = now
        if ahead > limit:
            break
        used = _literals(window, emitted, at, tokens, used)
        while True:
            at += 4
            length = _fast_length(window, at, candidate + 4, size)
            tokens[used] = MATCH | (length + 1) << 16 | (at - candidate - 5)
            used += 1
            at += length
            emitted = at
            if at >= limit:
                break
            word = _word(window, base + at - 1)
            key = _fast_hash(word)
            keys[key], values[key] = offset + at - 1, word
            word = _word(window, base + at)
            key = _fast_hash(word)
            candidate, value = keys[key] - offset, values[key]
            keys[key], values[key] = offset + at, word
            if at - candidate > WINDOW_BYTES or word != value:
                at += 1
                word = _word(window, base + at)
                key = _fast_hash(word)
                break
        if at >= limit and emitted == at:
            break
    used = _literals(window, emitted, size, tokens, used)
    state[OFFSET] = offset + size
    return used


@compiled
def _word(window: Bytes, at: int) -> int:
    return int(
        np.int64(window[at])
        | np.int64(window[at + 1]) << 8
        | np.int64(window[at + 2]) << 16
        | np.int64(window[at + 3]) << 24
    )


@compiled
def _fast_hash(word: int) -> int:
    return (word * _MULTIPLIER & 0xFFFFFFFF) >> _TABLE_SHIFT


@compiled
def _literals(window: Bytes, start: int, end: int, tokens: Ints, used: int) -> int:
    for at in range(start, end):
        tokens[used] = window[STORED_MAX_BYTES + at]
        used += 1
    return used


@compiled
def _fast_length(window: Bytes, at: int, candidate: int, size: int) -> int:
    """Return how many bytes from a position are those from a candidate, maybe a block before."""
    limit = min(at + _MAX_MATCH - 4, size) - at
    same = 0
    base = STORED_MAX_BYTES
    while same < limit and window[base + at + same] == window[base + candidate + same]:
        same += 1
    return same
