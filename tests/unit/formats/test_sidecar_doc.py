"""The sidecar in docs/format/erofs.md is one that the code reads, and its table is the code's."""

import re
from pathlib import Path

from layerstore.formats import erofs, erofs_packs, sidecar
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


def test_numbers_of_pack_images_are_those_of_the_code():
    section = PAGE.split("## Images of packs")[1].split("## Sidecar")[0]
    rows = dict(re.findall(r"^\| (\d+) \| \d+ \| \w+ \| (\w+) \|", section, re.MULTILINE))
    assert rows["112"] == "rootnid_8b"
    assert f"`{erofs._INCOMPAT_BACKED:#x}`" in section
    assert f"| available_compr_algs | {1 << erofs.ZSTD}:" in section
    assert f"| devt_slotoff | {erofs._DEVICE_OFFSET // erofs._DEVICE.size} |" in section
    assert f"At {erofs._DEVICE_OFFSET} lies the slot" in section
    assert f"{erofs.DEVICE_BLOCK:,} as u32" in section
    assert f"{erofs_packs.FRAME_MAX_BYTES:,} bytes" in section
    assert f"`{sidecar.PACK_MAGIC.decode().rstrip(chr(0))}\\0`" in section
    assert f"and {sidecar._SEEN.size} bytes between" in section
