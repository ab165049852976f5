"""The sidecar in docs/format/erofs.md is one that the code reads, and its table is the code's."""

import re
from pathlib import Path

from layerstore.formats import sidecar
from layerstore.formats.sidecar import Sidecar, decode_sidecar, encode_sidecar

PAGE = (Path(__file__).parents[3] / "docs" / "format" / "erofs.md").read_text()


def test_the_example_is_read():
    lines = re.findall(r"^    [0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", PAGE, re.MULTILINE)
    data = bytes.fromhex("".join(lines))
    expected = Sidecar(8192, bytes(range(32)), frozenset({b"\xaa" * 32, b"\x11" * 32}))
    assert decode_sidecar(data) == expected
    assert encode_sidecar(*expected) == data


def test_the_table_is_the_structs():
    rows = re.findall(r"^\| (\d+) \| (\d+) \|", PAGE.split("## Sidecar")[1], re.MULTILINE)
    end = 0
    for offset, size in rows:
        assert int(offset) == end
        end += int(size)
    assert end == sidecar._HEAD.size
