"""Traces: written line by line, read whole, and torn by whoever is killed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.digest import ChunkId
from layerstore.errors import FormatError
from layerstore.formats.trace import HEADER, decode_trace, encode_read

ids = st.lists(st.binary(min_size=32, max_size=32).map(ChunkId), max_size=20)


@given(ids)
def test_what_was_written_is_read_in_order_and_once(chunks):
    trace = HEADER + b"".join(map(encode_read, [*chunks, *chunks]))
    assert decode_trace(trace) == list(dict.fromkeys(chunks))


@given(ids, st.integers(1, 64))
def test_a_torn_last_line_is_passed_over(chunks, cut):
    trace = HEADER + b"".join(map(encode_read, [*chunks, ChunkId(bytes(32))]))
    assert decode_trace(trace[:-cut]) == list(dict.fromkeys(chunks))


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (b"", "does not begin"),
        (b"layerstore trace 2\n", "does not begin"),
        (HEADER + b"00" * 32 + b"\nnot hex\n", "line 3"),
        (HEADER + b"00" * 31 + b"\n", "line 2"),
        (HEADER + b"\xff" * 64 + b"\n", "line 2"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(trace, words):
    with pytest.raises(FormatError, match=words):
        decode_trace(trace)


@given(st.binary(max_size=200))
def test_nothing_else_comes_of_any_bytes(data):
    try:
        decode_trace(data)
        decode_trace(HEADER + data)
    except FormatError:
        pass
