"""Huffman codes as Go's compress/flate chooses them: optimal under a limit of length.

Several optimal codes exist for most frequencies; which one decides about every byte. Source:
RFC 1951, 3.2.2, for the codes; the boundary package-merge algorithm (Katajainen, Moffat and
Turpin, 1995) as Go 1.19's compress/flate applies it, for their lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerstore.formats.goflate._compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

LENGTH_SHIFT = 16
"""A code is a number: its bits, the first one lowest, and above them how many they are."""
CODE_MASK = 0xFFFF
_NEVER = 0x7FFFFFFF
_LEVELS = 16


@compiled
def generate(freq: Ints, max_bits: int, codes: Ints) -> None:
    """Set the codes of all symbols from their frequencies; 0 for those that do not occur."""
    leaves = np.empty(len(freq) + 1, np.int64)
    count = 0
    for symbol in range(len(freq)):
        codes[symbol] = 0
        if freq[symbol] != 0:
            leaves[count] = freq[symbol] << 16 | symbol
            count += 1
    if count <= 2:
        for at in range(count):
            codes[leaves[at] & 0xFFFF] = 1 << LENGTH_SHIFT | at
        return
    _sort(leaves, count)
    last = count
    counts = _counts_of_lengths(leaves, count, max_bits)
    for length in range(1, len(counts)):
        for at in range(last - counts[length], last):
            codes[leaves[at] & 0xFFFF] = length << LENGTH_SHIFT
        last -= counts[length]
    _number(codes, counts)


@compiled
def bit_length(freq: Ints, codes: Ints) -> int:
    """Return how many bits the symbols take together, in these codes."""
    total = 0
    for symbol in range(len(freq)):
        total += freq[symbol] * (codes[symbol] >> LENGTH_SHIFT)
    return total


@compiled
def _sort(keys: Ints, count: int) -> None:
    """Sort the first keys, each of which is a frequency above its symbol (Shell, 1959)."""
    gap = count // 2
    while gap > 0:
        for at in range(gap, count):
            key = keys[at]
            to = at
            while to >= gap and keys[to - gap] > key:
                keys[to] = keys[to - gap]
                to -= gap
            keys[to] = key
        gap //= 2


@compiled
def _counts_of_lengths(leaves: Ints, count: int, max_bits: int) -> Ints:
    """Return how many codes of each length there are, from leaves sorted by frequency.

    Each level makes pairs of what the level below it has; ``taken[a, b]`` says how many leaves
    of level b lie below the pairs and leaves that level a has made. Nothing is made before a
    level above needs it.
    """
    top = min(max_bits, count - 1)
    freq = np.empty(count + 1, np.int64)
    for at in range(count):
        freq[at] = leaves[at] >> 16
    freq[count] = _NEVER
    taken = np.zeros((_LEVELS, _LEVELS), np.int64)
    made = np.zeros(_LEVELS + 1, np.int64)  # frequency of what a level made last
    next_leaf = np.zeros(_LEVELS + 1, np.int64)
    next_pair = np.zeros(_LEVELS + 1, np.int64)
    needed = np.zeros(_LEVELS + 1, np.int64)
    for level in range(1, top + 1):
        made[level] = freq[1]
        next_leaf[level] = freq[2]
        next_pair[level] = freq[0] + freq[1] if level > 1 else _NEVER
        taken[level, level] = 2
    needed[top] = 2 * count - 4
    level = top
    while True:
        if next_pair[level] == _NEVER and next_leaf[level] == _NEVER:
            needed[level] = 0
            next_pair[level + 1] = _NEVER
            level += 1
            continue
        before = made[level]
        if next_leaf[level] < next_pair[level]:
            made[level] = next_leaf[level]
            taken[level, level] += 1
            next_leaf[level] = freq[taken[level, level]]
        else:
            made[level] = next_pair[level]
            for below in range(level):
                taken[level, below] = taken[level - 1, below]
            needed[level - 1] = 2
        needed[level] -= 1
        if needed[level] == 0:
            if level == top:
                break
            next_pair[level + 1] = before + made[level]
            level += 1
        else:
            while needed[level - 1] > 0:
                level -= 1
    counts = np.zeros(top + 1, np.int64)
    for length in range(1, top + 1):
        level = top + 1 - length
        counts[length] = taken[top, level] - taken[top, level - 1]
    return counts


@compiled
def _number(codes: Ints, counts: Ints) -> None:
    """Give symbols of known length their bits: by length, and then by symbol."""
    first = np.zeros(len(counts), np.int64)
    code = 0
    for length in range(1, len(counts)):
        code <<= 1
        first[length] = code
        code += counts[length]
    for symbol in range(len(codes)):
        length = codes[symbol] >> LENGTH_SHIFT
        if length:
            plain = first[length]
            first[length] += 1
            bits = 0
            for _ in range(length):
                bits = bits << 1 | (plain & 1)
                plain >>= 1
            codes[symbol] |= bits
