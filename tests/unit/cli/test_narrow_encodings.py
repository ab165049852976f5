"""Streams whose encoding lacks what is drawn."""

from __future__ import annotations

import io

import pytest

from layerstore.cli.narrow_encodings import never_fail


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("ascii", "──█▏ │…", b"--## |."),
        ("latin-1", "caf\xe9 █", b"caf\xe9 #"),
        ("ascii", "\u4e2d", rb"\u4e2d"),
    ],
)
def test_something_is_written_for_every_character(encoding: str, text: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    never_fail(stream)
    stream.write(text)
    stream.flush()
    assert raw.getvalue() == written
