from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.chunking.cutter import (
    DEFAULT_CUTS,
    SourceEndedError,
    cut_stream,
)
from tests.support.cuts import cut_lengths

WHOLE_MAX_BYTES = DEFAULT_CUTS.whole_max_bytes

SIZES = st.one_of(
    st.integers(0, 4096),
    st.integers(WHOLE_MAX_BYTES - 2, WHOLE_MAX_BYTES + 2),
    st.integers(0, 9 * 1024 * 1024),
)


def content(seed: int, size: int) -> bytes:
    """Random bytes with a run of zeros, which never cuts, inside."""
    source = random.Random(seed)
    zeros = source.randrange(0, size + 1) // 3
    start = source.randrange(0, size - zeros + 1)
    return source.randbytes(start) + bytes(zeros) + source.randbytes(size - zeros - start)


def reader(data: bytes, steps: random.Random, largest: int):
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        part = data[position : position + min(count, steps.randint(1, largest))]
        position += len(part)
        return part

    return read


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), SIZES, st.sampled_from([1000, 65_536, 1 << 24]))
def test_cuts_join_to_the_input_whatever_the_reads(seed: int, size: int, largest: int) -> None:
    data = content(seed, size)
    steps = random.Random(seed)
    parts = [bytes(part) for part in cut_stream(reader(data, steps, largest), size, DEFAULT_CUTS)]
    assert b"".join(parts) == data
    assert [len(part) for part in parts] == cut_lengths(data, DEFAULT_CUTS)
    if size <= WHOLE_MAX_BYTES:
        assert len(parts) == (size > 0)
    else:
        assert all(
            DEFAULT_CUTS.min_bytes <= len(part) <= DEFAULT_CUTS.max_bytes for part in parts[:-1]
        )
        assert 0 < len(parts[-1]) <= DEFAULT_CUTS.max_bytes


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4_000_000), st.integers(1, 1000))
def test_an_insertion_disturbs_few_chunks(seed: int, position: int, length: int) -> None:
    data = random.Random(seed).randbytes(4_000_000)
    changed = data[:position] + random.Random(seed + 1).randbytes(length) + data[position:]

    def chunks(whole: bytes) -> set[bytes]:
        read = reader(whole, random.Random(0), 1 << 24)
        return {bytes(part) for part in cut_stream(read, len(whole), DEFAULT_CUTS)}

    assert len(chunks(changed) - chunks(data)) <= 6


def test_a_short_source_is_told() -> None:
    for size in (10, WHOLE_MAX_BYTES + 10, 6_000_000):
        with pytest.raises(SourceEndedError) as caught:
            list(cut_stream(reader(bytes(size - 3), random.Random(1), 4096), size, DEFAULT_CUTS))
        assert caught.value.missing == 3
